"""The HTTP connections of a port, and the time that each may take in whatever phase it is.

aiohttp has one time limit, for idle connections; this adds those for a request's head, its body and the answer's reader, and a
bound on how many there are. A connection that became a WebSocket isn't aiohttp's any more, nor this module's; one that is an
event stream counts as a session.

Invariant: a client that stalls is cut off by a time limit, in whatever phase it does.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import StreamReader, web

_LEAST_RATE = 512  # bytes a second
_LINGER = 3.0  # seconds in which a connection that was closed has to be gone
_SCAN_SECONDS = 0.1  # between two looks for connections that are idle
_YOUNG = 1.0  # seconds in which a connection without a head is not closed for another
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
# Private parts of aiohttp that are used here.
_NEEDED = ("_request_in_progress", "_current_request", "_request_count", "_messages", "_waiter", "_message_tail")

# What a connection waits for: its next request, the rest of a head or a body, its reader, its handler, its end.
IDLE, HEAD, BODY, ANSWER, BUSY, CLOSING = "idle", "head", "body", "answer", "busy", "closing"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Seconds for each phase of a connection, and how many there may be."""

    tls_handshake: float
    head: float
    stall: float
    keep_alive: float
    connections: int


class UnsupportedAiohttp(RuntimeError):
    """The installed aiohttp lacks a part that podpair uses."""


def check_aiohttp() -> None:
    """Raise UnsupportedAiohttp, which names what is missing, if the release of aiohttp is too different."""
    if missing := [name for name in _NEEDED if not hasattr(web.RequestHandler, name)]:
        raise UnsupportedAiohttp(
            f"this release of aiohttp has no {', '.join(missing)}: see the bound in pyproject.toml"
        )


class TimedHandler(web.RequestHandler):
    """aiohttp's protocol of one connection, and what is to be known of how it gets on."""

    __slots__ = (
        "_body",
        "_complete",
        "_connections",
        "_mark",
        "_phase",
        "_received",
        "_since",
        "_written",
        "on_lost",
        "on_made",
        "session",
        "wire",
    )

    def __init__(self, connections: "Connections", manager: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        # aiohttp's own limit is of no use here, but none would be taken for zero.
        idle = connections.limits.keep_alive + 3600
        super().__init__(manager, loop=loop, access_log=None, keepalive_timeout=idle)  # type: ignore[arg-type]
        self.session = False  # an event stream, or on its way to a session
        self.wire: asyncio.Transport | None = None  # also after aiohttp has released it
        self.on_lost: Callable[[], object] | None = None  # called once the client is gone, or sends no more
        self.on_made: Callable[[], object] | None = None  # called once it is counted among the connections
        self._connections = connections
        self._phase: tuple[str, int] = (HEAD, 0)
        self._since = 0.0  # when the phase began, or the present look at how much moves in it
        self._mark = 0  # bytes that had moved then
        self._received = 0
        self._body: StreamReader | None = None  # of the last request whose head is complete
        self._complete = 0  # bytes up to the last that are no part of an incomplete head
        self._written = 0  # bytes that waited for the client at the last look

    def is_session(self, session: bool) -> None:
        """Count the connection as a session from now on, or no longer."""
        self._connections.sessions += session - self.session
        self.session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the client's connection, after its TLS handshake."""
        self.wire = transport  # type: ignore[assignment]
        self._since = self._connections.now()
        self._connections.handlers[self] = None
        if self.on_made is not None:
            self.on_made()
            self.on_made = None
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Unregister a connection that is gone, or no HTTP connection any more."""
        self._connections.handlers.pop(self, None)
        self.is_session(False)
        self.wire = None
        super().connection_lost(exc)
        self._lost()

    def eof_received(self) -> None:
        """Handle the client's end of stream; asyncio closes the connection once what was written has gone out."""
        super().eof_received()
        self._lost()

    def _lost(self) -> None:
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    def data_received(self, data: bytes) -> None:
        """Handle data: of a body, with the end of a head, or of a head that is incomplete."""
        self._received += len(data)
        of_body = self._body is not None and not self._body.is_eof()
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:
            self._body = self._messages[-1][1]
        elif not of_body:
            return
        self._complete = self._received

    @property
    def phase(self) -> str:
        """What the connection waits for."""
        wire = self.wire
        if wire is None or wire.is_closing():
            return CLOSING
        if self._request_in_progress or self._messages:
            if wire.get_write_buffer_size():
                return ANSWER
            request = self._current_request
            if request is not None and not request.content.is_eof() and not self._reading_paused:
                return BODY
            return BUSY
        if self._waiter is None:
            return BUSY  # the rest of a refused body is read away, which aiohttp bounds
        return HEAD if not self._request_count or self._received > self._complete else IDLE

    def stalled(self, now: float) -> str | None:
        """Look at it: the phase in which its time is over, or None."""
        phase = (self.phase, self._request_count)
        limits, kind = self._connections.limits, phase[0]
        if phase != self._phase:
            self._phase, self._since, self._mark = phase, now, self._received
            self._written = self.wire.get_write_buffer_size() if self.wire is not None else 0
            if kind == ANSWER:
                self._mark = 0
            return None
        waited = now - self._since
        if kind == HEAD:
            return HEAD if waited > limits.head else None
        if kind == IDLE:
            return IDLE if waited > limits.keep_alive else None
        if kind == CLOSING:
            return CLOSING if waited > _LINGER else None
        if kind == BUSY:
            return None
        if kind == BODY:
            moved = self._received - self._mark
        else:
            written = self.wire.get_write_buffer_size() if self.wire is not None else 0
            self._mark += max(0, self._written - written)  # what the client took since the last look, at least
            self._written = written
            moved = self._mark
        if waited > limits.stall:
            if moved < limits.stall * _LEAST_RATE:
                return kind
            self._since, self._mark = now, self._received if kind == BODY else 0
        return None

    def idle_since(self) -> float | None:
        """Since when it is idle, or its head is incomplete and it isn't quite new; None: it must not be closed for another."""
        phase = self.phase
        if self.session or (phase != IDLE and (phase != HEAD or self._phase[0] != HEAD)):
            return None
        return self._since if phase == IDLE or self._connections.now() - self._since > _YOUNG else None

    def cut(self, phase: str) -> None:
        """Close the connection: with 408 if a request is incomplete."""
        wire = self.wire
        if wire is None:
            return
        if phase in (ANSWER, CLOSING):
            wire.abort()
            return
        if phase in (HEAD, BODY):
            wire.write(_TIMEOUT)
        self.force_close()


def counts_as_session(request: web.Request, session: bool) -> None:
    """Count the request's connection against `limits.sessions` from now on, or again against `limits.connections`."""
    handler = request.protocol
    if isinstance(handler, TimedHandler):
        handler.is_session(session)


def when_disconnected(request: web.Request, callback: Callable[[], object] | None) -> None:
    """Call `callback`, at once, when the request's client is gone; None: no longer."""
    handler = request.protocol
    if isinstance(handler, TimedHandler):
        handler.on_lost = callback


class Connections:
    """The open ones. on_closed is called with the phase in which one was closed, or "evicted"; kind makes their protocols."""

    def __init__(
        self, limits: ConnectionLimits, on_closed: Callable[[str], object], kind: type[TimedHandler] = TimedHandler
    ) -> None:
        check_aiohttp()
        self._kind = kind
        self.limits = limits
        self.on_closed = on_closed
        self.handlers: dict[TimedHandler, None] = {}
        self.sessions = 0  # of them
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._evictable: deque[TimedHandler] = deque()
        self._scanned = -1.0
        self._counts: dict[str, int] = {}
        self._counted = 0.0
        self._tick_seconds = min(1.0, limits.head / 4, limits.stall / 4, limits.keep_alive / 4)
        self._timer = self._loop.call_later(self._tick_seconds, self._tick)

    def handler(self, server: web.Server) -> TimedHandler:
        """Return the protocol of a new connection to `server`."""
        return self._kind(self, server, self._loop)

    @property
    def open(self) -> int:
        """Connections that are no sessions."""
        return len(self.handlers) - self.sessions

    def counts(self) -> dict[str, int]:
        """Connections by what they wait for; they are counted once a moment."""
        if self._counts and self.now() - self._counted < _SCAN_SECONDS:
            return self._counts
        self._counted = self.now()
        found = self._counts = {IDLE: 0, HEAD: 0, BODY: 0, ANSWER: 0, BUSY: 0, CLOSING: 0, "events": self.sessions}
        for handler in self.handlers:
            if not handler.session:
                found[handler.phase] += 1
        return found

    def make_room(self) -> bool:
        """Close the connection that has been idle for longest; False if none is."""
        now = self.now()
        if not self._evictable and now - self._scanned >= _SCAN_SECONDS:
            self._scanned = now
            waiting = [
                (since, index, handler)
                for index, handler in enumerate(self.handlers)
                if (since := handler.idle_since()) is not None
            ]
            self._evictable.extend(handler for _, _, handler in sorted(waiting))
        while self._evictable:
            handler = self._evictable.popleft()
            if handler.wire is not None and handler.idle_since() is not None:
                self.on_closed("evicted")
                self.handlers.pop(handler, None)
                handler.force_close()
                return True
        return False

    def close(self) -> None:
        """Look after them no longer; aiohttp's runner ends them."""
        self._timer.cancel()

    def _tick(self) -> None:
        now = self.now()
        for handler in list(self.handlers):
            if handler.session:
                continue
            phase = handler.stalled(now)
            if phase is not None:
                self.on_closed(phase)
                handler.cut(phase)
        self._timer = self._loop.call_later(self._tick_seconds, self._tick)
