"""Records and commits of request offsets that become visible together, or not at all (KIP-98, KIP-447).

One transactional producer, on a thread of its own: librdkafka's calls block, and a producer has one transaction at a time. Who
loses its partitions is fenced by the group's generation, which each transaction names; who comes back under the same
transactional id fences its predecessor.

Invariant: `commit` returns when the transaction is committed, and raises only when it is not. Where the broker's word is lost
on the way, the group's offsets are asked for: they are in the transaction.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from podpair.gateway.config.load import ConfigError
from podpair.gateway.config.model import Config
from podpair.gateway.core.offsets import Commit
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_STEP = 10.0  # seconds for one step of a transaction


class Aborted(Exception):
    """The transaction is not committed. `too_large`: places of the records that no topic takes."""

    def __init__(self, message: str, too_large: frozenset[int] = frozenset()) -> None:
        super().__init__(message)
        self.too_large = too_large


class Transactions:
    """`name` is this gateway's transactional id, its own alone."""

    def __init__(self, config: Config, name: str, batch_bytes: int, metrics: Metrics) -> None:
        self._config = config
        self._topic = config.requests.topic
        self._name = name
        self._batch_bytes = batch_bytes
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "kafka-transactions")
        self._producer: Producer | None = None

    async def commit(self, records: Sequence[Outgoing], commits: Mapping[int, Commit], membership: Any) -> None:
        """Write `records` and commit `commits` (by request partition), as the group member that `membership` stands for.

        Raises Aborted.
        """
        try:
            await self._loop.run_in_executor(self._thread, self._commit, records, commits, membership)
        except Aborted:
            self._metrics.transactions.labels("aborted").inc()
            raise
        self._metrics.transactions.labels("committed").inc()

    def _commit(self, records: Sequence[Outgoing], commits: Mapping[int, Commit], membership: Any) -> None:
        places = [TopicPartition(self._topic, p, c.offset, metadata=c.metadata) for p, c in commits.items()]
        producer = self._begin()
        too_large: set[int] = set()
        try:
            for index, record in enumerate(records):
                self._produce(producer, record, index, too_large)
            if too_large:
                raise Aborted("a record is too large", frozenset(too_large))
            self._step(producer, lambda: producer.send_offsets_to_transaction(places, membership, _STEP))
        except (KafkaException, Aborted) as error:
            self._give_up(producer)
            raise Aborted(_text(error), frozenset(too_large)) from None
        try:
            self._step(producer, lambda: producer.commit_transaction(_STEP))
        except KafkaException as error:
            fatal = error.args[0].fatal()
            self._give_up(producer)
            if fatal and self._committed(places):
                return
            raise Aborted(_text(error), frozenset(too_large)) from None

    def _begin(self) -> Producer:
        try:
            if self._producer is None:
                self._producer = self._made()
            self._producer.begin_transaction()
        except (KafkaException, ConfigError) as error:
            self._producer = None
            raise Aborted(_text(error)) from None
        return self._producer

    def _made(self) -> Producer:
        """A producer that has fenced whoever had its id before. Raises KafkaException."""
        timeout_ms = int(self._config.requests.transaction_timeout_seconds * 1000)
        common = properties(self._config)
        producer = Producer(
            properties(
                self._config,
                transactional_id=self._name,
                transaction_timeout_ms=timeout_ms,
                # librdkafka makes no producer that would wait for a broker longer than its transactions live.
                socket_timeout_ms=min(int(common.get("socket.timeout.ms", 60_000)), timeout_ms),
                partitioner="murmur2_random",
                batch_size=self._batch_bytes,
                linger_ms=0,
                queue_buffering_max_messages=200_000,
            )
        )
        self._step(producer, lambda: producer.init_transactions(_STEP))
        return producer

    def _produce(self, producer: Producer, record: Outgoing, index: int, too_large: set[int]) -> None:
        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                too_large.add(index)

        while True:
            try:
                producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    on_delivery=delivered,
                )
            except BufferError:
                producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                too_large.add(index)
                return
            else:
                return

    def _step(self, producer: Producer, step: Callable[[], object]) -> None:
        """Do a step until its outcome is known; raises KafkaException where it failed."""
        while True:
            try:
                step()
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                _log.warning("a transaction waits for the broker: %s", _text(error))
                producer.poll(0.1)
            else:
                return

    def _give_up(self, producer: Producer) -> None:
        """End the transaction; a producer that can't is done with, and the next one fences it."""
        try:
            self._step(producer, lambda: producer.abort_transaction(_STEP))
        except KafkaException as error:
            _log.info("beginning with a new producer: %s", _text(error))
            self._producer = None

    def _committed(self, places: list[TopicPartition]) -> bool:
        """Whether a transaction whose end nobody told us of was committed. It has an end: a successor has fenced it."""
        try:
            self._producer = self._made()
            asking = Consumer(
                properties(self._config, group_id=self._config.requests.group, isolation_level="read_committed")
            )
            try:
                told = asking.committed([TopicPartition(p.topic, p.partition) for p in places], timeout=3 * _STEP)
            finally:
                asking.close()
        except KafkaException as error:
            # Unknown. Doing the work again is the lesser evil: an answer that comes twice is dropped, a lost one is lost.
            _log.error("whether a transaction was committed can't be told: %s", _text(error))
            return False
        wanted = {(p.partition, p.offset, p.metadata or "") for p in places}
        return {(p.partition, p.offset, p.metadata or "") for p in told} == wanted

    async def close(self) -> None:
        """End the thread; what was not committed is not."""
        await self._loop.run_in_executor(None, self._thread.shutdown)
        self._producer = None


def _text(error: Exception) -> str:
    return str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)
