"""An HTTP/1.1 connection pool for calls to the model: one write a call, one future, no more.

aiohttp's client does far more for each request than a call on localhost needs, and the direct route pays it for every
batch; it stays for everything that isn't a call (`upstream.rest`). Invariants: a connection carries one call at a time; one
that was given up in the middle (a deadline, nobody waits) is closed, which is how the model learns of it; and a connection is
used again only after an answer that is known to be whole (`core.http_response`), to a request that was sent to its end, and
while nothing has come on it since. So nobody gets the answer to another's request.
"""

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from typing import cast
from urllib.parse import urlsplit

from podpair.gateway.core.http_response import (
    BadResponse,
    Response,
    ResponseReader,
    ResponseTooLarge,
    whole_response,
)
from podpair.gateway.core.model_errors import Failed, TooLarge, Unavailable

_KEEP = 20.0  # seconds that an idle connection is kept; V2 servers keep theirs longer
_RESTED = 1.0  # seconds idle after which a connection may be about to be closed by the server


class _Connection(asyncio.Protocol):
    """One connection, and the call on it."""

    def __init__(self, pool: "HttpPool") -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[Response] | None = None
        self.idle_since = 0.0  # 0: it has not carried a call yet
        self.begun = False  # something has come since the last call began, or since there is a connection
        self._bodiless = False  # the call is HEAD
        self._reader: ResponseReader | None = None  # of an answer that comes in pieces
        self._poll: select.poll | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.pool.add(self)
        made = transport.get_extra_info("socket")
        if made is not None and hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(made.fileno(), select.POLLIN)

    def untouched(self) -> bool:
        """Return whether the server has sent nothing, not even its end, that the loop has not read yet."""
        return self._poll is None or not self._poll.poll(0)

    def send(self, data: bytes, answer: "asyncio.Future[Response]", *, bodiless: bool) -> None:
        """Begin a call. `bodiless`: it is HEAD."""
        transport = self.transport
        assert transport is not None  # noqa: S101
        if not self.idle_since and (transport.is_closing() or not self.untouched()):  # it is new
            self.abort()
            answer.set_exception(Unavailable(f"{self.pool.url}: it speaks, or ends, before it is asked"))
            return
        self.answer = answer
        self.begun = False
        self._bodiless = bodiless
        transport.write(data)

    def give_up(self, answer: "asyncio.Future[Response]") -> None:
        """Abandon the call with this answer, because nobody waits for it any more.

        Where that is there already, the connection may have the next call: it is not this one's to close.
        """
        if self.answer is answer:
            self.answer = None
            self.abort()

    def data_received(self, data: bytes) -> None:
        self.begun = True
        if self.answer is None:
            self.abort()  # it speaks without having been asked
            return
        reader, response, reusable = self._reader, None, True
        try:
            if reader is None and not self._bodiless:
                response = whole_response(data, self.pool.limit)
            if response is None:
                if reader is None:
                    reader = self._reader = ResponseReader(self.pool.limit, bodiless=self._bodiless)
                response, reusable = reader.feed(data), reader.reusable
        except BadResponse as error:
            self._fail(Failed(f"its answer is not HTTP/1.1: {error}"))
        except ResponseTooLarge:
            self._fail(TooLarge(self.pool.limit))
        else:
            if response is not None:
                self._answered(response, reusable=reusable)

    def eof_received(self) -> None:
        response = self._reader.end() if self._reader is not None else None
        if response is not None:  # its body ended with the connection
            self._answered(response, reusable=False)

    def _answered(self, response: Response, *, reusable: bool) -> None:
        answer, self.answer, self._reader = self.answer, None, None
        transport = self.transport
        assert transport is not None  # noqa: S101
        # An answer may come before all of the request is sent: the rest of it would be the next one's beginning.
        if reusable and not transport.get_write_buffer_size():
            self.pool.release(self)
        else:
            self.abort()
        if answer is not None and not answer.done():
            answer.set_result(response)

    def connection_lost(self, error: Exception | None) -> None:
        self.pool.remove(self)
        self._poll = None
        self._fail(Unavailable(f"{self.pool.url}: {error or 'it closed the connection'}", midway=True))

    def _fail(self, error: Exception) -> None:
        answer, self.answer = self.answer, None
        self.abort()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def abort(self) -> None:
        """Close it, now."""
        self._reader = None
        if self.transport is not None:
            self.transport.abort()


class HttpPool:
    """Connections to one server, as many as there are calls at a time; answers of at most `limit` bytes."""

    def __init__(self, url: str, limit: int = 1 << 26) -> None:
        parts = urlsplit(url)
        self.url = url
        self.limit = limit
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

    async def request(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None, timeout: float
    ) -> Response:
        """Send an occasional request of any method but CONNECT; otherwise as `post`. `target`: path and query, encoded."""
        lines = [f"{method} {self._prefix}{target} HTTP/1.1\r\nHost: {self._authority.decode()}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}\r\n")
        head = "".join(lines).encode("utf-8", "surrogateescape")
        return await self._send(b"%b\r\n%b" % (head, body or b""), timeout, bodiless=method == "HEAD")

    def post(self, path: str, fields: bytes, body: Sequence[bytes], timeout: float) -> Awaitable[Response]:
        """Send a POST, and return the whole answer. `fields`: header lines, each with its end. `body`: its parts, in order.

        Raises Unavailable, Failed, or TimeoutError after `timeout` seconds. Cancelled, it closes the connection.
        """
        head = self._heads.get(path)
        if head is None:
            if len(self._heads) > 1000:
                self._heads.clear()
            head = self._heads[path] = b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (
                (self._prefix + path).encode(), self._authority,
            )  # fmt: skip
        size = b"%bContent-Length: %d\r\n\r\n" % (fields, sum(map(len, body)))
        return self._send(b"".join((head, size, *body)), timeout)

    async def _send(self, data: bytes, timeout: float, *, bodiless: bool = False) -> Response:
        loop = self._loop
        now = loop.time()
        connection, sent = self._take(now), False
        while True:
            rested = connection is not None and now - connection.idle_since >= _RESTED
            if connection is None:
                try:
                    connection = await self._connect(timeout)
                except Unavailable as error:
                    error.midway = sent  # a server that went away had the request before
                    raise
            answer: asyncio.Future[Response] = loop.create_future()
            timer = loop.call_at(now + timeout, _time_out, answer)
            connection.send(data, answer, bodiless=bodiless)
            try:
                return await answer
            except (TimeoutError, asyncio.CancelledError):
                connection.give_up(answer)
                raise
            except Unavailable:
                # One that has rested may be closed by the server while we write to it, which is nobody's failure.
                if not rested or connection.begun:
                    raise
            finally:
                timer.cancel()
            connection, sent = None, True

    def _take(self, now: float) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            transport = connection.transport
            if transport is None or transport.is_closing():
                continue
            if now - connection.idle_since > _KEEP or not connection.untouched():
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
            raise Unavailable(f"{self.url}: {str(error) or type(error).__name__}", down=True) from None
        return connection

    def release(self, connection: _Connection) -> None:
        """Return a connection to the pool."""
        if self._closed:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        oldest = self._idle[0]
        if oldest.idle_since < connection.idle_since - _KEEP:
            self._idle.popleft()
            oldest.abort()

    def add(self, connection: _Connection) -> None:
        """Add a connection to the pool."""
        self._all.add(connection)

    def remove(self, connection: _Connection) -> None:
        """Remove a closed connection from the pool."""
        self._all.discard(connection)

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for connection in list(self._all):
            connection.abort()


def _time_out(answer: "asyncio.Future[Response]") -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
