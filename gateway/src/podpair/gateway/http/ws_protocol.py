"""The protocol of a connection after its upgrade to a WebSocket: reads frames, answers pings, reports the end.

aiohttp handles the HTTP request before it; after the upgrade nothing of the request is kept, no task waits for frames and no
timer belongs to a single connection, because there are ten thousand of them.

Invariants: messages are passed to `on_message` in order, and none before `resume`; `on_lost` is called once; a connection
handles at most `FRAMES` frames (or `_BYTES` of them) in a turn of the loop, however many a read returned; pongs don't
accumulate in memory for a client that reads nothing.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiohttp import WSCloseCode, web

from podpair.gateway.core.frame_reader import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    FrameError,
    FrameReader,
    close_code,
    unmask,
)
from podpair.gateway.core.frames import EMPTY_PING, close_frame, pong_frame
from podpair.gateway.sessions.connection import HIGH_WATER

try:  # private to aiohttp: compiled, and for large messages much faster than Python
    from aiohttp._websocket.helpers import websocket_mask
except ImportError:
    websocket_mask = unmask  # type: ignore[assignment]

FRAMES = 64
"""Frames of one connection that are handled in a turn of the loop."""
_BYTES = 64 * 1024  # of messages in a turn; a larger one has a turn of its own
_CLOSING = 10.0  # seconds that a client may take to read what was written, and to answer the close frame
_UNREAD = 64 * 1024  # bytes that wait for a client above which its pings are not answered
_BUCKETS = 32  # groups of connections that are checked one after the other, so that pings are spread

Message = str | bytes


class Heartbeats:
    """Pings connections that were silent for `seconds`, and closes those that stay silent for half as long again."""

    def __init__(self, seconds: float) -> None:
        self._tick = seconds / 2 / _BUCKETS
        self._buckets: list[set[WebSocketStream]] = [set() for _ in range(_BUCKETS)]
        self._next = itertools.cycle(range(_BUCKETS))  # the bucket of the next connection
        self._turn = itertools.cycle(self._buckets)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def add(self, stream: "WebSocketStream") -> int:
        """Add a connection; return its bucket."""
        bucket = next(self._next)
        self._buckets[bucket].add(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._check_bucket)
        return bucket

    def discard(self, stream: "WebSocketStream", bucket: int) -> None:
        self._buckets[bucket].discard(stream)

    def _check_bucket(self) -> None:
        for stream in list(next(self._turn)):
            stream.check_heartbeat()
        self._timer = (
            asyncio.get_running_loop().call_later(self._tick, self._check_bucket) if any(self._buckets) else None
        )


class StreamCallbacks(NamedTuple):
    """What a stream calls."""

    on_message: Callable[[Message], object]
    """Takes a message."""
    on_lost: Callable[[], object]
    """Hears that the connection has ended."""
    on_broken: Callable[[int, str], object]
    """Takes the code and the reason for which the stream has to be closed; has to call `close`."""
    on_texts: Callable[[Sequence[str]], object] | None = None
    """Takes texts that were read together, instead of `on_message`; has to `hold` those behind one that pauses the stream."""


class WebSocketStream(asyncio.Protocol):
    """The server's end of one WebSocket. Others may write whole frames to `transport`.

    most: maximum bytes of a message.
    """

    __slots__ = (
        "_active",
        "_broken",
        "_bucket",
        "_closing",
        "_ended",
        "_eof",
        "_heartbeats",
        "_held",
        "_on_broken",
        "_on_lost",
        "_on_message",
        "_on_texts",
        "_paused",
        "_ping",
        "_reader",
        "_reading",
        "_silent",
        "_timer",
        "_waiting",
        "close_code",
        "transport",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        heartbeats: Heartbeats,
        *,
        most: int,
        callbacks: StreamCallbacks,
    ) -> None:
        self.transport = transport
        self.close_code: int | None = None  # the client's
        self._on_message = callbacks.on_message
        self._on_texts = callbacks.on_texts or self._each
        self._held: Sequence[Message] = ()  # taken from the reader, and waiting for `resume`
        self._on_lost = callbacks.on_lost
        self._on_broken = callbacks.on_broken
        self._broken = False  # invalid or too large frames were received
        self._closing = False  # a close frame was sent: only the client's is still read
        self._ended = False  # nothing is read any more
        self._paused = True  # frames wait for `resume`
        self._waiting = False  # frames wait for the next turn of the loop
        self._eof = False  # the client sends no more
        self._reading = True  # the transport is being read
        self._ping: bytes | None = None  # the payload of a ping that has yet to be answered
        self._timer: asyncio.TimerHandle | None = None
        self._active = True
        self._silent = 0  # heartbeat checks since something was received
        self._reader = FrameReader(most, websocket_mask)
        self._heartbeats = heartbeats
        self._bucket = heartbeats.add(self)
        self._read_on()

    def data_received(self, data: bytes) -> None:
        self._active = True
        if self._ended:
            return
        if self._paused or self._waiting:
            self._reader.feed(data)
            self._read_on()
            return
        try:
            message = self._reader.whole_text(data)
        except FrameError as error:
            self._break(error)
            return
        if message is None:
            self._reader.feed(data)
            self._read_frames()
        elif not self._closing:
            self._on_texts((message,))

    def _each(self, texts: Sequence[Message]) -> None:
        """Pass on messages one by one; hold those behind one that pauses the stream."""
        for taken, text in enumerate(texts, 1):
            if not self._closing:
                self._on_message(text)
                if self._paused:
                    self.hold(texts[taken:])
                    return

    def hold(self, messages: Sequence[Message]) -> None:
        """Keep messages that were passed on, and come first after `resume`; the stream is paused."""
        self._held = (*self._held, *messages)

    def _read_frames(self) -> None:
        """Handle received frames, a bounded number in this turn of the loop, the others in the next ones."""
        reader = self._reader
        frames = size = 0
        try:
            if self._held:
                held, self._held = self._held, ()
                frames = len(held)
                self._each(held)
            while frames < FRAMES and size <= _BYTES and reader.more and not self._ended and not self._paused:
                texts = reader.texts(FRAMES - frames, _BYTES - size)
                if texts:
                    frames += len(texts)
                    size += sum(map(len, texts))
                    if not self._closing:
                        self._on_texts(texts)
                else:  # the next frame is not a text, or incomplete
                    frame = reader.next()
                    if frame is None:
                        break
                    frames += 1
                    size += len(frame[1])
                    self._handle_frame(*frame)
        except FrameError as error:
            self._break(error)
            return
        if reader.more and (frames >= FRAMES or size > _BYTES) and not self._ended and not self._paused:
            self._waiting = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        elif self._eof:
            self.transport.close()
        if self._ping is not None:
            self._pong()
        self._read_on()

    def _next_turn(self) -> None:
        self._waiting = False
        if not self._ended and not self._paused:
            self._read_frames()

    def _handle_frame(self, opcode: int, data: Any) -> None:
        if opcode in (TEXT, BINARY):
            if not self._closing:
                self._on_message(data)
        elif opcode == PING:
            # Each is answered, before the message that it interrupts. Only a client that doesn't read gets an answer to its
            # last ping alone, as RFC 6455, 5.5.3 allows.
            self._ping = data
            self._pong()
        elif opcode == CLOSE:
            code = self.close_code = close_code(data)
            if not self._closing:
                self._write(close_frame(code or WSCloseCode.OK, ""))
            self._end()

    def _pong(self) -> None:
        """Answer the last ping, if the client reads."""
        if self._ping is not None and not self._closing and self.transport.get_write_buffer_size() <= HIGH_WATER:
            self._write(pong_frame(self._ping))
            self._ping = None

    @property
    def paused(self) -> bool:
        """Whether no message is passed on until `resume`."""
        return self._paused

    def pause(self) -> None:
        """Pass on no message until `resume`; stop reading."""
        self._paused = True
        self._read_on()

    def resume(self) -> None:
        """Continue, first with the frames that are waiting."""
        self._paused = False
        if self._ended:
            return
        if (self._reader.more or self._held) and not self._waiting:
            self._read_frames()
        else:
            self._read_on()

    def _read_on(self) -> None:
        """Read the transport only while frames are handled: waiting frames are bounded by one read."""
        reading = not self._paused and (not self._waiting or self._reader.pending <= _BYTES)
        if reading is not self._reading and not self.transport.is_closing():
            self._reading = reading
            (self.transport.resume_reading if reading else self.transport.pause_reading)()

    def _break(self, error: FrameError) -> None:
        """Handle an invalid or too large frame."""
        self._broken = True
        closing = self._closing
        self._on_broken(error.code, str(error))
        if closing:
            self._half_close()

    def check_heartbeat(self) -> None:
        """Make a heartbeat check; two checks make one interval."""
        if self._ping is not None and not self._ended:
            self._pong()
        if self._active or self._ended:
            self._active, self._silent = False, 0
            return
        self._silent += 1
        if self._silent == 2:
            self._write(EMPTY_PING)
        elif self._silent > 2:
            self.transport.abort()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and close when the client has answered it, or after a timeout."""
        if self._closing:
            return
        self._closing = True
        self._write(close_frame(code, reason))
        if self._broken:
            self._half_close()
        self._abort_later()

    def _half_close(self) -> None:
        """Write no more, and drop input until the client has closed its end.

        The client may be in the middle of a frame: if that stayed unread, it would get a reset instead of the close code.
        """
        self._ended = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS can't be half-closed: written data is sent before

    def _end(self) -> None:
        self._closing = self._ended = True
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_CLOSING, self.transport.abort)

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def eof_received(self) -> bool:
        """Handle the end of input. Return True to keep the transport until waiting frames are handled."""
        self._eof = self._waiting and self.transport.can_write_eof()  # TLS can't be half-closed
        return self._eof

    def connection_lost(self, exc: BaseException | None) -> None:
        self._heartbeats.discard(self, self._bucket)
        self._ended = True
        self._reader = _EMPTY
        if self._timer is not None:
            self._timer.cancel()
        on_lost = self._on_lost
        # The callbacks refer to this stream: without the cycle all is freed at once, and not by the garbage collector.
        self._on_message = self._on_texts = self._on_broken = self._on_lost = _ignore
        self._held = ()
        on_lost()


def _ignore(*_: object) -> None:
    """Ignore a call after the end."""


_EMPTY = FrameReader(0)  # nothing is fed to it


class DetachedResponse(web.StreamResponse):
    """The response of a handler whose connection was detached from aiohttp."""

    async def prepare(self, request: Any) -> None:
        """Send nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


def detach_transport(request: web.Request) -> tuple[asyncio.Transport, bytes] | None:
    """Detach a request's connection from aiohttp. Return it with the input behind the request; None: it is gone."""
    http = request.protocol
    transport = http.transport
    if transport is None or transport.is_closing():
        return None
    # A private member of aiohttp. Without it only frames of a client that doesn't wait for the handshake would be lost (RFC
    # 6455, 4.1 has it wait).
    behind: bytes = getattr(http, "_message_tail", b"")
    http._message_tail = b""
    http.transport = None
    http.connection_lost(None)
    return transport, behind
