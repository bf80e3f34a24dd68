"""A connection after its upgrade to a WebSocket: frames come in, pings are answered, the end is told.

aiohttp does the HTTP before it; from the upgrade on nothing of its request is kept, no task waits for frames and no timer
belongs to one connection, for there are ten thousand of them.

Invariants: each message goes to `on_message` in the order of its arrival, and none before `resume`; `on_lost` is called once;
one connection has no more than `FRAMES` frames (or `_BYTES` of them) in a turn of the loop, however many a read brought; what
is written unasked for (pongs) doesn't grow in memory for a client that reads nothing.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

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

try:  # a private part of aiohttp: compiled, and for large messages much faster than Python
    from aiohttp._websocket.helpers import websocket_mask
except ImportError:
    websocket_mask = unmask  # type: ignore[assignment]

FRAMES = 64
"""Frames of one connection that are taken in a turn of the loop."""
_BYTES = 64 * 1024  # of messages in a turn: what is larger is a turn's work alone
_CLOSING = 10.0  # seconds that a client may take to read what is written for it, and to answer the close frame
_UNREAD = 64 * 1024  # bytes that wait for a client above which its pings are not answered
_BUCKETS = 32  # parts of all connections that are looked at one after the other, so that their pings are spread

Message = str | bytes


class Heartbeats:
    """Pings the connections that were silent for `seconds`, and ends those that stay silent for half as long again."""

    def __init__(self, seconds: float) -> None:
        self._tick = seconds / 2 / _BUCKETS
        self._buckets: list[set[WebSocketStream]] = [set() for _ in range(_BUCKETS)]
        self._next = itertools.cycle(range(_BUCKETS))  # the bucket of the next connection
        self._turn = itertools.cycle(self._buckets)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def add(self, stream: "WebSocketStream") -> int:
        """Look after it; returns its bucket."""
        bucket = next(self._next)
        self._buckets[bucket].add(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._look)
        return bucket

    def discard(self, stream: "WebSocketStream", bucket: int) -> None:
        self._buckets[bucket].discard(stream)

    def _look(self) -> None:
        for stream in list(next(self._turn)):
            stream.beat()
        self._timer = asyncio.get_running_loop().call_later(self._tick, self._look) if any(self._buckets) else None


class WebSocketStream(asyncio.Protocol):
    """The server's end of one WebSocket. What is written to `transport` beside it has to be whole frames.

    most: bytes of a message. on_broken is told the close code and why, and is to call `close`.
    """

    __slots__ = (
        "_broken", "_bucket", "_closing", "_ended", "_eof", "_heard", "_heartbeats", "_held", "_on_broken", "_on_lost",
        "_on_message", "_ping", "_reader", "_reading", "_silent", "_timer", "_waiting", "close_code", "transport",
    )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        heartbeats: Heartbeats,
        *,
        most: int,
        on_message: Callable[[Message], object],
        on_lost: Callable[[], object],
        on_broken: Callable[[int, str], object],
    ) -> None:
        self.transport = transport
        self.close_code: int | None = None  # the client's
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_broken = on_broken
        self._broken = False  # what came is no WebSocket's, or too large
        self._closing = False  # a close frame was sent: nothing is read any more but the client's
        self._ended = False  # nor that
        self._held = True  # frames wait for `resume`
        self._waiting = False  # frames wait for the next turn
        self._eof = False  # no more come
        self._reading = True  # the transport is
        self._ping: bytes | None = None  # the payload of a ping that has yet to be answered
        self._timer: asyncio.TimerHandle | None = None
        self._heard = True
        self._silent = 0  # looks of the heartbeat since something was heard
        self._reader = FrameReader(most, websocket_mask)
        self._heartbeats = heartbeats
        self._bucket = heartbeats.add(self)
        self._read_on()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._ended:
            return
        if self._held or self._waiting:
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
            self._take()
        elif not self._closing:
            self._on_message(message)

    def _take(self) -> None:
        """Take the frames that were read: in this turn so many, the others in the next ones."""
        reader, on_message = self._reader, self._on_message
        frames = size = 0
        try:
            while frames < FRAMES and size <= _BYTES and reader.more and not self._ended and not self._held:
                before = frames
                for text in reader.texts(FRAMES - frames, _BYTES - size):
                    frames += 1
                    size += len(text)
                    if not self._closing:
                        on_message(text)
                        if self._held:
                            break
                if frames == before:  # another frame comes next, or one that is not whole
                    frame = reader.next()
                    if frame is None:
                        break
                    frames += 1
                    size += len(frame[1])
                    self._other(*frame)
        except FrameError as error:
            self._break(error)
            return
        if reader.more and (frames >= FRAMES or size > _BYTES) and not self._ended and not self._held:
            self._waiting = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        elif self._eof:
            self.transport.close()
        if self._ping is not None:
            self._pong()
        self._read_on()

    def _next_turn(self) -> None:
        self._waiting = False
        if not self._ended and not self._held:
            self._take()

    def _other(self, opcode: int, data: Any) -> None:
        if opcode in (TEXT, BINARY):
            if not self._closing:
                self._on_message(data)
        elif opcode == PING:
            self._ping = data  # of several only the last has to be answered (RFC 6455, 5.5.3)
        elif opcode == CLOSE:
            code = self.close_code = close_code(data)
            if not self._closing:
                self._write(close_frame(code or WSCloseCode.OK, ""))
            self._end()

    def _pong(self) -> None:
        """Answer the last ping, if the client takes what is written."""
        if self._ping is not None and not self._closing and self.transport.get_write_buffer_size() <= HIGH_WATER:
            self._write(pong_frame(self._ping))
            self._ping = None

    def hold(self) -> None:
        """No message until `resume`; the client is read no further."""
        self._held = True
        self._read_on()

    def resume(self) -> None:
        """Go on, with what came meanwhile before all else."""
        self._held = False
        if self._ended:
            return
        if self._reader.more and not self._waiting:
            self._take()
        else:
            self._read_on()

    def _read_on(self) -> None:
        """Read the client while its frames are taken: what waits for that is bounded by one read."""
        reading = not self._held and (not self._waiting or self._reader.pending <= _BYTES)
        if reading is not self._reading and not self.transport.is_closing():
            self._reading = reading
            (self.transport.resume_reading if reading else self.transport.pause_reading)()

    def _break(self, error: FrameError) -> None:
        """What came is no WebSocket's, or too large."""
        self._broken = True
        closing = self._closing
        self._on_broken(error.code, str(error))
        if closing:
            self._turn_away()

    def beat(self) -> None:
        """A look of the heartbeat, two of which make its time."""
        if self._ping is not None and not self._ended:
            self._pong()
        if self._heard or self._ended:
            self._heard, self._silent = False, 0
            return
        self._silent += 1
        if self._silent == 2:
            self._write(EMPTY_PING)
        elif self._silent > 2:
            self.transport.abort()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and end when the client has answered it, or takes nothing any more."""
        if self._closing:
            return
        self._closing = True
        self._write(close_frame(code, reason))
        if self._broken:
            self._turn_away()
        self._abort_later()

    def _turn_away(self) -> None:
        """Nothing more is written, and what comes is dropped until the client has closed its end.

        It may be in the middle of a frame: if that stayed unread it would get a reset instead of the close code.
        """
        self._ended = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS has no half of an end: what is written goes out before it

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
        """The client has closed its end: what it sent before is taken yet. True keeps the transport until then."""
        self._eof = self._waiting and self.transport.can_write_eof()  # TLS has no half of an end
        return self._eof

    def connection_lost(self, exc: BaseException | None) -> None:
        self._heartbeats.discard(self, self._bucket)
        self._ended = True
        self._reader = _EMPTY
        if self._timer is not None:
            self._timer.cancel()
        on_lost = self._on_lost
        # Who is called holds this stream: without the circle it is all freed at once, and not by the collector some day.
        self._on_message = self._on_broken = self._on_lost = _nothing
        on_lost()


def _nothing(*_: object) -> None:
    """Nobody is there any more."""


_EMPTY = FrameReader(0)  # nothing is fed to it


class Upgraded(web.StreamResponse):
    """What the handler of a request returns whose connection is not aiohttp's any more."""

    async def prepare(self, request: Any) -> None:
        """Nothing is to be sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is to be sent."""


def take_over(request: web.Request) -> tuple[asyncio.Transport, bytes] | None:
    """The connection of a request, which aiohttp forgets, and what has been read of it behind the request; None: it is gone."""
    http = request.protocol
    transport = http.transport
    if transport is None or transport.is_closing():
        return None
    behind, http._message_tail = http._message_tail, b""
    http.transport = None
    http.connection_lost(None)
    return transport, behind
