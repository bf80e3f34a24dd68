"""Streams a direct result to a client that may be slow, or away for a while.

Invariants: a chunk is sent once per connection, in order; chunks that wait for a slow client are bounded and sent as one
partial; at the bound the model is read no further until the client has caught up. A connection that takes the session over gets
nothing of the stream until its client says which chunks it has: then one merged prefix, and the live tail.
"""

import asyncio
from collections import deque

from podpair.gateway.core.chunks import join_chunks, partial_event
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session


class LiveStream:
    """The chunks of one request. `limit` bytes of them are kept for a client that comes back."""

    def __init__(self, session: Session, request_id: str, limit: int, patience: float) -> None:
        self._session = session
        self._id = request_id
        self._limit = limit
        self._patience = patience  # seconds for which a client may read nothing
        self._connection: Connection | None = session.connection  # the one that the chunks were sent to
        self._kept: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._next = 0  # number of the first chunk that is not sent
        self._first = 0  # number of the first chunk that is kept, or that would be
        self._waiting: asyncio.Task[None] | None = None

    async def send_chunk(self, seq: int, data: bytes) -> None:
        """Send the next chunk; return when another can be accepted."""
        self._kept.append((seq, data))
        self._size += len(data)
        self._flush()
        self._drop_sent()
        while self._size > self._limit and self._waiting is not None:
            await asyncio.shield(self._waiting)
            self._drop_sent()
        while self._size > self._limit:
            self._drop()  # no client is connected: the result has all of it

    def _drop_sent(self) -> None:
        while self._size > self._limit and self._kept[0][0] < self._next:
            self._drop()

    def _drop(self) -> None:
        seq, data = self._kept.popleft()
        self._first = seq + 1
        self._size -= len(data)

    def resume(self, seen: int) -> None:
        """Continue behind chunk `seen`, the last that the client has, on the session's connection."""
        if self._first > seen + 1:
            return  # missing chunks are not kept any more: send none rather than leave a hole; the result has all
        self._connection = self._session.connection
        self._next = seen + 1
        self._flush()

    async def flush(self) -> None:
        """Wait until all chunks are sent, or no client is connected."""
        while self._waiting is not None:
            await asyncio.shield(self._waiting)

    def close(self) -> None:
        """Send nothing more."""
        if self._waiting is not None:
            self._waiting.cancel()

    @property
    def _receiver(self) -> Connection | None:
        connection = self._connection
        return connection if connection is self._session.connection and connection and connection.open else None

    def _flush(self) -> None:
        connection = self._receiver
        if connection is None or self._waiting is not None:
            return
        if connection.congested:
            self._waiting = asyncio.create_task(self._when_drained(connection))
            return
        unsent = [(seq, data) for seq, data in self._kept if seq >= self._next]
        if not unsent:
            return
        self._next = unsent[-1][0] + 1
        joined = join_chunks([data for _, data in unsent])
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
