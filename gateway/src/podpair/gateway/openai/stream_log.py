"""Streams on the results topic: written by the gateway that generates, read and followed by any.

Invariant: what a client gets of a stream is read from the log, also at the gateway that writes it; so no client has seen what
another gateway can't give. The log is the only state.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from functools import partial

import msgspec
from confluent_kafka import KafkaException

from podpair.gateway.components import Components
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.record_headers import answer_headers
from podpair.gateway.core.record_times import unix_seconds
from podpair.gateway.kafka.producer import DeliveryError, Outgoing
from podpair.gateway.openai.core.errors import ApiError
from podpair.gateway.openai.core.stream_ids import StreamId, key_of, new_name
from podpair.gateway.openai.core.stream_records import (
    TYPE,
    Begin,
    Ending,
    Events,
    Note,
    StreamRecord,
    StreamState,
    encode_record,
)

_log = logging.getLogger(__name__)
_LOOK = 1.0  # seconds after which the log is read although nothing was delivered
ALIVE_SECONDS = 5.0
"""How often a stream that generates nothing says that it goes on."""
_ABANDONED = 6 * ALIVE_SECONDS  # without a record, after which its gateway is taken for gone
_RECORD_BYTES = 1 << 17  # of events in one record, if there is more than one
_TOO_LARGE = "its end is larger than a record of the results topic may be"


class StreamLog:
    """Creates, writes and reads streams. source: the gateway's name."""

    def __init__(self, components: Components, topic: str, source: str) -> None:
        self._components = components
        self._topic = topic
        self._source = source

    async def create(self, kind: str, begin: Begin) -> StreamId:
        """Write a stream's first record; return its id, once the broker has acknowledged it. Raises ApiError."""
        name = new_name()
        key = key_of(kind, name)
        producer = self._components.kafka.producer
        if (why := producer.refusal) is not None:
            raise ApiError(503, "the stream can't be stored now", retry_after=2) from DeliveryError(why)
        try:
            headers, partition = self._headers(key, name), self._components.homes.of(key)
            written = await producer.write(
                self._topic, encode_record(begin), key=key.encode(), headers=headers, partition=partition
            )
        except DeliveryError as error:
            if error.too_large:
                raise ApiError(413, "the request is larger than a record of the results topic may be") from None
            raise ApiError(503, "the stream can't be stored now", retry_after=2) from error
        return StreamId(kind, written.partition, written.offset, name)

    def _headers(self, key: str, name: str) -> list[tuple[str, bytes]]:
        return answer_headers(TYPE, request_id=name, session=key.encode(), source=self._source, now=time.time())

    async def append(self, stream: StreamId, record: StreamRecord) -> None:
        """Write a further record; return once the broker has acknowledged it, however long that takes."""
        fallback = None
        if isinstance(record, Events):
            fallback = partial(self._outgoing, stream, Note("lost", _TOO_LARGE))
        await self._components.kafka.producer.send_until_acked(self._outgoing(stream, record, fallback))

    def _outgoing(
        self, stream: StreamId, record: StreamRecord, fallback: "partial[Outgoing] | None" = None
    ) -> Outgoing:
        headers = self._headers(stream.key, stream.name)
        describe = partial("a record of stream {}".format, stream.name)
        return Outgoing(
            self._topic, encode_record(record), stream.key.encode(), headers, describe, fallback, stream.partition
        )

    async def read(self, stream: StreamId) -> StreamState | None:
        """Return the state of a stream as the log has it now; None if there is none. Raises ApiError if it can't be read.

        A stream whose newest record is old is watched for a while: if none follows, its gateway is gone, and it ends.
        """
        state, _, newest = await self._read_to_end(stream)
        if state is None or state.ending is not None or time.time() - _written(newest) < _ABANDONED:
            return state
        await asyncio.sleep(2 * ALIVE_SECONDS)
        # Clocks may differ, and the broker may have been away: only a stream that stays silent is lost.
        state, _, now_newest = await self._read_to_end(stream)
        if state is None or state.ending is not None or now_newest[0] != newest[0]:
            return state
        await self.append(stream, Note("lost"))
        state, _, _ = await self._read_to_end(stream)
        return state

    async def _read_to_end(self, stream: StreamId) -> tuple[StreamState | None, int, Record]:
        """Return the state, where to go on, and the newest record (of no meaning if there is no state)."""
        newest: Record = (-1, None, None)
        if stream.partition >= self._components.homes.partitions:
            return None, 0, newest
        state, key, start = StreamState(), stream.key.encode(), stream.offset
        try:
            low, high = await self._components.kafka.reader.watermarks(stream.partition)
            if not low <= start < high:
                return None, 0, newest
            found, start = await self._records(stream, key, start, start + 1)
            if len(found) != 1 or found[0][0] != stream.offset:
                return None, 0, newest  # another one's place: no more is read for an id that was made up
            while True:
                for record in found:
                    state.add(record[1])
                    newest = record
                if start >= high:
                    break
                found, start = await self._records(stream, key, start, high)
        except KafkaException as error:
            raise ApiError(503, "the stream can't be read now", retry_after=2) from error
        return (None if state.begin is None else state), start, newest

    async def _records(self, stream: StreamId, key: bytes, start: int, end: int) -> tuple[list[Record], int]:
        """Return records from `start` on, and how far they reach: at most to `end`."""
        tail = self._components.sessions.fanout.tails.get(stream.partition)
        if tail is not None and tail.start <= start and end <= tail.end:
            return [record for record in tail.since(key, start) if record[0] < end], end
        found = await self._components.kafka.log_reader.read(stream.partition, key, start, end)
        return found.records, found.end

    async def follow(self, stream: StreamId) -> AsyncIterator[StreamState]:
        """Yield the state of a stream each time it has changed, and at least every second, until it has ended.

        Yields nothing if there is no such stream. Raises ApiError if it can't be read.
        """
        key, epoch = stream.key.encode(), self._components.homes.epoch
        wake = asyncio.Event()
        fanout, reader = self._components.sessions.fanout, self._components.kafka.reader
        fanout.watch(key, wake)
        lease = None
        try:
            lease = await reader.acquire(stream.key)
            state, start, _ = await self._read_to_end(stream)
            heard = time.monotonic()
            while state is not None:
                yield state
                if state.ending is not None:
                    return
                try:
                    async with asyncio.timeout(_LOOK):
                        await wake.wait()
                except TimeoutError:
                    pass
                wake.clear()
                if not self._is_topic_of(epoch):
                    state.ending = Ending("lost", "the results topic was made again")
                    continue
                found, start = await self._since(stream, key, start)
                for record in found:
                    state.add(record[1])
                # While no broker answers, silence says nothing.
                heard = time.monotonic() if found or self._components.kafka.producer.refusal is not None else heard
                if time.monotonic() - heard > _ABANDONED:
                    await self.append(stream, Note("lost"))
        except KafkaException as error:
            raise ApiError(503, "the stream can't be read now", retry_after=2) from error
        finally:
            fanout.unwatch(key, wake)
            if lease is not None:
                lease.release()

    def _is_topic_of(self, epoch: str) -> bool:
        """Return whether offsets of this epoch still mean the same."""
        homes = self._components.homes
        return homes.epoch == epoch or epoch in homes.siblings

    async def _since(self, stream: StreamId, key: bytes, start: int) -> tuple[list[Record], int]:
        """Return the stream's records that came since `start`, and where to go on."""
        tail = self._components.sessions.fanout.tails.get(stream.partition)
        if tail is not None and tail.start <= start:
            return tail.since(key, start), max(start, tail.end)
        _, high = await self._components.kafka.reader.watermarks(stream.partition)
        found: list[Record] = []
        while start < high:
            more, start = await self._records(stream, key, start, high)
            found += more
        return found, start


class StreamWriter:
    """Writes the events of one stream, in order: those that come while the broker has not acknowledged are one record."""

    def __init__(self, log: StreamLog, stream: StreamId) -> None:
        self._log = log
        self._stream = stream
        self._waiting: list[msgspec.Raw] = []
        self._written = 0
        self._last = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._write())

    async def add(self, events: list[bytes], *, last: bool = False) -> None:
        """Add events; wait while too many are waiting for the broker."""
        self._waiting += map(msgspec.Raw, events)
        self._last = last
        self._wake.set()
        while len(self._waiting) >= _MOST_WAITING and not self._task.done():
            self._room.clear()
            await self._room.wait()

    async def finish(self) -> None:
        """Wait until all of a stream that has its last event is acknowledged."""
        await self._task

    async def _write(self) -> None:
        while True:
            try:
                async with asyncio.timeout(ALIVE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                await self._log.append(self._stream, Note("alive"))
                continue
            self._wake.clear()
            while self._waiting or self._last:
                count = _fitting(self._waiting)
                events, self._waiting = self._waiting[:count], self._waiting[count:]
                self._room.set()
                last = self._last and not self._waiting
                await self._log.append(self._stream, Events(self._written, events, last))
                self._written += len(events)
                if last:
                    return

    async def close(self) -> None:
        """Stop writing."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


_MOST_WAITING = 1000


def _fitting(events: list[msgspec.Raw]) -> int:
    """Return how many of these events become one record: one at least, if there is any."""
    size = 0
    for count, event in enumerate(events):
        size += len(bytes(event))
        if count and size > _RECORD_BYTES:
            return count
    return len(events)


def _written(record: Record) -> float:
    """Return when a record of a stream was written, in Unix seconds; 0 if it does not say so."""
    times = [value for name, value in record[2] or () if name == "ce_time" and value is not None]
    try:
        return unix_seconds(times[0])
    except (IndexError, ValueError):
        return 0.0
