"""One connection of a client (RFC 9113): its streams, both sides' windows, and what a turn of the loop writes, in one piece.

Invariants: a stream's data is passed on in order and once; a client is sent no more data than its windows take; what one that
takes nothing is owed is bounded by what it asked before, for it isn't read until then. A stream is known until both sides have
ended it; what comes for one that has ended is counted for the connection's window, and else ignored. A failing stream harms
no other.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from podpair.inference.http2 import frames
from podpair.inference.http2.flood_guard import FloodGuard
from podpair.inference.http2.frame_reader import LARGEST_FRAME, FrameReader
from podpair.inference.http2.frames import ConnectionFault, ErrorCode, Setting
from podpair.inference.http2.header_blocks import EMPTY_TABLE, LARGEST_FIELDS
from podpair.inference.http2.keepalive import keep_alive
from podpair.inference.http2.stream import RequestHead, Stream

log = logging.getLogger(__name__)

MOST_STREAMS = 4096
# The connection's window, refilled once half of it is used: each stream's own bounds what it holds.
_WINDOW = 1 << 30
_PREFACE_SECONDS, _PARTING_SECONDS = 20.0, 1.0
# A ping whose answer says that the client knows of our leaving.
_PARTING = b"leaving."
_SETTINGS = frames.settings(
    {
        Setting.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
        Setting.MAX_FRAME_SIZE: LARGEST_FRAME,
        Setting.MAX_HEADER_LIST_SIZE: LARGEST_FIELDS,
    }
) + frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)


class StreamServer(Protocol):
    """What connections belong to."""

    def on_connected(self, connection: "Connection") -> None:
        """Hear of a connection."""
        ...

    def on_disconnected(self, connection: "Connection") -> None:
        """Hear that a connection has ended, its streams with it."""
        ...

    def parse(self, fields: Iterable[tuple[bytes, bytes]]) -> RequestHead:
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
        self._reader = FrameReader(self, server.parse)
        self._guard = FloodGuard(self._loop.time)
        self.streams: dict[int, Stream] = {}
        self._last = 0
        self._received = 0
        # What the client takes: on the connection, on each new stream, and in a frame.
        self.send_window = frames.DEFAULT_WINDOW
        self.initial_window = frames.DEFAULT_WINDOW
        self.largest_frame = frames.SMALLEST_FRAME
        # What the next header block has to begin with.
        self.before_block = b""
        self._table_is_empty = False
        # Streams with data that wait for the connection's window or for the transport, as they came.
        self._blocked: OrderedDict[int, Stream] = OrderedDict()
        self._out: list[bytes] = []
        self._reading = self._flushing = self._paused = False
        # What is done if the client doesn't take part in its end.
        self._parting: asyncio.TimerHandle | None = None
        # It takes no more requests; nothing more is said or read.
        self.leaving = self._closing = False

    # The transport's.

    def connection_made(self, transport: Any) -> None:
        """Say what the client may send."""
        self._transport = transport
        keep_alive(transport.get_extra_info("socket"))
        transport.write(_SETTINGS)
        self._greeting = self._loop.call_later(_PREFACE_SECONDS, transport.abort)
        self._server.on_connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what the client waited for."""
        self._greeting.cancel()
        self._limit_parting(None)
        self.leaving = self._closing = True
        self._give_up()
        self._server.on_disconnected(self)

    def data_received(self, data: bytes) -> None:
        """Handle what the client sends."""
        if self._closing:
            return
        self._reading = True
        try:
            self._reader.feed(data)
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
        """Send frames of a stream, together with what else this turn of the loop sends."""
        self._guard.frames += 1
        self._out.append(data)
        if not (self._reading or self._flushing):
            self._flushing = True
            self._loop.call_soon(self._flush)

    def write_block(self, number: int, block: bytes, *, ended: bool = False) -> None:
        """Send a header block."""
        before, self.before_block = self.before_block, b""
        self.write(frames.field_block(number, before + block, self.largest_frame, ended=ended))

    def room(self, stream: Stream) -> int:
        """Return how many bytes of data a stream may send now."""
        return 0 if self._paused else min(self.send_window, stream.send_window)

    def wait(self, number: int, stream: Stream) -> None:
        """Have a stream go on once the connection's window opens, or the client takes what it was sent."""
        self._blocked[number] = stream

    def end(self, number: int, *, reset: ErrorCode | None = None) -> None:
        """Forget a stream that is sent to its end; reset: why, if the client's side has not ended or nothing else was sent."""
        self._blocked.pop(number, None)
        if self.streams.pop(number, None) is not None:
            self._guard.requests += 1
            if reset is not None:
                self.write(frames.reset(number, reset))

    def extend(self, number: int, stream: Stream, size: int) -> None:
        """Let the client send `size` bytes more of a stream."""
        stream.receive_window += size
        self._send(frames.window_update(number, size))

    # Its end.

    def leave(self) -> None:
        """Take no more requests than those that are on their way, and close once they have ended (6.8)."""
        if self.leaving or self._parting is not None:
            return
        self._send(frames.goaway(frames.LARGEST_WINDOW, ErrorCode.NO_ERROR))
        self._send(frames.frame(frames.PING, 0, 0, _PARTING))
        self._limit_parting(self._refuse)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def fail(self, fault: ConnectionFault) -> None:
        """End the connection, and say why."""
        log.warning("a connection of gRPC is ended", extra={"code": fault.code.name, "why": str(fault)})
        self.leaving = True
        self._give_up()
        self._send(frames.goaway(self._last, fault.code, str(fault)))
        self._flush()

    def _refuse(self) -> None:
        if not self.leaving:
            self.leaving = True
            self._send(frames.goaway(self._last, ErrorCode.NO_ERROR))

    def _close(self) -> None:
        """Send no more. What still comes is read and dropped: TCP would else drop what was said."""
        self._closing = True
        self._transport.write_eof()
        self._limit_parting(self._transport.abort)

    def _limit_parting(self, then: Callable[[], None] | None) -> None:
        if self._parting is not None:
            self._parting.cancel()
        self._parting = None if then is None else self._loop.call_later(_PARTING_SECONDS, then)

    def _give_up(self) -> None:
        streams, self.streams = self.streams, {}
        self._blocked.clear()
        for stream in streams.values():
            try:
                stream.on_reset()
            except Exception:
                log.exception("a call failed at the end of its connection")

    # What is written.

    def _send(self, data: bytes) -> None:
        self._out.append(data)
        if not (self._reading or self._flushing):
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        out = self._out
        if self._closing or self._transport.is_closing():
            out.clear()
            return
        if out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if self.leaving and not self.streams:
            self._close()

    # What comes; see `FrameHandler`.

    def on_greeting(self) -> None:
        """See `FrameHandler`."""
        self._greeting.cancel()

    def on_data(self, number: int, flags: int, payload: memoryview) -> None:
        """See `FrameHandler`."""
        size, ended = len(payload), bool(flags & frames.END_STREAM)
        self._received += size
        if self._received > _WINDOW // 2:
            self._send(frames.window_update(0, self._received))
            self._received = 0
        if size or ended:
            self._guard.frames += 1
        else:
            self.on_empty_frame()
        if flags & frames.PADDED:
            payload = frames.unpadded(payload, flags)
        stream = self.streams.get(number)
        if stream is None:
            if number == 0 or number > self._last:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "data without a request")
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window has")
        if stream.ended:
            self._reset(number, ErrorCode.STREAM_CLOSED)
            return
        try:
            stream.on_data(payload, ended)
        except Exception:
            self._failed(number)

    def on_head(self, number: int, head: RequestHead, ended: bool) -> None:
        """See `FrameHandler`."""
        self._guard.frames += 1
        if number <= self._last:
            self._on_trailers(number, head, ended)
            return
        self._last = number
        if head.malformed is not None or not head.is_request:
            self._send(frames.reset(number, ErrorCode.PROTOCOL_ERROR))
        elif self.leaving or len(self.streams) >= MOST_STREAMS:
            self._send(frames.reset(number, ErrorCode.REFUSED_STREAM))
        else:
            try:
                self._server.open(self, number, head, ended)
            except Exception:
                self._failed(number)

    def on_reset(self, number: int) -> None:
        """See `FrameHandler`."""
        if number > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a reset without a request")
        if number in self.streams:
            self._forget(number)
        else:
            self.on_empty_frame()

    def on_settings(self, values: Iterable[tuple[int, int]]) -> None:
        """See `FrameHandler`."""
        self.on_empty_frame()
        before = self.initial_window
        for name, value in values:
            if name == Setting.INITIAL_WINDOW_SIZE:
                self._resize_windows(value - self.initial_window)
                self.initial_window = value
            elif name == Setting.MAX_FRAME_SIZE:
                self.largest_frame = value
            elif name == Setting.HEADER_TABLE_SIZE and value < frames.DEFAULT_TABLE and not self._table_is_empty:
                self.before_block, self._table_is_empty = EMPTY_TABLE, True
        # Before anything that is sent by them (6.5.3).
        self._send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if self.initial_window > before:
            for stream in list(self.streams.values()):
                stream.on_window()

    def on_ping(self, payload: bytes, answered: bool) -> None:
        """See `FrameHandler`."""
        self.on_empty_frame()
        if not answered:
            self._send(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _PARTING:
            self._refuse()

    def on_window_update(self, number: int, size: int) -> None:
        """See `FrameHandler`."""
        if number == 0:
            self.send_window += size
            if not size or self.send_window > frames.LARGEST_WINDOW:
                raise _bad_window(size)
            self._open_windows()
        elif (stream := self.streams.get(number)) is not None:
            stream.send_window += size
            if not size or stream.send_window > frames.LARGEST_WINDOW:
                self._reset(number, _bad_window(size).code)
            else:
                stream.on_window()
        elif number > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window without a request")

    def on_empty_frame(self) -> None:
        """See `FrameHandler`."""
        if not self._guard.allows_empty_frame():
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many pings, settings or empty frames")

    def _on_trailers(self, number: int, head: RequestHead, ended: bool) -> None:
        """End a request; those of a stream that is gone may be late. gRPC's clients send none."""
        stream = self.streams.get(number)
        if head.is_request and stream is None:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "a request on a stream that was used before")
        if stream is None:
            return
        if head.is_request or head.malformed is not None or not ended:
            self._reset(number, ErrorCode.PROTOCOL_ERROR)
        elif stream.ended:
            self._reset(number, ErrorCode.STREAM_CLOSED)
        else:
            try:
                stream.on_data(memoryview(b""), True)
            except Exception:
                self._failed(number)

    def _failed(self, number: int) -> None:
        log.exception("a call failed where its data came")
        self._reset(number, ErrorCode.INTERNAL_ERROR)

    def _reset(self, number: int, code: ErrorCode) -> None:
        self._send(frames.reset(number, code))
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._blocked.pop(number, None)
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.on_reset()
            if not self._guard.allows_reset():
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many requests are reset")

    def _resize_windows(self, change: int) -> None:
        """Make each stream's window larger, or smaller: below nothing, too (6.9.2)."""
        for stream in self.streams.values():
            stream.send_window += change
            if stream.send_window > frames.LARGEST_WINDOW:
                raise _bad_window(change)

    def _open_windows(self) -> None:
        """Let streams go on that wait for the connection; one that still has data is again the last."""
        while self._blocked and self.send_window > 0 and not self._paused:
            self._blocked.popitem(last=False)[1].on_window()


def _bad_window(size: int) -> ConnectionFault:
    if not size:
        return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window opens by nothing")
    return ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
