"""One connection of a client (RFC 9113): reads frames, keeps both sides' windows, and joins what a turn of the loop writes.

Invariants: a stream's data is passed on in order and once; a client is sent no more data than its windows take; what one that
takes nothing is owed is bounded by what it asked before, for it isn't read until then. A stream is known until both sides have
ended it; what comes for one that has ended is counted for the connection's window, and else ignored.
"""

import asyncio
from collections.abc import Iterable
from struct import unpack
from typing import Any, Protocol

from podpair.inference.http2 import frames
from podpair.inference.http2.frames import ConnectionFault, ErrorCode, Setting
from podpair.inference.http2.header_blocks import LARGEST_FIELDS, BlockDecoder

MOST_STREAMS = 4096
_LARGEST_FRAME = 65_536
# The connection's window, refilled once half of it is used: each stream's own bounds what it holds.
_WINDOW = 1 << 30
_PREFACE_SECONDS, _PARTING_SECONDS = 20.0, 1.0
# Resets, pings and settings of a client that are borne in so many seconds, beyond two for each request that it let end.
_BORNE, _BORNE_SECONDS = 1000, 10.0
_SETTINGS = frames.settings(
    {
        Setting.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
        Setting.MAX_FRAME_SIZE: _LARGEST_FRAME,
        Setting.MAX_HEADER_LIST_SIZE: LARGEST_FIELDS,
    }
) + frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)


class Stream(Protocol):
    """One request on a connection."""

    send_window: int
    """Bytes that the client takes of it yet."""
    receive_window: int
    """Bytes that the client may send yet."""

    def on_data(self, data: memoryview, ended: bool) -> None:
        """Take what came of its body; ended: that was all."""
        ...

    def on_window(self) -> None:
        """Go on sending: a window has opened."""
        ...

    def on_reset(self) -> None:
        """End: the client has given it up, or has gone."""
        ...


class StreamServer(Protocol):
    """What connections belong to."""

    def on_connected(self, connection: "Connection") -> None:
        """Hear of a connection."""
        ...

    def on_disconnected(self, connection: "Connection") -> None:
        """Hear that a connection has ended, its streams with it."""
        ...

    def parse(self, fields: Iterable[tuple[bytes, bytes]]) -> Any:
        """Return what is wanted of a request's header fields."""
        ...

    def open(self, connection: "Connection", stream: int, head: Any, ended: bool) -> None:
        """Begin a request: add it to the connection's streams, or answer it. head: what `parse` returned."""
        ...


class Connection(asyncio.Protocol):
    """A client's connection; all in the loop's thread."""

    def __init__(self, server: StreamServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._rest = b""
        self._greeted = False
        self._blocks: BlockDecoder[Any] = BlockDecoder(server.parse)
        # Of a header block that goes on in further frames: its stream, the flags of its first frame, and what is there of it.
        self._block: tuple[int, int, bytearray] | None = None
        self.streams: dict[int, Stream] = {}
        self._last = 0
        self._received = 0
        self._borne, self._borne_since = _BORNE, self._loop.time()
        # What the client takes: on the connection, on each new stream, and in a frame.
        self.send_window = frames.DEFAULT_WINDOW
        self.initial_window = frames.DEFAULT_WINDOW
        self.largest_frame = frames.SMALLEST_FRAME
        # Streams that wait for a window, as they came.
        self.blocked: dict[int, Stream] = {}
        self._out: list[bytes] = []
        self._reading = self._flushing = self._paused = self._failed = False
        self.leaving = False

    # The transport's.

    def connection_made(self, transport: Any) -> None:
        """Say what the client may send."""
        self._transport = transport
        transport.write(_SETTINGS)
        self._timer = self._loop.call_later(_PREFACE_SECONDS, transport.abort)
        self._server.on_connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what the client waited for."""
        self._timer.cancel()
        self.leaving = True
        self._give_up()
        self._server.on_disconnected(self)

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are whole; the rest waits for more."""
        if self._failed:
            return
        if self._rest:
            data = self._rest + data
        self._reading = True
        try:
            self._rest = data[self._read(data) :]
        except ConnectionFault as fault:
            self.fail(fault)
        finally:
            self._reading = False
        self._flush()

    def eof_received(self) -> None:
        """Close: a client that sends no more takes no more."""

    def pause_writing(self) -> None:
        """Read no more of a client that doesn't take its answers."""
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        self._transport.resume_reading()
        self._open_windows()

    # What streams send.

    def write(self, data: bytes) -> None:
        """Send frames, together with what else this turn of the loop sends."""
        self._out.append(data)
        if not (self._reading or self._flushing):
            self._flushing = True
            self._loop.call_soon(self._flush)

    def room(self, stream: Stream) -> int:
        """Return how many bytes of data a stream may send now."""
        return 0 if self._paused else min(self.send_window, stream.send_window)

    def end(self, number: int, *, reset: ErrorCode | None = None) -> None:
        """Forget a stream that is sent to its end; reset: why, if the client's side has not ended or nothing else was sent."""
        self.blocked.pop(number, None)
        if self.streams.pop(number, None) is not None:
            self._borne += 2
            if reset is not None:
                self.write(frames.reset(number, reset))

    def extend(self, number: int, stream: Stream, size: int) -> None:
        """Let the client send `size` bytes more of a stream."""
        stream.receive_window += size
        self.write(frames.window_update(number, size))

    def fail(self, fault: ConnectionFault) -> None:
        """End the connection, and say why. What still comes is read and dropped: TCP would else drop what was said."""
        self.leaving = self._failed = True
        self._rest = b""
        self._give_up()
        self._transport.write(b"".join((*self._out, frames.goaway(self._last, fault.code, str(fault)))))
        self._out.clear()
        self._transport.write_eof()
        self._timer.cancel()
        self._timer = self._loop.call_later(_PARTING_SECONDS, self._transport.abort)

    def _give_up(self) -> None:
        streams, self.streams = self.streams, {}
        self.blocked.clear()
        for stream in streams.values():
            stream.on_reset()

    def leave(self) -> None:
        """Take no more requests; close once the present ones have ended."""
        if not self.leaving:
            self.leaving = True
            self.write(frames.goaway(self._last, ErrorCode.NO_ERROR))
        if not self.streams:
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _flush(self) -> None:
        self._flushing = False
        out = self._out
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self.leaving and not (self.streams or self._failed):
            self._transport.close()

    # Frames.

    def _read(self, data: bytes) -> int:
        """Handle the whole frames of `data`; return how many bytes they have. Raises ConnectionFault."""
        position, size, view = 0, len(data), memoryview(data)
        if not self._greeted:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is HTTP/2 with prior knowledge")
            if size < len(frames.PREFACE):
                return 0
            self._greeted, position = True, len(frames.PREFACE)
            self._timer.cancel()
        while size - position >= frames.HEAD_BYTES:
            upper, lower, kind, flags, number = frames.HEAD.unpack_from(data, position)
            length = upper << 8 | lower
            if length > _LARGEST_FRAME:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start = position + frames.HEAD_BYTES
            if start + length > size:
                break
            position = start + length
            number &= frames.LARGEST_WINDOW
            if self._block is not None and (kind != frames.CONTINUATION or number != self._block[0]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
            if kind == frames.DATA:
                self._on_data(flags, number, view[start:position])
            elif kind == frames.HEADERS:
                self._on_headers(flags, number, view[start:position])
            elif (handle := _HANDLERS.get(kind)) is not None:
                handle(self, flags, number, data[start:position])
        return position

    def _on_data(self, flags: int, number: int, payload: memoryview) -> None:
        self._received += len(payload)
        if self._received > _WINDOW // 2:
            self.write(frames.window_update(0, self._received))
            self._received = 0
        stream = self.streams.get(number)
        if stream is None:
            if number == 0 or number > self._last:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "data without a request")
            return
        stream.receive_window -= len(payload)
        if stream.receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window has")
        stream.on_data(frames.unpadded(payload, flags), bool(flags & frames.END_STREAM))

    def _on_headers(self, flags: int, number: int, payload: memoryview) -> None:
        payload = frames.unpadded(payload, flags)
        if flags & frames.WITH_PRIORITY:
            payload = payload[5:]
        if not number % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a request on stream {number}")
        if flags & frames.END_HEADERS:
            self._on_block(number, flags, bytes(payload))
        else:
            self._block = number, flags, bytearray(payload)

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is continued that did not begin")
        _, first, block = self._block
        block += payload
        if len(block) > LARGEST_FIELDS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(number, first, bytes(block))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        head = self._blocks.decode(block)
        ended = bool(flags & frames.END_STREAM)
        if number <= self._last:
            # Trailers, of which gRPC's clients send none; of a stream that is gone they may be late.
            if ended and (stream := self.streams.get(number)) is not None:
                stream.on_data(memoryview(b""), True)
            return
        self._last = number
        if self.leaving or len(self.streams) >= MOST_STREAMS:
            self.write(frames.reset(number, ErrorCode.REFUSED_STREAM))
        else:
            self._server.open(self, number, head, ended)

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a reset is four bytes")
        if number == 0 or number > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a reset without a request")
        self._bear()
        self.blocked.pop(number, None)
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.on_reset()

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "settings of a wrong size, or of a stream")
        if flags & frames.ACK:
            return
        self._bear()
        for position in range(0, len(payload), 6):
            name, value = unpack(">HL", payload[position : position + 6])
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
                for stream in self.streams.values():
                    stream.send_window += value - self.initial_window
                self.initial_window = value
            elif name == Setting.MAX_FRAME_SIZE:
                if not frames.SMALLEST_FRAME <= value <= frames.LARGEST_FRAME:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
                self.largest_frame = value
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._open_windows()

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 8 or number:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a ping is eight bytes")
        if not flags & frames.ACK:
            self._bear()
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        """Ignore it: a client that leaves closes when it has its answers."""

    def _on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        size = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        if len(payload) != 4 or not size:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window opens by nothing")
        if number == 0:
            self.send_window += size
            window = self.send_window
        elif (stream := self.streams.get(number)) is not None:
            stream.send_window += size
            window = stream.send_window
        else:
            return
        if window > frames.LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
        self._open_windows()

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client can't push")

    def _bear(self) -> None:
        """Count what costs a client nothing and us work. Raises ConnectionFault."""
        self._borne -= 1
        if self._borne < 0:
            now = self._loop.time()
            if now - self._borne_since < _BORNE_SECONDS:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many resets, pings or settings")
            self._borne, self._borne_since = _BORNE, now

    def _open_windows(self) -> None:
        """Let streams go on that wait for a window."""
        if self.blocked and not self._paused and self.send_window > 0:
            for stream in list(self.blocked.values()):
                stream.on_window()


_HANDLERS = {
    frames.RST_STREAM: Connection._on_reset,
    frames.SETTINGS: Connection._on_settings,
    frames.PUSH_PROMISE: Connection._on_push,
    frames.PING: Connection._on_ping,
    frames.GOAWAY: Connection._on_goaway,
    frames.WINDOW_UPDATE: Connection._on_window_update,
    frames.CONTINUATION: Connection._on_continuation,
}
