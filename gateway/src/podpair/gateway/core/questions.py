"""When two requests ask the same: of the same versions of a model, with the same input, in the same subject's scope.

Invariant: requests that the model, or the permissions of who asks, could tell apart are different questions; requests whose
answer depends on what was asked before (sequences) are none. Differences that mean nothing (1.0 and 1.00) only cost a hit.
"""

from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from podpair.gateway.core.request import InferenceRequest, shorthand_of

_names = msgspec.json.Decoder(dict[str, Any])
_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")
_STATED = b"%d:%b%d:%b%d:%b%d:%b"  # netstrings: no two lists of texts have the same


class Question(NamedTuple):
    """What was asked. Equal questions have the same answer."""

    scope: bytes  # of the subject; empty: everybody's
    digest: bytes  # of the input
    serving: bytes  # the versions that may answer, and what chooses among several


def digest_of(request: InferenceRequest) -> bytes | None:
    """Return the digest of what is asked of the model; None if its answer depends on more than that."""
    inputs, data, parameters = request.inputs, request.data, request.parameters
    try:
        if request.row is not None:
            data = shorthand_of(request)
        elif data:
            data = _without_space(data)
        if inputs:
            inputs = _without_space(inputs)
        if parameters:
            if is_in_sequence(parameters):
                return None
            parameters = _without_space(parameters)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    model = request.model.encode()
    stated = _STATED % (len(model), model, len(inputs), inputs, len(data), data, len(parameters), parameters)
    return blake2b(stated, digest_size=32).digest()


def _without_space(text: bytes) -> bytes:
    return msgspec.json.format(text, indent=-1)


def is_in_sequence(parameters: bytes) -> bool:
    """Return whether parameters in JSON name a sequence, or can't be read."""
    try:
        named = _names.decode(parameters)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return any(name in named for name in _SEQUENCES)


def scope_of(subject: str, key: str, *, shared: bool) -> bytes | None:
    """Return the scope of who asks: his subject, or the session whose subject isn't known; None if neither is."""
    if shared:
        return b""
    if subject:
        return b"u" + subject.encode()
    return b"s" + key.encode() if key else None


def serving_of(versions: tuple[str, ...], key: str) -> bytes:
    """Return what decides which version answers: of several it is the sticky-routing key."""
    if len(versions) == 1:
        return versions[0].encode()
    return "\0".join((*versions, key)).encode() if versions else b""
