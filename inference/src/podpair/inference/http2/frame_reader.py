"""Reads a client's frames (RFC 9113, 4 and 6): finds them in what comes, checks their form, and puts header blocks together.

Invariant: a frame is passed on once, whole and in order; nothing follows one that is malformed, for its connection ends.
"""

from collections.abc import Callable, Iterable
from struct import iter_unpack
from typing import Any, Protocol

from podpair.inference.http2 import frames
from podpair.inference.http2.frames import ConnectionFault, ErrorCode, Setting
from podpair.inference.http2.header_blocks import LARGEST_BLOCK, BlockDecoder

# What a stream's first window takes.
LARGEST_FRAME = frames.DEFAULT_WINDOW
_WITH_MORE = frames.PADDED | frames.WITH_PRIORITY


class FrameHandler(Protocol):
    """What is done about frames. Each of these may raise ConnectionFault."""

    def on_greeting(self) -> None:
        """Hear that the client speaks HTTP/2."""
        ...

    def on_data(self, number: int, flags: int, payload: memoryview) -> None:
        """Take a DATA frame, with its padding."""
        ...

    def on_head(self, number: int, head: Any, ended: bool) -> None:
        """Take a request's head, or its trailers."""
        ...

    def on_reset(self, number: int) -> None:
        """End a stream."""
        ...

    def on_settings(self, values: Iterable[tuple[int, int]]) -> None:
        """Take what the client has set."""
        ...

    def on_ping(self, payload: bytes, answered: bool) -> None:
        """Answer a ping; answered: it is the answer to one of ours."""
        ...

    def on_window_update(self, number: int, size: int) -> None:
        """Open a window; size: 0 breaks the protocol."""
        ...

    def on_empty_frame(self) -> None:
        """Count a frame that carries nothing."""
        ...


class FrameReader:
    """Reads one connection. parse: makes of a header block's fields what `on_head` is given."""

    def __init__(self, handler: FrameHandler, parse: Callable[[Iterable[tuple[bytes, bytes]]], Any]) -> None:
        self._handler = handler
        self._blocks: BlockDecoder[Any] = BlockDecoder(parse)
        self._rest = b""
        self._greeted = False
        # Of a header block that goes on in further frames: its stream, the flags of its first frame, and what is there of it.
        self._block: tuple[int, int, bytearray] | None = None

    def feed(self, data: bytes) -> None:
        """Handle the frames that are whole; the rest waits for more. Raises ConnectionFault."""
        if self._rest:
            data = self._rest + data
        self._rest = data[self._read(data) :]

    def _read(self, data: bytes) -> int:
        position, size, view = 0, len(data), memoryview(data)
        if not self._greeted:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is HTTP/2 with prior knowledge")
            if size < len(frames.PREFACE):
                return 0
            self._greeted, position = True, len(frames.PREFACE)
            self._handler.on_greeting()
        on_data = self._handler.on_data
        while size - position >= frames.HEAD_BYTES:
            upper, lower, kind, flags, number = frames.HEAD.unpack_from(data, position)
            length = upper << 8 | lower
            if length > LARGEST_FRAME:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start = position + frames.HEAD_BYTES
            if start + length > size:
                break
            position = start + length
            number &= frames.LARGEST_WINDOW
            if self._block is not None and (kind != frames.CONTINUATION or number != self._block[0]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
            if kind == frames.DATA:
                on_data(number, flags, view[start:position])
            elif kind == frames.HEADERS:
                self._on_headers(flags, number, view[start:position])
            elif (handle := _HANDLERS.get(kind)) is not None:
                handle(self, flags, number, data[start:position])
        return position

    def _on_headers(self, flags: int, number: int, payload: memoryview) -> None:
        if flags & _WITH_MORE:
            payload = frames.without_priority(frames.unpadded(payload, flags), flags)
        if not number % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a request on stream {number}")
        if flags & frames.END_HEADERS:
            self._handler.on_head(number, self._blocks.decode(bytes(payload)), bool(flags & frames.END_STREAM))
        else:
            self._block = number, flags, bytearray(payload)

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is continued that did not begin")
        if not payload:
            self._handler.on_empty_frame()
        _, first, block = self._block
        block += payload
        if len(block) > LARGEST_BLOCK:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._handler.on_head(number, self._blocks.decode(bytes(block)), bool(first & frames.END_STREAM))

    def _on_priority(self, flags: int, number: int, payload: bytes) -> None:
        """Check its form only: priorities are deprecated (5.3.2)."""
        _of_a_stream(number)
        _has_size(payload, 5)
        self._handler.on_empty_frame()

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        _of_a_stream(number)
        _has_size(payload, 4)
        self._handler.on_reset(number)

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        _of_the_connection(number)
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes")
        if flags & frames.ACK:
            return
        values = list(iter_unpack(">HL", payload))
        for name, value in values:
            if name == Setting.INITIAL_WINDOW_SIZE and value > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            if name == Setting.MAX_FRAME_SIZE and not frames.SMALLEST_FRAME <= value <= frames.LARGEST_FRAME:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
            if name == Setting.ENABLE_PUSH and value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "pushes are enabled or not")
        self._handler.on_settings(values)

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client can't push")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        _of_the_connection(number)
        _has_size(payload, 8)
        self._handler.on_ping(payload, bool(flags & frames.ACK))

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        """Ignore it: a client that leaves closes when it has its answers."""
        _of_the_connection(number)
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY frame is cut short")

    def _on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        _has_size(payload, 4)
        self._handler.on_window_update(number, int.from_bytes(payload, "big") & frames.LARGEST_WINDOW)


def _of_a_stream(number: int) -> None:
    if not number:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame of the connection that belongs to a stream")


def _of_the_connection(number: int) -> None:
    if number:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that belongs to the connection")


def _has_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {len(payload)} bytes has to have {size}")


_HANDLERS = {
    frames.PRIORITY: FrameReader._on_priority,
    frames.RST_STREAM: FrameReader._on_reset,
    frames.SETTINGS: FrameReader._on_settings,
    frames.PUSH_PROMISE: FrameReader._on_push,
    frames.PING: FrameReader._on_ping,
    frames.GOAWAY: FrameReader._on_goaway,
    frames.WINDOW_UPDATE: FrameReader._on_window_update,
    frames.CONTINUATION: FrameReader._on_continuation,
}
