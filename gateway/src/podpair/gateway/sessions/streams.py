"""A streamed answer on the direct route, on its way to a client that may be slow, or away for a while.

Invariants: a part is sent once to a connection, in order; what waits for a slow client is bounded and goes out as one
partial; then the model is read no further until the client has taken it. A connection that takes the session over gets
nothing of the stream until its client says what it has: then one merged prefix, and the live tail.
"""

import asyncio
from collections import deque

from podpair.gateway.core.partials import join, partial_event
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session


class LiveStream:
    """The parts of one request. `limit` bytes of them are kept, for a client that comes back."""

    def __init__(self, session: Session, request_id: str, limit: int, patience: float) -> None:
        self._session = session
        self._id = request_id
        self._limit = limit
        self._patience = patience  # seconds that a client may take nothing
        self._connection: Connection | None = session.connection  # the one whose client has what was sent
        self._kept: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._next = 0  # the first part that is not sent
        self._first = 0  # the first part that is kept, or that would be
        self._waiting: asyncio.Task[None] | None = None

    async def part(self, seq: int, data: bytes) -> None:
        """The next part; returns when another can be taken."""
        self._kept.append((seq, data))
        self._size += len(data)
        self._flush()
        self._forget_sent()
        while self._size > self._limit and self._waiting is not None:
            await asyncio.shield(self._waiting)
            self._forget_sent()
        while self._size > self._limit:
            self._drop()  # nobody is there: the result will have all of it

    def _forget_sent(self) -> None:
        while self._size > self._limit and self._kept[0][0] < self._next:
            self._drop()

    def _drop(self) -> None:
        seq, data = self._kept.popleft()
        self._first = seq + 1
        self._size -= len(data)

    def resume(self, seen: int) -> None:
        """The client, on whatever connection, has the parts up to `seen`."""
        if self._first > seen + 1:
            return  # what is missing is not kept any more: no part rather than a hole, the result has the whole
        self._connection = self._session.connection
        self._next = seen + 1
        self._flush()

    async def finished(self) -> None:
        """Return when all parts are sent, or nobody is there to take them."""
        while self._waiting is not None:
            await asyncio.shield(self._waiting)

    def close(self) -> None:
        """Nothing more is sent."""
        if self._waiting is not None:
            self._waiting.cancel()

    @property
    def _taker(self) -> Connection | None:
        connection = self._connection
        return connection if connection is self._session.connection and connection and connection.open else None

    def _flush(self) -> None:
        connection = self._taker
        if connection is None or self._waiting is not None:
            return
        if connection.congested:
            self._waiting = asyncio.create_task(self._when_drained(connection))
            return
        unsent = [(seq, data) for seq, data in self._kept if seq >= self._next]
        if not unsent:
            return
        self._next = unsent[-1][0] + 1
        joined = join([data for _, data in unsent])
        if joined is not None:
            events = [partial_event(self._id, unsent[0][0], unsent[-1][0], joined)]
        else:
            events = [partial_event(self._id, seq, seq, data) for seq, data in unsent]
        self._session.send_all(events)

    async def _when_drained(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await connection.drained()
        except TimeoutError:
            connection.close(CloseCode.SLOW, "too slow: resume to go on")
        finally:
            self._waiting = None
        self._flush()
