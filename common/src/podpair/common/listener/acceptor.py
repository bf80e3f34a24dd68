"""Accepts the connections of a port, as many as there is room and there are file descriptors for.

asyncio's own servers accept whatever comes; out of descriptors they reset clients, or spin, without a word. Here a client that
is one too many gets a 503, and what waits in the backlog then is taken later.

Invariants: no connection is refused without being counted; the last descriptors are never given to clients.
"""

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import web

from podpair.common.listener.connections import Connections, TimedHandler

_log = logging.getLogger(__name__)
_TLS_CLOSE = 10.0  # seconds for the end of a TLS connection
_ACCEPTS = 64  # connections that are accepted in one turn of the loop
_PAUSE = 0.2  # seconds without accepting after the system has refused to
RESERVE = 256  # descriptors that clients are not given, or a quarter of a small limit
_LOG_SECONDS = 10.0  # between two log lines about refused connections
_MESSAGE = b'{"error":{"code":"overloaded","message":"too many connections: come again"}}'
# The response to a connection for which there is no room, before any request is read.
_OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_MESSAGE), _MESSAGE)
)
_OUT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Takes the connections of one address. on_refused is called with a reason, to count it: the log has one line for many.

    context: of TLS, asked for with each connection. reserve: keep descriptors from this port's clients; a port for operators'
    eyes does without.
    """

    def __init__(
        self,
        server: web.Server,
        connections: Connections,
        *,
        context: Callable[[], ssl.SSLContext | None] = lambda: None,
        on_refused: Callable[[str], object],
        reserve: bool = True,
    ) -> None:
        self.connections = connections
        self._server = server
        self._context = context
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._reserve = reserve
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[Any]] = set()  # one for each connection that is being set up
        self.beginning = 0
        """The number of connections during their TLS handshake: those that `connections` does not count yet."""
        self._refused, self._logged = 0, -_LOG_SECONDS

    @property
    def addresses(self) -> list[tuple[Any, ...]]:
        """Where it listens: (host, port, …)."""
        return [made.getsockname() for made in self._sockets]

    async def listen(self, host: str, port: int, *, backlog: int = 4096) -> None:
        """Start to accept connections. Raises OSError."""
        found = await self._loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                self._sockets.append(_bound(family, address, port or self._port, backlog))
        except OSError:
            self.stop_listening()
            raise
        for made in self._sockets:
            self._loop.add_reader(made, self._accept, made)

    @property
    def _port(self) -> int:
        return int(self._sockets[0].getsockname()[1]) if self._sockets else 0

    def stop_listening(self) -> None:
        """Accept no more connections."""
        for made in self._sockets:
            self._loop.remove_reader(made)
            made.close()
        self._sockets = []

    async def close(self) -> None:
        """Close: connections that are still being set up are dropped; aiohttp's runner closes the others."""
        self.stop_listening()
        self.connections.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = soft - min(RESERVE, soft // 4) if self._reserve and soft != resource.RLIM_INFINITY else 1 << 30
        for _ in range(_ACCEPTS):
            try:
                made, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT:
                    raise
                # Connections in the backlog are not reset, but accepted when there is room.
                self._refuse(None, "descriptors")
                self._loop.remove_reader(listening)
                self._loop.call_later(_PAUSE, self._accept_again, listening)
                return
            # The system assigns the lowest free number: it shows how many descriptors are in use.
            if made.fileno() >= most:
                self._refuse(made, "descriptors")
            elif (
                self.connections.open + self.beginning >= self.connections.limits.connections
                and not self.connections.make_room()
            ):
                self._refuse(made, "connections")
            else:
                self._begin(made)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def _begin(self, made: socket.socket) -> None:
        made.setblocking(False)
        task = self._loop.create_task(self._connect(made))
        self._tasks.add(task)
        task.add_done_callback(self._begun)
        self.beginning += 1

    async def _connect(self, made: socket.socket) -> None:
        context = self._context()
        secured = context is not None
        counted = True

        def count_no_more() -> None:
            nonlocal counted
            self.beginning -= counted
            counted = False

        def protocol() -> TimedHandler:
            handler = self.connections.handler(self._server)
            handler.on_made = count_no_more  # from there on it is one of `connections`
            return handler

        try:
            await self._loop.connect_accepted_socket(
                protocol,
                made,
                ssl=context,
                ssl_handshake_timeout=self.connections.limits.tls_handshake if secured else None,
                ssl_shutdown_timeout=_TLS_CLOSE if secured else None,
            )
        except OSError as error:  # also TLS errors and timeouts
            if secured:
                self.connections.on_closed("tls_handshake")
            _log.debug("a connection could not be set up: %s", error)
            made.close()
        except asyncio.CancelledError:
            made.close()
            raise
        finally:
            count_no_more()

    def _begun(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection could not be accepted", exc_info=error)

    def _refuse(self, made: socket.socket | None, reason: str) -> None:
        """Refuse a connection: with a response, unless it uses TLS, a metric and a log record."""
        self._on_refused(reason)
        if made is not None:
            with contextlib.suppress(OSError), made:
                made.setblocking(False)
                if self._context() is None:
                    made.send(_OVERLOADED)
                    made.shutdown(socket.SHUT_WR)
                    made.recv(65_536)  # unread input makes the system send a reset, which may overtake the response
        self._refused += 1
        now = self._loop.time()
        if now - self._logged >= _LOG_SECONDS:
            what = "file descriptors are left" if reason == "descriptors" else "room is left"
            _log.warning("refused %d connections: no %s", self._refused, what)
            self._refused, self._logged = 0, now


def _bound(family: int, address: Any, port: int, backlog: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address[0], port, *address[2:]))
        made.listen(backlog)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
