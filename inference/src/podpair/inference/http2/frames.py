"""HTTP/2's frames (RFC 9113, 4 and 6): their names, their heads, and those that a server sends about a connection."""

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">HBBBL")
"""Upper 16 and lower 8 bits of a payload's length, kind, flags, stream."""
HEAD_BYTES = 9
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
SMALLEST_FRAME, LARGEST_FRAME = 2**14, 2**24 - 1
"""Bounds of what a peer may set as the largest payload."""
DEFAULT_TABLE = 4096
"""Bytes of a peer's table of header fields until it says otherwise."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_PRIORITY_BYTES = 5


class Setting(IntEnum):
    """What a peer may set (6.5.2), of which the others don't concern a server that never pushes."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ended (7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """The peer broke the protocol, so that the connection must end (5.4.1)."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", name, value) for name, value in values.items()))


def window_update(stream: int, size: int) -> bytes:
    """Return a frame that lets the peer send `size` bytes more, on a stream or (0) on the connection."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def field_block(stream: int, block: bytes, largest: int, *, ended: bool) -> bytes:
    """Return a HEADERS frame, with CONTINUATION frames if the block has more bytes than the peer takes in one (6.10)."""
    flags = END_STREAM if ended else 0
    if len(block) <= largest:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + largest] for at in range(0, len(block), largest)]
    between = [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    return b"".join(
        (frame(HEADERS, flags, stream, pieces[0]), *between, frame(CONTINUATION, END_HEADERS, stream, pieces[-1]))
    )


def reset(stream: int, code: ErrorCode) -> bytes:
    """Return a frame that ends a stream."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: ErrorCode, why: str = "") -> bytes:
    """Return a frame that ends a connection, on which streams up to `last` were begun."""
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last, code) + why.encode())


def unpadded(payload: memoryview, flags: int) -> memoryview:
    """Return a payload without its padding (6.1). Raises ConnectionFault."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def without_priority(payload: memoryview, flags: int) -> memoryview:
    """Return the payload of a HEADERS frame without its priority, which is deprecated (6.2). Raises ConnectionFault."""
    if not flags & WITH_PRIORITY:
        return payload
    if len(payload) < _PRIORITY_BYTES:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a priority is cut short")
    return payload[_PRIORITY_BYTES:]
