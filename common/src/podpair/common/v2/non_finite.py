"""NaN and infinity in JSON, which has no numbers for them.

They are answered as the strings "NaN", "Infinity" and "-Infinity": the one form that is JSON and that tritonclient's and
KServe's clients both read back exactly (measured with tritonclient 2.73.0 and kserve 0.21.0: bare tokens fail the whole answer in
KServe's, null is NaN in both, whatever it was). It is protobuf's form, too.

podpair's container takes these strings, the bare tokens that tritonclient and Python's json send, and null, which is NaN:
KServe's client sends null for all three. The gateway takes the bare tokens of other servers, too (Triton answers so), and passes
strings on: no JSON parser of a browser takes the tokens.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec

_T = TypeVar("_T")

# As JSON strings.
Name = Literal["NaN", "Infinity", "-Infinity"]

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# A string, which is passed over (also one that doesn't end), or a token.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.?)*+(?:"|\Z)|-?\bInfinity\b|\bNaN\b', re.DOTALL)
_encode = msgspec.json.Encoder().encode


def quoted(text: bytes | bytearray | memoryview) -> bytes | None:
    """Rewrite JSON with bare tokens as JSON with strings; None if there are none."""
    text = bytes(text)
    if b"NaN" not in text and b"Infinity" not in text:
        return None
    return _TOKENS.sub(lambda found: found[0] if found[0][:1] == b'"' else b'"%b"' % found[0], text)


def decode(decoder: msgspec.json.Decoder[_T], text: bytes | bytearray | memoryview) -> _T:
    """Decode JSON, or JSON with bare tokens. Raises msgspec.DecodeError, UnicodeDecodeError."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        again = quoted(text)
        if again is None:
            raise
        return decoder.decode(again)


def named(values: Sequence[Any]) -> list[Any]:
    """Replace floats that aren't finite in a flat list by their names."""
    return [_name(value) if isinstance(value, float) and not math.isfinite(value) else value for value in values]


def numbers(values: Sequence[Any]) -> list[Any]:
    """Return a flat list of elements, with the numbers that names stand for: the reverse of `named`."""
    return [_NUMBERS.get(value, value) if isinstance(value, str) else value for value in values]


def encode(value: Any) -> bytes:
    """Encode numbers, texts, and lists or dicts of them as JSON."""
    text = _encode(value)
    # What msgspec makes of NaN and infinity: to look for it costs less than to look at the numbers.
    return _encode(_named(value)) if b"null" in text else text


def _named(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    if isinstance(value, dict):
        return {name: _named(item) for name, item in value.items()}
    return _name(value) if isinstance(value, float) and not math.isfinite(value) else value


def _name(value: float) -> Name:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
