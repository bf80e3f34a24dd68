"""The REST server: listens, dispatches requests to their handlers, and closes connections that make no progress.

It has its own HTTP/1.1 implementation because a general one costs several times what a run of a small model does, and this one
about as much as the run (`make bench-http`, docs/benchmarks.md): requests that need no task get none, and heads and routes are
looked up, not parsed. What the protocol allows is decided by llhttp (`request_head`, `request_body`), and by RFC 9110 and
9112 where llhttp accepts more; tests/inference/http1/corpus.yaml holds possible inputs and the right answers.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

from podpair.inference.config.addresses import refuse_taken
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.http1.connection import Connection
from podpair.inference.http1.request_head import HeadParser
from podpair.inference.http1.requests import ErrorResponses, Request
from podpair.inference.http1.routes import Route, Routes

log = logging.getLogger(__name__)

# How much is read at once while no body is expected: a small request, or the head of a large one, the rest of which is then
# read straight into its own memory. What is read here is copied twice.
_SCRATCH_BYTES = 16_384
_TICK_SECONDS = 1.0


class Server:
    """All connections of one process; its methods belong to the loop's thread.

    max_body_bytes: of one request. budget: of all requests together that are too large for one read.
    """

    def __init__(self, routes: Routes, errors: ErrorResponses, max_body_bytes: int, budget: MemoryBudget) -> None:
        self.max_body_bytes = max_body_bytes
        self.budget = budget
        self.head_parser = HeadParser()
        # The buffer that connections read into, one after the other.
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self.connections: set[Connection] = set()
        # The Date header.
        self.date = b""
        self.closing = False
        # Set when the last connection ends.
        self._empty = asyncio.Event()
        self._routes = routes
        self.errors = errors
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._socket: Path | None = None
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tick()

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept connections at an address. Return the address. Raises OSError if it is taken."""
        listener = await self._loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        self._listeners.append(listener)
        address = listener.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def listen_unix(self, path: Path) -> None:
        """Accept connections at a Unix socket, replacing one that nobody listens at. Raises OSError."""
        refuse_taken(path)
        listener = await self._loop.create_unix_server(lambda: Connection(self), str(path), backlog=1024)
        self._listeners.append(listener)
        self._socket = path

    async def close(self, seconds: float) -> None:
        """Accept no more connections, close the idle ones, and wait up to `seconds` for the answers of the others."""
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
        """Yield the file descriptors of its sockets."""
        for listener in self._listeners:
            yield from (opened.fileno() for opened in listener.sockets)
        yield from (number for connection in list(self.connections) if (number := connection.file) >= 0)

    # Called by connections.

    def on_closed(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self.connections.discard(connection)
        if self.closing and not self.connections:
            self._empty.set()

    def run(self, request: Request) -> None:
        """Have a request answered."""
        route, request.path_params = self._routes.find(request.head)
        if not route.direct:
            task = self._loop.create_task(self._answer(route, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            request.on_disconnect = task.cancel
            return
        try:
            route.handler(request)
        except Exception as error:
            self._fail(request, error)

    async def _answer(self, route: Route, request: Request) -> None:
        try:
            response: Any = await route.handler(request)
        except Exception as error:
            self._fail(request, error)
        else:
            if response is not None:
                request.answer(response)

    def _fail(self, request: Request, error: Exception) -> None:
        response = self.errors.for_exception(error, request)
        if request.started:
            request.abort()
        else:
            request.answer(response)

    def _tick(self) -> None:
        now = self.now()
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self.connections):
            connection.tick(now)
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)
