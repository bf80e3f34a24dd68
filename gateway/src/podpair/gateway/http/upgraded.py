"""A connection after its upgrade to a WebSocket: frames come in, pings are answered, the end is told.

aiohttp does the HTTP before it and lends its compiled parser; from the upgrade on nothing of its request is kept, no task waits
for frames and no timer belongs to one connection, for there are ten thousand of them.

Invariants: each message goes to `on_message` in the order of its arrival, and none before `resume`; `on_lost` is called once.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, cast

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol

from podpair.gateway.core.frames import PING, close_frame, pong_frame

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
    """The server's end of one WebSocket. What is written to `transport` beside it has to be whole frames."""

    __slots__ = (
        "_broken", "_bucket", "_closing", "_ended", "_heard", "_heartbeats", "_held", "_on_broken", "_on_lost", "_on_message",
        "_parser", "_silent", "_timer", "close_code", "transport",
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
        self._on_broken = on_broken  # is to call `close`
        self._broken = False  # what came is no WebSocket's, or too large
        self._closing = False  # a close frame was sent: nothing is read any more but the client's
        self._ended = False  # nor that
        self._held: list[tuple[Any, Any]] | None = []  # frames that wait for `resume`
        self._timer: asyncio.TimerHandle | None = None
        self._heard = True
        self._silent = 0  # looks of the heartbeat since something was heard
        frames = _Frames(cast("BaseProtocol", self), 0, loop=asyncio.get_running_loop())
        frames.stream = self
        # `most + 1` is the least that aiohttp refuses.
        self._parser: WebSocketReader | None = WebSocketReader(frames, most + 1, compress=False, decode_text=True)
        self._heartbeats = heartbeats
        self._bucket = heartbeats.add(self)
        self._pause(True)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._parser is not None and not self._ended:
            self._parser.feed_data(data)

    def frame(self, kind: WSMsgType, data: Any) -> None:
        """A frame, or a message that came in several."""
        if self._held is not None:
            self._held.append((kind, data))
        elif kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
            if not self._closing:
                self._on_message(data)
        elif kind is WSMsgType.PING:
            # Pongs that nobody reads would fill the memory; RFC 6455, 5.5.3 asks for no more than one, to the last ping.
            if self.transport.get_write_buffer_size() <= _UNREAD:
                self._write(pong_frame(data))
        elif kind is WSMsgType.CLOSE:
            self.close_code = data or None
            if not self._closing:
                self._write(close_frame(data or WSCloseCode.OK, ""))
            self._end()

    def hold(self) -> None:
        """No message until `resume`; the client is read no further."""
        if self._held is None:
            self._held = []
            self._pause(True)

    def resume(self) -> None:
        """Go on, with what came meanwhile before all else."""
        held, self._held = self._held or [], None
        for index, (kind, data) in enumerate(held):
            self.frame(kind, data)
            if self._held is not None:  # held again
                self._held = held[index + 1 :]
                return
        self._pause(False)

    def _pause(self, pause: bool) -> None:
        if not self.transport.is_closing():
            (self.transport.pause_reading if pause else self.transport.resume_reading)()

    def broken(self, error: BaseException) -> None:
        """What came is no WebSocket's, or too large."""
        self._broken = True
        self._on_broken(error.code if isinstance(error, WebSocketError) else WSCloseCode.PROTOCOL_ERROR, str(error))

    def beat(self) -> None:
        """A look of the heartbeat, two of which make its time."""
        if self._heard or self._ended:
            self._heard, self._silent = False, 0
            return
        self._silent += 1
        if self._silent == 2:
            self._write(PING)
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

    def connection_lost(self, exc: BaseException | None) -> None:
        self._heartbeats.discard(self, self._bucket)
        self._ended = True
        self._parser = self._held = None
        if self._timer is not None:
            self._timer.cancel()
        on_lost = self._on_lost
        # Who is called holds this stream: without the circle it is all freed at once, and not by the collector some day.
        self._on_message = self._on_broken = self._on_lost = _nothing
        on_lost()


def _nothing(*_: object) -> None:
    """Nobody is there any more."""


class _Frames(WebSocketDataQueue):
    """Where aiohttp's parser puts frames; nothing is queued here."""

    stream: WebSocketStream

    def feed_data(self, data: Any, size: int) -> None:
        self.stream.frame(data[0], data[1])

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        self.stream.broken(exc)


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
