"""The state of the workflows of one requests partition, in the partition of the workflows topic with the same number.

One transactional producer for each: whoever has the partition next begins with the same transactional id, which ends the open
transaction of a former owner at once, and has the broker refuse whatever that one writes later, for example when it was frozen.
librdkafka's calls block, so each log that is open has a thread.

Invariant: what `open` returns is all that was ever committed, and nothing is added to it but by this owner.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.offsets import PASSING
from podpair.gateway.kafka.refusals import Refusals
from podpair.gateway.kafka.supervisor import is_dead
from podpair.gateway.kafka.threads import CallThread
from podpair.gateway.kafka.transactions import produce_in_transaction, transactional_properties

_STEP = 5.0  # seconds for one step of a transaction, before it is repeated
_PATIENCE = 10.0  # seconds without a record before reading is given up
_PAUSE = 0.1  # seconds between queries for a partition that has no leader for the moment
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}


class StateRecord(NamedTuple):
    """A record of a transaction. partition: -1 is where its key says."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int = -1
    optional: bool = False


class LogFenced(Exception):
    """Another gateway has opened the log since: nothing was written, and nothing can be."""


class LogBroken(Exception):
    """It is not known whether the records were written: the log has to be opened again."""


class LogRefused(Exception):
    """Nothing was written: the same records can be written again.

    too_large: indexes of those that are larger than their topic takes, or can be left out and have to be.
    """

    def __init__(self, message: str, too_large: frozenset[int] = frozenset()) -> None:
        super().__init__(message)
        self.too_large = too_large


class StateLog:
    """The log of one partition. `empty` may be asked before it is open."""

    def __init__(self, config: Config, partition: int, batch_bytes: int) -> None:
        self.topic = config.workflows_topic or ""
        self._thread = CallThread(f"kafka-workflows-{partition}")
        self._blocking = _BlockingLog(config, self.topic, partition, batch_bytes)

    async def empty(self) -> bool:
        """Return whether nothing was ever written. Raises KafkaException."""
        return await self._thread.call(self._blocking.empty)

    async def open(self) -> dict[bytes, bytes]:
        """Fence former owners, and return the newest value of each key. Raises KafkaException."""
        return await self._thread.call(self._blocking.open)

    async def write(self, records: Sequence[StateRecord]) -> None:
        """Write records, all of them or none. Raises LogFenced, LogBroken or LogRefused."""
        await self._thread.call(self._blocking.write, records)

    def close(self) -> None:
        """Write nothing more. Does not wait for a call that is under way."""
        self._thread.call(self._blocking.close)
        self._thread.end()


class _BlockingLog:
    """The blocking calls, made on the log's thread."""

    def __init__(self, config: Config, topic: str, partition: int, batch_bytes: int) -> None:
        self._config = config
        self._topic = topic
        self._partition = partition
        self._name = f"{config.requests.group}.workflows.{partition}"
        self._batch_bytes = batch_bytes
        self._producer: Producer | None = None

    def empty(self) -> bool:
        consumer = self._consumer()
        try:
            return self._bounds(consumer)[1] == 0
        finally:
            consumer.close()

    def open(self) -> dict[bytes, bytes]:
        self._producer = None
        producer = Producer(transactional_properties(self._config, self._name, self._batch_bytes))
        _repeat(producer, lambda: producer.init_transactions(_STEP))
        found = self._read()
        self._producer = producer
        return found

    def _consumer(self) -> Consumer:
        # At the end of the partition the broker would wait for more before it says so.
        return Consumer(reader_properties(self._config, enable_partition_eof=True, fetch_wait_max_ms=10))

    def _bounds(self, consumer: Consumer) -> tuple[int, int]:
        """Return where the partition begins and ends, as soon as it has a leader."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                place = TopicPartition(self._topic, self._partition)
                return consumer.get_watermark_offsets(place, timeout=_PATIENCE) or (0, 0)
            except KafkaException as error:
                if error.args[0].code() not in PASSING or time.monotonic() > until:
                    raise
                time.sleep(_PAUSE)

    def _read(self) -> dict[bytes, bytes]:
        """Read the partition to its end. The former owner's transaction has ended: nothing is hidden behind it."""
        found: dict[bytes, bytes] = {}
        consumer = self._consumer()
        try:
            # By its number: `OFFSET_BEGINNING` would have librdkafka ask for it, with a second's pause if it does so too early.
            consumer.assign([TopicPartition(self._topic, self._partition, self._bounds(consumer)[0])])
            while True:
                messages: list[Message | None] = [*consumer.consume(10_000, 0.05)] or [consumer.poll(_PATIENCE)]
                for message in messages:
                    if message is None:
                        text = f"nothing was read of {self._topic}[{self._partition}] in {_PATIENCE:.0f} s"
                        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, text))
                    error = message.error()
                    if error is not None and error.code() == KafkaError._PARTITION_EOF:
                        return found
                    if error is not None:
                        raise KafkaException(error)
                    key = message.key() or b""
                    if message.value() is None:
                        found.pop(key, None)
                    else:
                        found[key] = cast("bytes", message.value())
        finally:
            consumer.close()

    def write(self, records: Sequence[StateRecord]) -> None:
        producer = self._producer
        if producer is None:
            raise LogBroken("it is not open")
        refusals = Refusals()
        too_large = refusals.indexes
        try:
            producer.begin_transaction()
            for index, record in enumerate(records):
                produce_in_transaction(producer, record, index, refusals)
            if not too_large:
                _repeat(producer, lambda: producer.commit_transaction(_STEP))
                return
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        except KafkaException as error:
            raise self._after(producer, error.args[0], too_large) from None

    def _after(self, producer: Producer, error: KafkaError, too_large: set[int]) -> Exception:
        """Return what a failed transaction means. What can't be aborted for sure is broken."""
        aborts = error.txn_requires_abort() or error.code() == KafkaError.MSG_SIZE_TOO_LARGE
        if aborts and not is_dead(error):
            try:
                _repeat(producer, lambda: producer.abort_transaction(_STEP))
            except KafkaException as fatal:
                error = fatal.args[0]
            else:
                return LogRefused(error.str(), frozenset(too_large))
        self._producer = None
        fenced = error.code() in _FENCED or any(KafkaError(code).str() in error.str() for code in _FENCED)
        return LogFenced(error.str()) if fenced else LogBroken(error.str())

    def close(self) -> None:
        self._producer = None


def _repeat(producer: Producer, step: Callable[[], object]) -> None:
    """Make a step until its outcome is known. Raises KafkaException if it failed."""
    while True:
        try:
            step()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            producer.poll(0.1)
        else:
            return
