"""NaN and infinity in JSON, which has no numbers for them: the strings "NaN", "Infinity" and "-Infinity".

That is what podpair's container answers and takes in V2's JSON, and what Triton's and KServe's clients read as these numbers. A
server may write bare tokens instead (Triton does), which no JSON parser of a browser takes.
"""

import math
import re
from typing import Any

import msgspec

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# A string, which is passed over (also one that doesn't end), or a token.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.?)*+(?:"|\Z)|-?\bInfinity\b|\bNaN\b', re.DOTALL)
_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """Encode numbers, texts, and lists or dicts of them as JSON."""
    text = _encode(value)
    # What msgspec makes of NaN and infinity: to look for it costs less than to look at the numbers.
    return _encode(_named(value)) if b"null" in text else text


def decode(decoder: "msgspec.json.Decoder[Any]", text: bytes) -> Any:
    """Decode JSON, or JSON with bare tokens. Raises msgspec.DecodeError, UnicodeDecodeError."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if b"NaN" not in text and b"Infinity" not in text:
            raise
    return decoder.decode(_TOKENS.sub(lambda found: found[0] if found[0][:1] == b'"' else b'"%b"' % found[0], text))


def numbers(values: list[Any]) -> list[Any]:
    """Return flat elements, with the numbers that names stand for."""
    return [_NUMBERS.get(value, value) if isinstance(value, str) else value for value in values]


def _named(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    if isinstance(value, dict):
        return {name: _named(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
