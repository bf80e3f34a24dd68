"""Writes records. The gateway's promises depend on the broker's acknowledgements.

Invariant: the memory for unacknowledged records is bounded (`kafka.producer_buffer_bytes`). While it is used up, or while no
broker answers, records are rejected at once, except results: they are sent until acknowledged, and there are no more of them
than requests in flight.

One idempotent producer with acks=all writes everything. Records are sent in rounds, and acknowledged in rounds: while many are
in flight, further ones wait a few milliseconds for each other, so that broker and clients get few large batches instead of many
small ones; while few are, nothing waits. The loop itself polls for acknowledgements, every millisecond while any are due:
librdkafka's client acquires the interpreter's lock for each of them, and a polling thread would have to wait, each time, until
the loop releases it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby, starmap
from operator import itemgetter, length_hint
from typing import Any, NamedTuple, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.clients import description_of, properties
from podpair.gateway.kafka.refusals import NOWHERE
from podpair.gateway.kafka.supervisor import Supervisor, is_dead
from podpair.gateway.kafka.topic_watch import TopicWatch
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_BACKOFF = 0.5  # seconds before a record that was not acknowledged is sent again
_DUE = 0.001  # seconds between polls for acknowledgements while some are due …
_PATIENT = 50  # … for so many polls without one, …
_SLOW = 0.02  # … then so many seconds
_IDLE = 0.5  # seconds between polls otherwise: librdkafka reports errors, too
_METADATA = 5.0  # seconds for the metadata of a topic
_FEW = 16  # records in flight, below which a round starts at once …
_HOLD = 0.005  # … else after so many seconds at most
_COST = 1024  # bytes of memory for a record besides its value


class DeliveryError(Exception):
    """The record is not in Kafka: the local queue was full, or the broker did not acknowledge it in time.

    too_large: the topic accepts no record of that size; nowhere: there is no such place, or not for us. The message is for
    operators: it may contain addresses.
    """

    def __init__(
        self, message: str, *, too_large: bool = False, nowhere: bool = False, client_message: str = ""
    ) -> None:
        super().__init__(message)
        self.too_large = too_large
        self.nowhere = nowhere
        self.client_message = client_message or "the broker did not accept it"


class Outgoing(NamedTuple):
    """A record that is sent until it is acknowledged."""

    topic: str
    value: bytes
    key: bytes | None
    headers: Headers
    describe: Callable[[], str]  # its name in the log
    fallback: "Callable[[], Outgoing] | None" = (
        None  # returns what is sent instead if the record is too large for the topic; None: nothing
    )
    partition: int = -1  # -1: where its key says
    optional: bool = (
        False  # it is left out, and that logged, where its topic or partition isn't there, or may not be written
    )


class RecordMetadata(NamedTuple):
    """The place of a record that was written."""

    partition: int
    offset: int


DeliveryCallback = Callable[[list[tuple[Any, RecordMetadata | DeliveryError]]], object]
"""Delivery callback, called once per batch with (context, metadata or error) pairs."""

_Waiting = tuple[str, bytes | None, bytes | None, int, Callable[..., object], None, int, Headers]
"""The arguments of the client's `produce`: topic, value, key, partition, callback, on_delivery, timestamp (0: now), headers."""
_Report = tuple[DeliveryCallback, str, Any, int, KafkaError | None, Message | None]
"""What became of a record, as librdkafka has reported it: whom to tell, its topic, the caller's context and the bytes that it
counts for; without a message it was never taken, and the error says why."""
_LISTENER = itemgetter(0, 1)


class RecordProducer:
    """Writes records. Methods and callbacks run on the loop's thread."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        topic_watch: TopicWatch | None = None,
        supervisor: Supervisor | None = None,
        *,
        batch_bytes: int = 1_000_000,
        timeout: float = 30.0,
    ) -> None:
        self._config = config
        self._timeout = timeout
        self._batch_bytes = batch_bytes
        self._client = None if supervisor is None else supervisor.watch("producer", self._replace)
        self._metrics = metrics
        self._topic_watch = topic_watch
        self._limit = config.kafka.producer_buffer_bytes
        self._bytes = 0  # of unacknowledged records
        if topic_watch is not None:
            topic_watch.on_broker_change(self._on_broker_change)
        self._loop = asyncio.get_running_loop()
        self._producer = self._made()
        self._retired: list[Producer] = []  # dead, and still to report the outcomes of their records
        self._waiting: list[_Waiting] = []  # for the next round
        self._since = 0.0  # when the first of them came
        # Those that were not handled yet; a thread that flushes adds to them as well.
        self._reports: list[_Report] = []
        self._report = _reporter(self._reports)
        self._due = 0  # records whose outcome is unknown
        self._idle_polls = 0  # polls since the last that found something
        self._timer = self._loop.call_later(_IDLE, self._poll)

    def _made(self) -> Producer:
        return Producer(
            properties(
                self._config,
                acks="all",
                enable_idempotence=True,
                # The default of Kafka's Java client: a record keyed by session id lands in that session's home.
                partitioner="murmur2_random",
                # Records without a key go anywhere, those of one millisecond together: spilled requests spread over the fleet.
                sticky_partitioning_linger_ms=1,
                batch_size=self._batch_bytes,  # a topic's limit applies to a batch of small records, too
                linger_ms=0,  # records wait for their round instead
                delivery_timeout_ms=int(self._timeout * 1000),
                queue_buffering_max_messages=200_000,
                # Only results exceed the limit; there has to be room for one in any case.
                queue_buffering_max_kbytes=self._limit // 1024 + 200_000,
            )
            | {"error_cb": self._on_error}
        )

    def _on_error(self, error: KafkaError) -> None:
        if self._client is not None and is_dead(error):
            self._client.died(error)
        else:
            _log.warning("kafka: %s", error.str(), extra={"kafka_error": error.name()})

    def _replace(self) -> None:
        """Continue with another producer; records that the dead one has not written fail."""
        made = self._made()
        self._round()
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        self._retired.append(self._producer)
        self._producer = made
        if self._client is not None:
            self._client.works()

    def topic_replaced(self) -> None:
        """Continue with another producer, because a topic was replaced by another one with its name.

        The present idempotent producer would continue with the sequence numbers of the former partitions, and may never get
        past them: its records for such a partition would time out, one after the other.
        """
        _log.info("continuing with another producer")
        self._replace()

    @property
    def refusal(self) -> str | None:
        """Why requests are rejected instead of being buffered; None: they are accepted."""
        if self._bytes >= self._limit:
            return f"{self._bytes} bytes wait for the broker (kafka.producer_buffer_bytes)"
        return None if self._topic_watch is None else self._topic_watch.broker_error

    @property
    def full(self) -> bool:
        """Whether unacknowledged records use up their memory."""
        return self._bytes >= self._limit

    def _on_broker_change(self, broker_error: str | None) -> None:
        """Fail all records at once if no broker answers; those that must be written are sent again."""
        if broker_error is not None:
            self._round()
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None,
        headers: Headers,
        callback: DeliveryCallback,
        context: Any = None,
        partition: int = -1,
    ) -> None:
        """Write one record to `partition`, or (-1) to the one that its key selects. `callback` gets the outcome later."""
        size = len(value) + _COST if type(value) is bytes else _COST  # anything else is rejected in its round
        self._bytes += size
        reported = partial(self._report, callback, topic, context, size)
        self._wait([(topic, value, key, partition, reported, None, 0, headers)])

    def send_all(self, records: Iterable[tuple[Outgoing, Any]], callback: DeliveryCallback) -> None:
        """Write records to the partitions that their keys select; `callback` gets the outcomes later, with their contexts."""
        report, size = self._report, 0
        waiting: list[_Waiting] = []
        for (topic, value, key, headers, _, _, partition, _), context in records:
            counted = len(value) + _COST
            size += counted
            waiting.append(
                (topic, value, key, partition, partial(report, callback, topic, context, counted), None, 0, headers)
            )
        self._bytes += size
        self._wait(waiting)

    def _wait(self, records: list[_Waiting]) -> None:
        """Have records wait for the next round."""
        if not self._waiting and records:
            self._since = self._loop.time()
            if self._due < _FEW:
                self._loop.call_soon(self._round)
        self._waiting += records

    def write(
        self, topic: str, value: bytes | None, *, key: bytes | None, headers: Headers, partition: int = -1
    ) -> asyncio.Future[RecordMetadata]:
        """Write one record; return a future with its metadata, which may raise DeliveryError."""
        written: asyncio.Future[RecordMetadata] = self._loop.create_future()
        self.send(topic, value, key=key, headers=headers, callback=_resolve, context=written, partition=partition)
        return written

    async def send_until_acked(self, record: Outgoing, partition: Callable[[], int] = lambda: -1) -> None:
        """Send the record until the broker acknowledges it, however long that takes, or its fallback if it is too large.

        partition: returns where it belongs, asked at each attempt; -1: where its key says.
        """
        left: Outgoing | None = record
        while left is not None:
            try:
                place = left.partition if left.partition >= 0 else partition()
                await self.write(left.topic, left.value, key=left.key, headers=left.headers, partition=place)
            except DeliveryError as error:
                if error.too_large:
                    _log.error("%s is larger than topic %s takes", left.describe(), left.topic)
                    left = None if left.fallback is None else left.fallback()
                    continue
                if left.optional and error.nowhere:
                    _log.error("%s is not sent to topic %s: %s", left.describe(), left.topic, error)
                    return
                _log.warning("sending %s again: %s", left.describe(), error)
                size = len(left.value) + _COST
                self._bytes += size
                try:
                    await asyncio.sleep(_BACKOFF)
                finally:
                    self._bytes -= size
            else:
                return

    async def learn(self, topic: str) -> None:
        """Refresh the metadata of a topic: by itself the producer would do so only after a while."""
        try:
            await self._loop.run_in_executor(None, partial(self._producer.list_topics, topic, timeout=_METADATA))
        except KafkaException as error:
            _log.warning("refreshing the metadata of topic %s: %s", topic, error.args[0].str())

    def _poll_in(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._poll)

    def _round(self) -> None:
        """Pass waiting records to librdkafka."""
        waiting, self._waiting = self._waiting, []
        iterator = iter(waiting)
        produced = starmap(self._producer.produce, iterator)
        while length_hint(iterator):
            try:
                deque(produced, maxlen=0)  # librdkafka owns the values from here on
            except Exception as error:
                # Whatever failed concerns this record only: the others of the round are written.
                waiting[len(waiting) - length_hint(iterator) - 1][4](_refusal(error), None)
        idle = not self._due
        self._due += len(waiting)
        if idle and waiting:
            self._poll_in(_DUE)

    def _poll(self) -> None:
        self._producer.poll(0)
        if self._retired:
            for retired in self._retired:
                retired.poll(0)
            self._retired = [retired for retired in self._retired if len(retired)]
        self._idle_polls = 0 if self._reports else self._idle_polls + 1
        self._settle()
        if self._waiting and (self._due < _FEW or self._loop.time() - self._since >= _HOLD):
            self._round()
        if not self._due:
            self._poll_in(_IDLE)
        else:
            self._poll_in(_DUE if self._idle_polls < _PATIENT else _SLOW)

    def _settle(self) -> None:
        reports = self._reports[:]
        if not reports:
            return
        del self._reports[: len(reports)]
        self._due -= len(reports)
        self._bytes -= sum([report[3] for report in reports])
        by_listener: dict[tuple[DeliveryCallback, str], list[_Report]] = {}
        for listener, run in groupby(reports, _LISTENER):  # those of a batch of librdkafka's follow each other
            by_listener.setdefault(listener, []).extend(run)
        for (callback, topic), found in by_listener.items():
            outcomes = self._outcomes(topic, found)
            try:
                callback(outcomes)
            except Exception:
                _log.exception("a delivery callback failed, for %d records", len(outcomes))

    def _outcomes(self, topic: str, reports: list[_Report]) -> list[tuple[Any, RecordMetadata | DeliveryError]]:
        """Convert reports about records of a topic for their callback."""
        new, failed = tuple.__new__, 0
        outcomes: list[tuple[Any, RecordMetadata | DeliveryError]] = []
        for _, _, context, _, error, message in reports:
            if error is None and message is not None:
                outcomes.append((context, new(RecordMetadata, (message.partition(), message.offset()))))
            else:
                failed += 1
                outcomes.append((context, self._failed(topic, cast("KafkaError", error))))
        self._metrics.produced.labels(topic, "acknowledged").inc(len(outcomes) - failed)
        return outcomes

    def _failed(self, topic: str, error: KafkaError) -> DeliveryError:
        self._metrics.produced.labels(topic, "error").inc()
        if self._client is not None and is_dead(error):
            self._client.died(error)
        return _delivery_error(error)

    async def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for queued records. Return how many are lost."""
        self._round()
        if self._client is not None:
            self._client.close()
        left: int = await self._loop.run_in_executor(None, self._producer.flush, timeout)
        self._timer.cancel()
        self._settle()
        if left:
            _log.error("%d records were not acknowledged in %.0f s", left, timeout)
        return left


def _reporter(reports: list[_Report]) -> Callable[..., None]:
    """Return what collects reports, called by librdkafka's client for each record."""
    append = reports.append

    def report(*outcome: Any) -> None:
        append(outcome)

    return report


def _resolve(events: list[tuple[Any, RecordMetadata | DeliveryError]]) -> None:
    """Resolve the futures of `write`."""
    for written, outcome in events:
        resolve(written, outcome)


def resolve(written: asyncio.Future[RecordMetadata], outcome: RecordMetadata | DeliveryError) -> None:
    """Resolve the future of a record, unless it is done."""
    if written.done():
        return
    if isinstance(outcome, DeliveryError):
        written.set_exception(outcome)
    else:
        written.set_result(outcome)


def _refusal(error: Exception) -> KafkaError:
    """Return the error with which librdkafka rejected a record."""
    if isinstance(error, BufferError):
        return KafkaError(KafkaError._QUEUE_FULL, "the producer's queue is full")
    if isinstance(error, KafkaException):
        refusal: KafkaError = error.args[0]
        return refusal
    return KafkaError(KafkaError._INVALID_ARG, str(error))


def _delivery_error(error: KafkaError) -> DeliveryError:
    too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    nowhere = error.code() in NOWHERE
    return DeliveryError(error.str(), too_large=too_large, nowhere=nowhere, client_message=description_of(error))
