"""Records and commits of request offsets that become visible together, or not at all (KIP-98, KIP-447).

One transactional producer, on a thread of its own: librdkafka's calls block, and a producer has one transaction at a time. A
member that loses its partitions is fenced by the group's generation, which each transaction names; a gateway that comes back
with the same transactional id fences its predecessor.

Invariant: `commit` returns when the transaction is committed, and raises only if it is not. If the broker's answer is lost, the
group's offsets, which are part of the transaction, are queried. The same holds for a call that does not return: its thread is
abandoned, and another producer with the same id fences the stuck one.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.offsets import Commit
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.kafka.refusals import Refusals
from podpair.gateway.kafka.supervisor import CallDeadlines, Supervisor, is_dead
from podpair.gateway.kafka.threads import CallThread
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_STEP = 5.0  # seconds for one step of a transaction, before it is retried …
_LATE = 3.0  # … and how much later it may return
_RETRY = 10  # milliseconds before a request that the broker refused for now is repeated, instead of librdkafka's 100


class TransactionAborted(Exception):
    """The transaction is not committed.

    too_large: indexes of the records that are too large for their topic, or can be left out and have to be. dead: the fatal
    error of the producer.
    """

    def __init__(self, message: str, too_large: frozenset[int] = frozenset(), dead: KafkaError | None = None) -> None:
        super().__init__(message)
        self.too_large = too_large
        self.dead = dead


class Transactions:
    """Commits transactions. name: this gateway's transactional id, which no other gateway may use."""

    def __init__(self, config: Config, name: str, batch_bytes: int, metrics: Metrics, supervisor: Supervisor) -> None:
        self._config = config
        self._name = name
        self._batch_bytes = batch_bytes
        self._metrics = metrics
        self._client = supervisor.watch("transactions", self._replace)
        self._producer = _TransactionalProducer(config, name, batch_bytes, self._client.calls())
        self._thread = CallThread("kafka-transactions")
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def commit(self, records: Sequence[Outgoing], commits: Mapping[int, Commit], membership: Any) -> None:
        """Write `records` and commit `commits` (by request partition), as the group member `membership`.

        Raises Aborted.
        """
        try:
            places = self._producer.places(commits)
            if await self._call(self._producer.commit, records, places, membership) is None:
                while (committed := await self._call(self._producer.committed, places)) is None:
                    pass
                if not committed:
                    raise TransactionAborted("a call of the client library did not return")
        except TransactionAborted as error:
            self._metrics.transactions.labels("aborted").inc()
            if error.dead is not None:
                self._client.failing(error.dead)
            raise
        self._client.works()
        self._metrics.transactions.labels("committed").inc()

    async def _call(self, function: Callable[..., bool], *arguments: Any) -> bool | None:
        """Return the result of a call; None if it does not return: `_producer` was replaced then."""
        call, given_up = self._thread.call(function, *arguments), self._given_up
        call.add_done_callback(_discard_outcome)
        await asyncio.wait((call, given_up), return_when=asyncio.FIRST_COMPLETED)
        return await call if call.done() else None

    def _replace(self) -> None:
        """Abandon the stuck thread and its producer."""
        self._thread.end()
        self._thread = CallThread("kafka-transactions")
        self._producer = _TransactionalProducer(self._config, self._name, self._batch_bytes, self._client.calls())
        given_up, self._given_up = self._given_up, asyncio.get_running_loop().create_future()
        given_up.set_result(None)

    async def close(self) -> None:
        """Stop the thread; an open transaction is not committed."""
        self._client.close()
        self._thread.end()
        self._producer.producer = None


def transactional_properties(config: Config, name: str, batch_bytes: int) -> dict[str, Any]:
    """Return the properties of a producer with this transactional id."""
    timeout_ms = int(config.requests.transaction_timeout_seconds * 1000)
    common = properties(config)
    # librdkafka rejects a producer whose timeouts are longer than its transactions may take.
    longest = {
        name: min(int(common[name]), timeout_ms)
        for name in ("socket.timeout.ms", "delivery.timeout.ms")
        if name in common
    }
    own = properties(
        config,
        transactional_id=name,
        transaction_timeout_ms=timeout_ms,
        partitioner="murmur2_random",
        batch_size=batch_bytes,
        linger_ms=0,
        # While it still ends a transaction the broker refuses the offsets of the next (CONCURRENT_TRANSACTIONS).
        retry_backoff_ms=_RETRY,
        queue_buffering_max_messages=200_000,
    )
    return own | longest


class TransactionRecord(Protocol):
    """A record of a transaction."""

    @property
    def topic(self) -> str: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def partition(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def optional(self) -> bool: ...


def produce_in_transaction(
    producer: Producer, record: TransactionRecord, index: int, refusals: Refusals, *, reporting: bool = True
) -> None:
    """Hand a record to the producer, which waits while its queue is full; a refusal is noted for `index`.

    reporting: ask for the record's outcome, too. Raises KafkaException.
    """

    def delivered(error: KafkaError | None, _: object) -> None:
        refusals.note(index, error, optional=record.optional)

    report: dict[str, Any] = {"on_delivery": delivered} if reporting else {}
    while True:
        try:
            producer.produce(
                record.topic, record.value, record.key, record.partition, headers=list(record.headers), **report
            )
        except BufferError:
            producer.poll(0.1)
        except KafkaException as error:
            if not refusals.note(index, error.args[0], optional=record.optional):
                raise
            return
        else:
            return


class _TransactionalProducer:
    """The blocking calls of a producer; a broken producer is replaced by one that fences it."""

    def __init__(self, config: Config, name: str, batch_bytes: int, calls: CallDeadlines) -> None:
        self._batch_bytes = batch_bytes
        self._config = config
        self._topic = config.requests.topic
        self._name = name
        self._calls = calls
        # Whether each record's outcome is asked for: after a transaction that was aborted, to learn which are too large. Each
        # report takes the interpreter's lock from the loop, and a transaction says by itself whether all records are written.
        self._reporting = False
        self.producer: Producer | None = None

    def places(self, commits: Mapping[int, Commit]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p, c.offset, metadata=c.metadata) for p, c in commits.items()]

    def commit(self, records: Sequence[Outgoing], places: list[TopicPartition], membership: Any) -> bool:
        """Commit a transaction; return True. Raises TransactionAborted.

        Records that only the broker finds too large are named when the transaction is tried again.
        """
        reporting, self._reporting = self._reporting, True
        producer = self._begin()
        refusals = Refusals()
        too_large = refusals.indexes
        try:
            for index, record in enumerate(records):
                produce_in_transaction(producer, record, index, refusals, reporting=reporting)
            if too_large:
                raise TransactionAborted("a record is too large", frozenset(too_large))
            self._step(producer, lambda: producer.send_offsets_to_transaction(places, membership, _STEP))
        except (KafkaException, TransactionAborted) as error:
            self._give_up(producer)
            raise TransactionAborted(_text(error), frozenset(too_large), _dead(error)) from None
        try:
            self._step(producer, lambda: producer.commit_transaction(_STEP))
        except KafkaException as error:
            certain = error.args[0].txn_requires_abort()
            self._give_up(producer)
            if not certain and self.committed(places):
                return True
            raise TransactionAborted(_text(error), frozenset(too_large), _dead(error)) from None
        self._reporting = False
        return True

    def _begin(self) -> Producer:
        try:
            if self.producer is None:
                self.producer = self._made()
            self.producer.begin_transaction()
        except (KafkaException, FaultsError) as error:
            self.producer = None
            raise TransactionAborted(_text(error), dead=_dead(error)) from None
        return self.producer

    def _made(self) -> Producer:
        """Create a producer, which fences the former one with its id. Raises KafkaException."""
        producer = Producer(transactional_properties(self._config, self._name, self._batch_bytes))
        self._step(producer, lambda: producer.init_transactions(_STEP))
        return producer

    def _step(self, producer: Producer, step: Callable[[], object]) -> None:
        """Run a step until its outcome is known. Raises KafkaException if it failed."""
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
        """Abort the transaction. If that fails the producer is dropped, and the next one fences it."""
        try:
            self._step(producer, lambda: producer.abort_transaction(_STEP))
        except KafkaException as error:
            _log.info("continuing with a new producer: %s", _text(error))
            self.producer = None

    def committed(self, places: list[TopicPartition]) -> bool:
        """Return whether a transaction with an unknown outcome was committed. It has ended: a new producer has fenced it."""
        try:
            self.producer = self._made()
            asking = Consumer(
                properties(self._config, group_id=self._config.requests.group, isolation_level="read_committed")
            )
            try:
                with self._calls.within(3 * _STEP, _LATE):
                    found = asking.committed([TopicPartition(p.topic, p.partition) for p in places], timeout=3 * _STEP)
            finally:
                asking.close()
        except KafkaException as error:
            # Unknown. To process the requests again is the lesser evil: a second result is dropped, a lost one is lost.
            _log.error("whether a transaction was committed is unknown: %s", _text(error))
            return False
        wanted = {(p.partition, p.offset, p.metadata or "") for p in places}
        return {(p.partition, p.offset, p.metadata or "") for p in found} == wanted


def _discard_outcome(call: "asyncio.Future[Any]") -> None:
    """Ignore the outcome of a call that returns too late."""
    if not call.cancelled():
        call.exception()


def _dead(error: Exception) -> KafkaError | None:
    return error.args[0] if isinstance(error, KafkaException) and is_dead(error.args[0]) else None


def _text(error: Exception) -> str:
    return str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)
