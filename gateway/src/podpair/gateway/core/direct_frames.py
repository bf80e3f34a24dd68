"""Encodes the answers of direct requests for a WebSocket, all in one piece: what `records` and `frames` make of each event."""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from podpair.gateway.core.frames import text_frame_header

_encode = msgspec.json.Encoder().encode
_ACCEPTED, _ROUTE, _RESULT = b'{"type":"accepted","id":', b',"route":"direct"}', b',"type":"result","id":'
_SIZES, _LENGTHS = 64, 1024
_AROUND = len(b"{%b}" % _RESULT)  # bytes of a result beside its members and its id

# What stands before an id of so many bytes, and between the two events if the result has so many: others are longer.
_BEFORE = [text_frame_header(len(_ACCEPTED) + size + len(_ROUTE)) + _ACCEPTED for size in range(_SIZES)]
_BETWEEN = [b"%b%b{" % (_ROUTE, text_frame_header(size)) for size in range(_LENGTHS)]


class Answered(Protocol):
    """A request that has a result."""

    id: str
    accepted: bool  # its client has the `accepted` event


def direct_frames(answered: Iterable[tuple[Answered, bytes]]) -> bytes:
    """Encode a `result` for each request, behind its `accepted` unless the client has that. Each result is given by its members,
    without braces.
    """
    parts: list[bytes] = []
    for request, members in answered:
        quoted = _encode(request.id)
        size = len(quoted)
        length = len(members) + size + _AROUND
        if request.accepted:
            parts += (text_frame_header(length), b"{", members, _RESULT, quoted, b"}")
        elif size < _SIZES and length < _LENGTHS:
            parts += (_BEFORE[size], quoted, _BETWEEN[length], members, _RESULT, quoted, b"}")
        else:
            parts += (text_frame_header(len(_ACCEPTED) + size + len(_ROUTE)), _ACCEPTED, quoted, _ROUTE)
            parts += (text_frame_header(length), b"{", members, _RESULT, quoted, b"}")
    return b"".join(parts)
