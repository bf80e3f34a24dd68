"""HTTP/1.1 to the model next door, for its calls: one write a call, one future, no more.

aiohttp's client does far more for each request than a call on localhost needs, and the direct route pays it for every
batch; it stays for everything that isn't a call (`upstream.rest`). Invariant: a connection carries one call at a time;
one that was given up in the middle (a deadline, nobody waits) is closed, which is how the model learns of it.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from podpair.gateway.core.attempts import Unavailable

_KEEP = 20.0  # seconds that an idle connection is kept; V2 servers keep theirs longer
_RESTED = 1.0  # seconds idle after which a connection may be about to be closed by the server
_LARGEST = 1 << 30  # bytes of an answer
_SIZED = frozenset({b"content-length", b"transfer-encoding"})


class Response(NamedTuple):
    """An answer. The names of its headers are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, and the call on it."""

    def __init__(self, pool: "HttpPool") -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[Response] | None = None
        self.idle_since = 0.0
        self.begun = False  # something of the answer has come
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._headed = False  # the headers are complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, data: bytes, answer: "asyncio.Future[Response]") -> None:
        """Begin a call."""
        assert self.transport is not None  # noqa: S101
        self.answer = answer
        self.begun = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers = {}
        self._parts = []
        self._size = 0
        self._headed = False
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.begun = True
        if self._parser is None:
            self.abort()  # it speaks without having been asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Unavailable(f"{self.pool.url}: its answer is not HTTP: {error}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._headed = True

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > _LARGEST:
            raise ValueError("the answer is too large")
        self._parts.append(body)

    def on_message_complete(self) -> None:
        parts, answer, parser = self._parts, self.answer, self._parser
        self.answer = None
        assert parser is not None  # noqa: S101 - it calls
        status = parser.get_status_code()
        if answer is None or not parser.should_keep_alive():
            self.abort()
        else:
            self.pool.release(self)
        if answer is not None and not answer.done():
            answer.set_result(Response(status, self._headers, parts[0] if len(parts) == 1 else b"".join(parts)))

    def eof_received(self) -> None:
        if self.answer is not None and self._headed and not _SIZED.intersection(self._headers):
            self.on_message_complete()  # a body that ends with the connection

    def connection_lost(self, error: Exception | None) -> None:
        self.pool.forget(self)
        self._fail(Unavailable(f"{self.pool.url}: {error or 'it closed the connection'}", midway=True))

    def _fail(self, error: Exception) -> None:
        answer, self.answer = self.answer, None
        self.abort()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def abort(self) -> None:
        """Close it, now."""
        if self.transport is not None:
            self.transport.abort()


class HttpPool:
    """Connections to one server, as many as there are calls at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2].encode()
        self._idle: deque[_Connection] = deque()
        self._all: set[_Connection] = set()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._heads: dict[str, bytes] = {}

    async def post(self, path: str, headers: Iterable[tuple[str, str]], body: bytes, timeout: float) -> Response:
        """POST, and the whole answer. Raises Unavailable, or TimeoutError after `timeout` seconds.

        Cancelled, it closes the connection.
        """
        head = self._heads.get(path)
        if head is None:
            if len(self._heads) > 1000:
                self._heads.clear()
            head = self._heads[path] = b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (
                (self._prefix + path).encode(), self._authority,
            )  # fmt: skip
        lines = b"".join([b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in headers])
        data = b"%b%bContent-Length: %d\r\n\r\n%b" % (head, lines, len(body), body)
        deadline = self._loop.time() + timeout
        connection = self._take()
        if connection is not None:
            rested = self._loop.time() - connection.idle_since
            try:
                return await self._call(connection, data, deadline)
            except Unavailable:
                # One that has rested may be closed by the server while we write to it, which is nobody's failure.
                if rested < _RESTED or connection.begun:
                    raise
        try:
            fresh = await self._connect(timeout)
        except Unavailable as error:
            error.midway = connection is not None  # it had the request when it went away
            raise
        return await self._call(fresh, data, deadline)

    async def _call(self, connection: _Connection, data: bytes, deadline: float) -> Response:
        answer: asyncio.Future[Response] = self._loop.create_future()
        timer = self._loop.call_at(deadline, _time_out, answer)
        connection.send(data, answer)
        try:
            return await answer
        except (TimeoutError, asyncio.CancelledError):
            connection.answer = None
            connection.abort()
            raise
        finally:
            timer.cancel()

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            transport = connection.transport
            if transport is None or transport.is_closing():
                continue
            if self._loop.time() - connection.idle_since > _KEEP:
                connection.abort()
                continue
            return connection
        return None

    async def _connect(self, timeout: float) -> _Connection:
        try:
            async with asyncio.timeout(timeout):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._ssl
                )
        except (OSError, ssl.SSLError) as error:  # TimeoutError is an OSError
            raise Unavailable(f"{self.url}: {str(error) or type(error).__name__}") from None
        self._all.add(connection)
        return connection

    def release(self, connection: _Connection) -> None:
        """The connection is free again."""
        if self._closed:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        oldest = self._idle[0]
        if oldest.idle_since < connection.idle_since - _KEEP:
            self._idle.popleft()
            oldest.abort()

    def forget(self, connection: _Connection) -> None:
        """The connection is gone."""
        self._all.discard(connection)

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for connection in list(self._all):
            connection.abort()


def _time_out(answer: "asyncio.Future[Response]") -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
