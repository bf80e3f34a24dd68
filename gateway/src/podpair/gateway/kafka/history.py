"""Reads what a returning session has missed and no tail holds any more: Kafka's log is the history.

Sessions that ask for the same partition at the same time, as after a gateway's death, share one pass over it.

Invariant: a pass is bounded in what it reads and in what it keeps, so that neither a long log nor thousands of sessions hold
up the other partitions or fill the memory; whoever has not got all of it by then asks again for the rest.
"""

import asyncio
import threading
from collections import defaultdict
from typing import NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.core.tails import Record
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.offsets import UNKNOWN, learn
from podpair.gateway.kafka.supervisor import Calls, Supervisor, is_dead
from podpair.gateway.kafka.threads import call_on

_CHUNK_BYTES = 1 << 19  # of one session's records in one answer
_PASS_BYTES = 1 << 25  # that one pass keeps, for all who wait for it
_PASS_READS = 1 << 27  # bytes that one pass reads
_PATIENCE = 10.0  # seconds without a record before the pass is given up


class Chunk(NamedTuple):
    """A session's records from an offset up to `end` (excluded)."""

    records: list[Record]
    end: int


class _Query:
    __slots__ = ("end", "future", "key", "records", "size", "start")

    def __init__(self, key: bytes, start: int, end: int, future: "asyncio.Future[Chunk]") -> None:
        self.key = key
        self.start = start
        self.end = end
        self.future = future
        self.records: list[Record] = []
        self.size = 0

    @property
    def full(self) -> bool:
        return self.size >= _CHUNK_BYTES


class _Silent(KafkaException):
    """Nothing came of a partition, not even its end."""


class History:
    """A thread with a consumer of its own, one pass at a time."""

    def __init__(self, config: Config, supervisor: Supervisor | None = None) -> None:
        self._client = None if supervisor is None else supervisor.watch("history", self._replace)
        self._topic = config.results.topic
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._waiting: dict[int, list[_Query]] = defaultdict(list)
        self._wake = threading.Condition()
        self._stopping = False
        self._stale = False  # the consumer knows of a topic that is not there any more, or has other partitions now
        self._in_hand: list[_Query] = []  # of the pass that is under way
        self._thread = self._begin()

    def _begin(self) -> threading.Thread:
        calls = Calls() if self._client is None else self._client.calls()
        self._turn = turn = object()  # whose turn it is: a thread that was given up sees another
        thread = threading.Thread(target=self._run, args=(turn, calls), name="kafka-history", daemon=True)
        thread.start()
        return thread

    def _replace(self) -> None:
        """Read with another consumer: this one is dead, or does not come back."""
        with self._wake:
            given_up, self._in_hand = self._in_hand, []
            self._thread = self._begin()
            self._wake.notify_all()
        for query in given_up:
            self._settle(query, KafkaException(KafkaError(KafkaError._TIMED_OUT, "its Kafka client was replaced")))
        if self._client is not None:
            self._client.works()

    def changed(self) -> None:
        """The topic is another one, or has other partitions."""
        self._stale = True

    async def read(self, partition: int, key: bytes, start: int, end: int) -> Chunk:
        """The records of session `key` with start ≤ offset < end, or of a first part of that range.

        Raises KafkaException where the broker does not give them.
        """
        query = _Query(key, start, end, self._loop.create_future())
        with self._wake:
            self._waiting[partition].append(query)
            self._wake.notify()
        return await query.future

    def _run(self, turn: object, calls: Calls) -> None:
        consumer = self._consumer()
        while True:
            with self._wake:
                while not self._waiting and not self._stopping and self._turn is turn:
                    self._wake.wait()
                if self._stopping or self._turn is not turn:
                    break
                partition = next(iter(self._waiting))
                queries = self._in_hand = self._waiting.pop(partition)
            if self._stale:
                self._stale = False
                consumer.close()
                consumer = self._consumer()
            try:
                with calls.within(_PATIENCE):
                    self._pass(consumer, partition, queries, calls)
            except KafkaException as error:
                for query in queries:
                    self._settle(query, error)
                if isinstance(error, _Silent):
                    # It may hold on to what it knows of a topic that was made again since: another one knows nothing yet.
                    consumer.close()
                    consumer = self._consumer()
                if self._client is not None and is_dead(error.args[0]):
                    call_on(self._loop, self._client.died, error.args[0])
        consumer.close()

    def _consumer(self) -> Consumer:
        # Wakes at the end of a partition: the last offsets may be a transaction's markers, which no record follows.
        return Consumer(reader_properties(self._config, enable_partition_eof=True))

    def _pass(self, consumer: Consumer, partition: int, queries: list[_Query], calls: Calls) -> None:
        """Read the partition once, from the first offset that a query needs to the last."""
        begin = min(query.start for query in queries)
        last = max(query.end for query in queries)
        by_key: dict[bytes, list[_Query]] = defaultdict(list)
        for query in queries:
            by_key[query.key].append(query)
        consumer.assign([TopicPartition(self._topic, partition, begin)])
        try:
            reached = begin
            read = kept = 0
            while reached < last and read < _PASS_READS and kept < _PASS_BYTES and not all(q.full for q in queries):
                with calls.within(_PATIENCE):
                    message = consumer.poll(_PATIENCE)
                if message is None:
                    raise _Silent(KafkaError(KafkaError._TIMED_OUT, f"no history of {self._topic}[{partition}]"))
                for item in (message, *consumer.consume(10_000, 0)):
                    error = item.error()
                    if error is not None and error.code() == KafkaError._PARTITION_EOF:
                        reached = last
                    elif error is not None:
                        if error.code() in UNKNOWN:
                            learn(consumer, self._topic)  # it is known the next time that somebody asks
                        raise KafkaException(error)
                    else:
                        record = cast("Record", item)
                        reached = max(reached, record.offset() + 1)
                        read += len(record)
                        kept += _keep(by_key.get(record.key() or b"", ()), record)
        finally:
            consumer.unassign()
        for query in queries:
            query.end = min(query.end, max(reached, query.start))
            self._settle(query, None)

    def _settle(self, query: _Query, error: KafkaException | None) -> None:
        def settle() -> None:
            if query.future.done():
                return
            if error is not None:
                query.future.set_exception(error)
                return
            end = query.records[-1].offset() + 1 if query.full else query.end
            query.future.set_result(Chunk(query.records, end))

        call_on(self._loop, settle)

    async def close(self) -> None:
        """Stop; who still waits gets an error."""
        with self._wake:
            self._stopping = True
            left = [query for queries in self._waiting.values() for query in queries]
            self._wake.notify()
        if self._client is not None:
            self._client.close()
        for query in left:
            query.future.cancel()
        await self._loop.run_in_executor(None, self._thread.join, 2 * _PATIENCE)


def _keep(queries: "list[_Query] | tuple[()]", record: Record) -> int:
    """Give the record to those who want it; returns the bytes that are kept so."""
    offset = record.offset()
    kept = 0
    for query in queries:
        if query.start <= offset < query.end and not query.full:
            query.records.append(record)
            query.size += len(record)
            kept += len(record)
    return kept
