"""Records and commits of request offsets that become visible together, or not at all (KIP-98, KIP-447).

One transactional producer, on a thread of its own: librdkafka's calls block, and a producer has one transaction at a time. Who
loses its partitions is fenced by the group's generation, which each transaction names; who comes back under the same
transactional id fences its predecessor.

Invariant: `commit` returns when the transaction is committed, and raises only when it is not. Where the broker's word is lost
on the way, the group's offsets are asked for: they are in the transaction. That holds for a call that does not come back, too:
its thread is left to itself, and another producer with the same id fences the one that is stuck.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from podpair.gateway.config.load import ConfigError
from podpair.gateway.config.model import Config
from podpair.gateway.core.offsets import Commit
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.kafka.supervisor import Calls, Supervisor, is_dead
from podpair.gateway.kafka.threads import CallThread
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_STEP = 5.0  # seconds for one step of a transaction, before it is taken up again …
_LATE = 3.0  # … and how much later it may return


class Aborted(Exception):
    """The transaction is not committed.

    `too_large`: places of the records that no topic takes; `dead`: what its producer died of.
    """

    def __init__(self, message: str, too_large: frozenset[int] = frozenset(), dead: KafkaError | None = None) -> None:
        super().__init__(message)
        self.too_large = too_large
        self.dead = dead


class Transactions:
    """`name` is this gateway's transactional id, its own alone."""

    def __init__(self, config: Config, name: str, batch_bytes: int, metrics: Metrics, supervisor: Supervisor) -> None:
        self._config = config
        self._name = name
        self._batch_bytes = batch_bytes
        self._metrics = metrics
        self._client = supervisor.watch("transactions", self._replace)
        self._line = _Line(config, name, batch_bytes, self._client.calls())
        self._thread = CallThread("kafka-transactions")
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def commit(self, records: Sequence[Outgoing], commits: Mapping[int, Commit], membership: Any) -> None:
        """Write `records` and commit `commits` (by request partition), as the group member that `membership` stands for.

        Raises Aborted.
        """
        try:
            places = self._line.places(commits)
            if await self._call(self._line.commit, records, places, membership) is None:
                while (committed := await self._call(self._line.committed, places)) is None:
                    pass
                if not committed:
                    raise Aborted("a call of the client library did not come back")
        except Aborted as error:
            self._metrics.transactions.labels("aborted").inc()
            if error.dead is not None:
                self._client.failing(error.dead)
            raise
        self._client.works()
        self._metrics.transactions.labels("committed").inc()

    async def _call(self, function: Callable[..., bool], *arguments: Any) -> bool | None:
        """What comes of a call; None where it does not come back: `_line` is another one then."""
        call, given_up = self._thread.call(function, *arguments), self._given_up
        call.add_done_callback(_heard)
        await asyncio.wait((call, given_up), return_when=asyncio.FIRST_COMPLETED)
        return await call if call.done() else None

    def _replace(self) -> None:
        """Leave the thread that is stuck, and its producer."""
        self._thread.end()
        self._thread = CallThread("kafka-transactions")
        self._line = _Line(self._config, self._name, self._batch_bytes, self._client.calls())
        given_up, self._given_up = self._given_up, asyncio.get_running_loop().create_future()
        given_up.set_result(None)

    async def close(self) -> None:
        """End the thread; what was not committed is not."""
        self._client.close()
        self._thread.end()
        self._line.producer = None


class _Line:
    """One producer and what blocks in it; a producer that is done with gives way to one that fences it."""

    def __init__(self, config: Config, name: str, batch_bytes: int, calls: Calls) -> None:
        self._batch_bytes = batch_bytes
        self._config = config
        self._topic = config.requests.topic
        self._name = name
        self._calls = calls
        self.producer: Producer | None = None

    def places(self, commits: Mapping[int, Commit]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p, c.offset, metadata=c.metadata) for p, c in commits.items()]

    def commit(self, records: Sequence[Outgoing], places: list[TopicPartition], membership: Any) -> bool:
        """Commit them; True. Raises Aborted."""
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
            raise Aborted(_text(error), frozenset(too_large), _dead(error)) from None
        try:
            self._step(producer, lambda: producer.commit_transaction(_STEP))
        except KafkaException as error:
            certain = error.args[0].txn_requires_abort()
            self._give_up(producer)
            if not certain and self.committed(places):
                return True
            raise Aborted(_text(error), frozenset(too_large), _dead(error)) from None
        return True

    def _begin(self) -> Producer:
        try:
            if self.producer is None:
                self.producer = self._made()
            self.producer.begin_transaction()
        except (KafkaException, ConfigError) as error:
            self.producer = None
            raise Aborted(_text(error), dead=_dead(error)) from None
        return self.producer

    def _made(self) -> Producer:
        """A producer that has fenced whoever had its id before. Raises KafkaException."""
        timeout_ms = int(self._config.requests.transaction_timeout_seconds * 1000)
        common = properties(self._config)
        # librdkafka makes no producer that would wait for a broker longer than its transactions live.
        longest = {
            name: min(int(common[name]), timeout_ms)
            for name in ("socket.timeout.ms", "delivery.timeout.ms")
            if name in common
        }
        producer = Producer(
            properties(
                self._config,
                transactional_id=self._name,
                transaction_timeout_ms=timeout_ms,
                partitioner="murmur2_random",
                batch_size=self._batch_bytes,
                linger_ms=0,
                queue_buffering_max_messages=200_000,
            )
            | longest
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
                with self._calls.within(_STEP, _LATE):
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
            self.producer = None

    def committed(self, places: list[TopicPartition]) -> bool:
        """Whether a transaction whose end nobody told us of was committed. It has an end: a successor has fenced it."""
        try:
            self.producer = self._made()
            asking = Consumer(
                properties(self._config, group_id=self._config.requests.group, isolation_level="read_committed")
            )
            try:
                with self._calls.within(3 * _STEP, _LATE):
                    told = asking.committed([TopicPartition(p.topic, p.partition) for p in places], timeout=3 * _STEP)
            finally:
                asking.close()
        except KafkaException as error:
            # Unknown. Doing the work again is the lesser evil: an answer that comes twice is dropped, a lost one is lost.
            _log.error("whether a transaction was committed can't be told: %s", _text(error))
            return False
        wanted = {(p.partition, p.offset, p.metadata or "") for p in places}
        return {(p.partition, p.offset, p.metadata or "") for p in told} == wanted


def _heard(call: "asyncio.Future[Any]") -> None:
    """What a call that came back too late has to say is of no interest."""
    if not call.cancelled():
        call.exception()


def _dead(error: Exception) -> KafkaError | None:
    return error.args[0] if isinstance(error, KafkaException) and is_dead(error.args[0]) else None


def _text(error: Exception) -> str:
    return str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)
