"""What a record of the invalidation topic takes out of the cache.

Invariant: whatever can't be understood takes everything: an answer too few costs a call to the model, one too many is stale.
"""

from typing import NamedTuple

import msgspec

from podpair.gateway.core.cloud_events import Headers, InvalidCloudEvent, in_binary_mode_if_any

_ALL = "*"


class Invalidation(NamedTuple):
    """Which answers count no more. `model` None: those of all models; `subject` None: those of all subjects."""

    model: str | None = None
    subject: str | None = None


class InvalidInvalidation(ValueError):
    """The record does not say what it invalidates."""


class _Value(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    subject: str | None = None


_decoder = msgspec.json.Decoder(_Value)


def decode_invalidation(value: bytes | None, headers: Headers | None) -> Invalidation:
    """Read a record. Raises InvalidInvalidation, saying what is wrong: then everything counts as invalidated."""
    try:
        value, _ = in_binary_mode_if_any(value, headers)
        said = _decoder.decode(value or b"")
    except (InvalidCloudEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInvalidation(str(error)) from None
    if said.subject == "":
        raise InvalidInvalidation("`subject` is empty")
    return Invalidation(None if said.model == _ALL else said.model, said.subject)


def encode_invalidation(invalidation: Invalidation) -> bytes:
    """Encode the value of a record."""
    said = {"model": invalidation.model or _ALL, "subject": invalidation.subject}
    return msgspec.json.encode({name: value for name, value in said.items() if value is not None})
