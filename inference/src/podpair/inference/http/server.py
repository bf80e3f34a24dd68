"""The REST front: listens, gives requests to their handlers, and ends connections that don't get on.

It is an HTTP/1.1 server of its own because a general one costs several times what a run of a small model does, and this one
about as much as the run (`make bench-http`, docs/benchmarks.md): requests that need no task get none, and heads and routes are
looked up, not parsed. What the protocol allows is decided by llhttp (`heads`, `chunked_body`), and by RFC 9110 and 9112 where
llhttp takes more; tests/inference/http_cases.yaml holds what may come and what is right.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

from podpair.inference.config.addresses import refuse_taken
from podpair.inference.core.errors import InferenceError
from podpair.inference.core.held import HeldBytes
from podpair.inference.http.connection import Connection
from podpair.inference.http.failures import Failures
from podpair.inference.http.heads import Heads
from podpair.inference.http.requests import Request, Response
from podpair.inference.http.routing import Route, Routes

log = logging.getLogger(__name__)

# What is read at once where no body is expected: a small request, or the head of a large one, the rest of which then goes
# straight into its own memory. What comes here is copied twice.
_SCRATCH_BYTES = 16_384
_TICK_SECONDS = 1.0


class Server:
    """All connections of one process; its methods belong to the loop's thread.

    max_body_bytes: of one request. held: all requests that are too large for one read.
    """

    def __init__(self, routes: Routes, failures: Failures, max_body_bytes: int, held: HeldBytes) -> None:
        self.max_body_bytes = max_body_bytes
        self.held = held
        self.heads = Heads()
        # Where connections read to, one after the other.
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self.connections: set[Connection] = set()
        # The Date header.
        self.date = b""
        self.closing = False
        # Set when the last connection ends.
        self._empty = asyncio.Event()
        self._routes = routes
        self._failures = failures
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._socket: Path | None = None
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tick()

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Take connections at an address; the address. Raises OSError if it is taken."""
        listener = await self._loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        self._listeners.append(listener)
        address = listener.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def listen_unix(self, path: Path) -> None:
        """Take connections at a Unix socket, which takes the place of one that nobody listens at. Raises OSError."""
        refuse_taken(path)
        listener = await self._loop.create_unix_server(lambda: Connection(self), str(path), backlog=1024)
        self._listeners.append(listener)
        self._socket = path

    async def close(self, seconds: float) -> None:
        """Take no more connections, end those that are idle, and wait so long for the answers of the others."""
        self.closing = True
        for listener in self._listeners:
            listener.close()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        for connection in list(self.connections):
            connection.close()
        if self.connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
        for connection in list(self.connections):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    def files(self) -> Iterator[int]:
        """File descriptors of its sockets."""
        for listener in self._listeners:
            yield from (opened.fileno() for opened in listener.sockets)
        yield from (number for connection in list(self.connections) if (number := connection.file) >= 0)

    # What connections ask for.

    def left(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if self.closing and not self.connections:
            self._empty.set()

    def run(self, request: Request) -> None:
        """Have a request answered."""
        route = self._routes.find(request.head)
        if not route.direct:
            task = self._loop.create_task(self._answer(route, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            request.gone = task.cancel
            return
        try:
            route.handler(request)
        except Exception as error:
            self._fail(request, error)

    def failed(self, error: InferenceError, request: Request | None) -> Response:
        """A failure as an answer, counted."""
        return self._failures.failed(error, request)

    def refused(self, status: int, message: str) -> Response:
        """The answer to what isn't a request, counted."""
        return self._failures.refused(status, message)

    async def _answer(self, route: Route, request: Request) -> None:
        try:
            response: Any = await route.handler(request)
        except Exception as error:
            self._fail(request, error)
        else:
            if response is not None:
                request.answer(response)

    def _fail(self, request: Request, error: Exception) -> None:
        response = self._failures.explained(error, request)
        if request.started:
            request.cut()
        else:
            request.answer(response)

    def _tick(self) -> None:
        now = self.now()
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self.connections):
            connection.tick(now)
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)
