"""Reads records from Kafka's log that a returning session has missed and that no tail holds any more.

Queries for the same partition at the same time, as after a gateway's crash, share one pass over it.

Invariant: a pass is bounded in what it reads and in what it keeps, so that neither a long log nor thousands of sessions block
the other partitions or fill the memory; a session that did not get all of its records sends another query for the rest.
"""

import asyncio
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.record_batch import Record
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.headers import headers_of
from podpair.gateway.kafka.offsets import UNKNOWN, learn
from podpair.gateway.kafka.results import ResultsReader
from podpair.gateway.kafka.supervisor import CallDeadlines, Supervisor, is_dead
from podpair.gateway.kafka.threads import post_to_loop
from podpair.gateway.kafka.topic_limits import TopicLimits

_CHUNK_BYTES = 1 << 19  # of one session's records in one result
_PASS_BYTES = 1 << 25  # that one pass keeps, for all of its queries
_PASS_READS = 1 << 27  # bytes that one pass reads
_FETCH_WAIT_MS = 10  # milliseconds that a broker may wait for records
_PATIENCE = 10.0  # seconds without a record before the pass is abandoned


class LogSlice(NamedTuple):
    """A session's records from an offset up to `end` (excluded)."""

    records: list[Record]
    end: int


class _Query:
    __slots__ = ("end", "future", "key", "records", "size", "start")

    def __init__(self, key: bytes, start: int, end: int, future: "asyncio.Future[LogSlice]") -> None:
        self.key = key
        self.start = start
        self.end = end
        self.future = future
        self.records: list[Record] = []
        self.size = 0

    @property
    def full(self) -> bool:
        return self.size >= _CHUNK_BYTES


class _NoProgress(KafkaException):
    """Nothing was read of a partition, not even its end."""


class LogReader:
    """Reads with a consumer on a thread of its own, one pass at a time."""

    def __init__(self, config: Config, supervisor: Supervisor | None = None) -> None:
        self._client = None if supervisor is None else supervisor.watch("history", self._replace)
        self._topic = config.results.topic
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._waiting: dict[int, list[_Query]] = defaultdict(list)
        self._wake = threading.Condition()
        self._stopping = False
        self._stale = False  # the consumer's metadata is that of a topic that was replaced or widened
        self._in_flight: list[_Query] = []  # of the current pass
        self._thread = self._begin()

    def _begin(self) -> threading.Thread:
        calls = CallDeadlines() if self._client is None else self._client.calls()
        self._turn = turn = object()  # identifies the current thread: an abandoned one sees another turn
        thread = threading.Thread(target=self._run, args=(turn, calls), name="kafka-history", daemon=True)
        thread.start()
        return thread

    def _replace(self) -> None:
        """Read with another consumer: this one is dead, or stuck."""
        with self._wake:
            given_up, self._in_flight = self._in_flight, []
            self._thread = self._begin()
            self._wake.notify_all()
        for query in given_up:
            self._resolve(query, KafkaException(KafkaError(KafkaError._TIMED_OUT, "its Kafka client was replaced")))
        if self._client is not None:
            self._client.works()

    def changed(self) -> None:
        """Discard the consumer's metadata: the topic was replaced or widened."""
        self._stale = True

    async def read(self, partition: int, key: bytes, start: int, end: int) -> LogSlice:
        """Return the records with `key` and start ≤ offset < end, or those of a first part of that range.

        Raises KafkaException if they can't be read.
        """
        query = _Query(key, start, end, self._loop.create_future())
        with self._wake:
            self._waiting[partition].append(query)
            self._wake.notify()
        return await query.future

    def _run(self, turn: object, calls: CallDeadlines) -> None:
        consumer = self._consumer()
        while True:
            with self._wake:
                while not self._waiting and not self._stopping and self._turn is turn:
                    self._wake.wait()
                if self._stopping or self._turn is not turn:
                    break
                partition = next(iter(self._waiting))
                queries = self._in_flight = self._waiting.pop(partition)
            if self._stale:
                self._stale = False
                consumer.close()
                consumer = self._consumer()
            try:
                with calls.within(_PATIENCE):
                    self._pass(consumer, partition, queries, calls)
            except KafkaException as error:
                for query in queries:
                    self._resolve(query, error)
                if isinstance(error, _NoProgress):
                    # It may hold outdated metadata of a topic that was created again: a new consumer has none.
                    consumer.close()
                    consumer = self._consumer()
                if self._client is not None and is_dead(error.args[0]):
                    post_to_loop(self._loop, self._client.died, error.args[0])
        consumer.close()

    def _consumer(self) -> Consumer:
        # Reports the end of a partition: the last offsets may be transaction markers, which no record follows.
        # A fetch that waits at the end of a log holds up the first one of the next pass (fetch.wait.max.ms is 500 by default).
        return Consumer(reader_properties(self._config, enable_partition_eof=True, fetch_wait_max_ms=_FETCH_WAIT_MS))

    def _pass(self, consumer: Consumer, partition: int, queries: list[_Query], calls: CallDeadlines) -> None:
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
                    raise _NoProgress(KafkaError(KafkaError._TIMED_OUT, f"no history of {self._topic}[{partition}]"))
                for item in (message, *consumer.consume(10_000, 0)):
                    error = item.error()
                    if error is not None and error.code() == KafkaError._PARTITION_EOF:
                        reached = last
                    elif error is not None:
                        if error.code() in UNKNOWN:
                            learn(consumer, self._topic)  # for the next query
                        raise KafkaException(error)
                    else:
                        offset = cast("int", item.offset())
                        reached = max(reached, offset + 1)
                        read += len(item)
                        if queries_of := by_key.get(item.key() or b""):
                            kept += _keep(queries_of, (offset, item.value(), headers_of([item])[0]), len(item))
        finally:
            consumer.unassign()
        for query in queries:
            query.end = min(query.end, max(reached, query.start))
            self._resolve(query, None)

    def _resolve(self, query: _Query, error: KafkaException | None) -> None:
        def resolve() -> None:
            if query.future.done():
                return
            if error is not None:
                query.future.set_exception(error)
                return
            end = query.records[-1][0] + 1 if query.full else query.end
            query.future.set_result(LogSlice(query.records, end))

        post_to_loop(self._loop, resolve)

    async def close(self) -> None:
        """Stop; pending queries are cancelled."""
        with self._wake:
            self._stopping = True
            left = [query for queries in self._waiting.values() for query in queries]
            self._wake.notify()
        if self._client is not None:
            self._client.close()
        for query in left:
            query.future.cancel()
        await self._loop.run_in_executor(None, self._thread.join, 2 * _PATIENCE)


def _keep(queries: list[_Query], record: Record, size: int) -> int:
    """Add the record, whose value has `size` bytes, to the queries that need it. Return the number of bytes kept."""
    offset = record[0]
    kept = 0
    for query in queries:
        if query.start <= offset < query.end and not query.full:
            query.records.append(record)
            query.size += size
            kept += size
    return kept


@dataclass(frozen=True, slots=True)
class ResultsLog:
    """The results topic, as sessions have it: where their homes are, what is read all the time, and what now and then."""

    homes: HomePartitions
    topic_limits: TopicLimits
    reader: ResultsReader
    log_reader: LogReader
