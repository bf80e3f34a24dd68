"""Writes records; the broker's acknowledgement is what the gateway's promises wait for.

Invariant: the memory for records in hand is bounded (`kafka.producer_buffer_bytes`), and what comes while it is used up, or while
no broker answers, is refused at once, but for answers: they are written surely, and there are no more than requests in hand.

One producer for everything, idempotent and acks=all. Records go out in rounds, and their acknowledgements come back in
rounds: while many are under way, those that follow wait a few milliseconds for each other, so that broker and clients have
few large batches instead of many small ones; while few are, nothing waits. The loop itself asks for acknowledgements, every
millisecond while any are due: librdkafka's client takes the interpreter's lock anew for each of them, and a thread that asks
has to wait for it, each time, until the loop lets go of it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from podpair.gateway.config.model import Config
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.clients import description_of, properties
from podpair.gateway.kafka.supervisor import Supervisor, is_dead
from podpair.gateway.kafka.topic_watch import TopicWatch
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_BACKOFF = 0.5  # seconds before a record that was not acknowledged is written again
_DUE = 0.001  # seconds between looks for acknowledgements while some are due …
_PATIENT = 50  # … for so many looks in vain, …
_SLOW = 0.02  # … then so many seconds
_IDLE = 0.5  # seconds between looks otherwise: librdkafka has errors to tell, too
_METADATA = 5.0  # seconds for the broker to say what a topic is
_FEW = 16  # records under way, below which a round begins at once …
_HOLD = 0.005  # … else after so many seconds at most
_COST = 1024  # bytes of memory that a record takes beside its value


class NotWritten(Exception):
    """The record is not in Kafka: the local queue was full, or the broker did not acknowledge it in time.

    `too_large`: it never will be, the topic takes no record of that size. The message is for operators: it may hold addresses.
    """

    def __init__(self, message: str, *, too_large: bool = False, client_message: str = "") -> None:
        super().__init__(message)
        self.too_large = too_large
        self.client_message = client_message or "the broker did not take it"


class Outgoing(NamedTuple):
    """A record to be written until it is in Kafka."""

    topic: str
    value: bytes
    key: bytes | None
    headers: Headers
    what: str  # its name in the log
    instead: "Callable[[], Outgoing] | None" = (
        None  # makes what is written if the topic takes no record so large; None: nothing
    )


class Written(NamedTuple):
    """Where the broker has put a record."""

    partition: int
    offset: int


Told = Callable[[list[tuple[Any, Written | NotWritten]]], object]
"""Hears what became of records whose outcome was learnt together: each one's context, and its place or why it has none."""

_Sent = tuple[
    str, bytes, bytes | None, Headers, int, Told, Any, int
]  # as `send` has them, and the bytes that it counts for
_Heard = tuple[
    str, Told, Any, int, KafkaError | None, int, int
]  # topic, told, context, bytes, error, partition, offset


class RecordProducer:
    """`send` and `write` from the loop's thread, on which outcomes are told, too."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        presence: TopicWatch | None = None,
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
        self._presence = presence
        self._limit = config.kafka.producer_buffer_bytes
        self._bytes = 0  # of the records in hand
        if presence is not None:
            presence.on_away(self._on_presence)
        self._loop = asyncio.get_running_loop()
        self._producer = self._made()
        self._retired: list[Producer] = []  # dead, and still to tell what became of their records
        self._waiting: list[_Sent] = []  # for the next round
        self._since = 0.0  # when the first of them came
        # What has been acknowledged or given up; a thread that flushes puts it in as well.
        self._heard: deque[_Heard] = deque()
        self._due = 0  # records that are neither acknowledged nor given up
        self._in_vain = 0  # looks, since the last that found something
        self._timer = self._loop.call_later(_IDLE, self._look)

    def _made(self) -> Producer:
        return Producer(
            properties(
                self._config,
                acks="all",
                enable_idempotence=True,
                # What Kafka's own clients do: a record keyed by session id lands in that session's home.
                partitioner="murmur2_random",
                # Records without a key go anywhere, those of one millisecond together: a spill is spread over the fleet.
                sticky_partitioning_linger_ms=1,
                batch_size=self._batch_bytes,  # a topic's limit holds for a batch of small records, too
                linger_ms=0,  # what waits, waits for its round
                delivery_timeout_ms=int(self._timeout * 1000),
                queue_buffering_max_messages=200_000,
                # No more than the limit is handed over, but for answers; one of these must have room in any case.
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
        """Go on with another producer; what the dead one has not written is told so."""
        made = self._made()
        self._round()
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        self._retired.append(self._producer)
        self._producer = made
        if self._client is not None:
            self._client.works()

    def topic_replaced(self) -> None:
        """A topic is another one of its name: go on with another producer.

        An idempotent one would go on with the sequence numbers of the partitions before, and may never get past them: its
        records for such a partition time out, one after the other, while the others are written.
        """
        _log.info("another producer writes from now on")
        self._replace()

    @property
    def refusal(self) -> str | None:
        """Why a request would not be in the queue soon, or None: it is refused instead of being kept."""
        if self._bytes >= self._limit:
            return f"{self._bytes} bytes wait for the broker (kafka.producer_buffer_bytes)"
        return None if self._presence is None else self._presence.away

    @property
    def full(self) -> bool:
        """Whether the records in hand take up all the memory that they may."""
        return self._bytes >= self._limit

    def _on_presence(self, away: str | None) -> None:
        """Who waits for the acknowledgement of a record hears at once that no broker answers; what must be written is again."""
        if away is not None:
            self._round()
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None,
        headers: Headers,
        told: Told,
        context: Any = None,
        partition: int = -1,
    ) -> None:
        """Write one record, to a partition or (-1) the one that its key chooses; `told` hears what became of it, later."""
        if not self._waiting:
            self._since = self._loop.time()
            if self._due < _FEW:
                self._loop.call_soon(self._round)
        size = len(value) + _COST if type(value) is bytes else _COST  # what is none is refused when its turn comes
        self._bytes += size
        self._waiting.append((topic, value, key, headers, partition, told, context, size))

    def write(
        self, topic: str, value: bytes, *, key: bytes | None, headers: Headers, partition: int = -1
    ) -> asyncio.Future[Written]:
        """The same; the future ends with the record's place, or NotWritten."""
        written: asyncio.Future[Written] = self._loop.create_future()
        self.send(topic, value, key=key, headers=headers, told=_tell, context=written, partition=partition)
        return written

    async def write_surely(self, record: Outgoing) -> None:
        """Write until the broker acknowledges, however long that takes, the record or what stands in for it."""
        left: Outgoing | None = record
        while left is not None:
            try:
                await self.write(left.topic, left.value, key=left.key, headers=left.headers)
            except NotWritten as error:
                if error.too_large:
                    _log.error("%s is larger than topic %s takes", left.what, left.topic)
                    left = None if left.instead is None else left.instead()
                    continue
                _log.warning("writing %s again: %s", left.what, error)
                size = len(left.value) + _COST
                self._bytes += size
                try:
                    await asyncio.sleep(_BACKOFF)
                finally:
                    self._bytes -= size
            else:
                return

    async def learn(self, topic: str) -> None:
        """Ask the broker what a topic is now: by itself the producer would do so only after a while."""
        try:
            await self._loop.run_in_executor(None, partial(self._producer.list_topics, topic, timeout=_METADATA))
        except KafkaException as error:
            _log.warning("asking what topic %s is: %s", topic, error.args[0].str())

    def _look_after(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    def _round(self) -> None:
        """Hand what waits to librdkafka."""
        waiting, self._waiting = self._waiting, []
        produce, hear = self._producer.produce, self._hear
        for sent in waiting:
            topic, value, key, headers, partition, told, context, size = sent
            try:
                # Its stub knows of no partial as a callback. The value is librdkafka's from here on.
                heard = partial(hear, topic, told, context, size)
                produce(topic, value, key, partition, heard, headers=headers)  # type: ignore[arg-type]
            except Exception as error:
                # Whatever it is, it is this record's: the others of the round are written.
                self._heard.append((topic, told, context, size, _refusal(error), -1, -1))
        idle = not self._due
        self._due += len(waiting)
        if idle and waiting:
            self._look_after(_DUE)

    def _hear(
        self, topic: str, told: Told, context: Any, size: int, error: KafkaError | None, message: Message
    ) -> None:
        self._heard.append((topic, told, context, size, error, message.partition() or 0, message.offset() or 0))

    def _look(self) -> None:
        self._producer.poll(0)
        if self._retired:
            for retired in self._retired:
                retired.poll(0)
            self._retired = [retired for retired in self._retired if len(retired)]
        self._in_vain = 0 if self._heard else self._in_vain + 1
        self._settle()
        if self._waiting and (self._due < _FEW or self._loop.time() - self._since >= _HOLD):
            self._round()
        if not self._due:
            self._look_after(_IDLE)
        else:
            self._look_after(_DUE if self._in_vain < _PATIENT else _SLOW)

    def _settle(self) -> None:
        heard = self._heard
        outcomes: dict[tuple[str, str], int] = {}
        by_told: dict[Told, list[tuple[Any, Written | NotWritten]]] = {}
        while heard:
            topic, told, context, size, error, partition, offset = heard.popleft()
            self._due -= 1
            self._bytes -= size
            outcome: Written | NotWritten
            if error is None:
                outcome, label = tuple.__new__(Written, (partition, offset)), (topic, "acknowledged")
            else:
                outcome, label = _not_written(error), (topic, "error")
                if self._client is not None and is_dead(error):
                    self._client.died(error)
            outcomes[label] = outcomes.get(label, 0) + 1
            mine = by_told.get(told)
            if mine is None:
                mine = by_told[told] = []
            mine.append((context, outcome))
        for label, records in outcomes.items():
            self._metrics.produced.labels(*label).inc(records)
        for told, mine in by_told.items():
            try:
                told(mine)
            except Exception:
                _log.exception("what became of %d records was not taken", len(mine))

    async def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for what is queued; returns how many records are lost."""
        self._round()
        if self._client is not None:
            self._client.close()
        left: int = await self._loop.run_in_executor(None, self._producer.flush, timeout)
        self._timer.cancel()
        self._settle()
        if left:
            _log.error("%d records were not acknowledged in %.0f s", left, timeout)
        return left


def _tell(told: list[tuple[Any, Written | NotWritten]]) -> None:
    """Ends the futures of `write`."""
    for written, outcome in told:
        settle(written, outcome)


def settle(written: asyncio.Future[Written], outcome: Written | NotWritten) -> None:
    """End the future of who waits for a record, if somebody still does."""
    if written.done():
        return
    if isinstance(outcome, NotWritten):
        written.set_exception(outcome)
    else:
        written.set_result(outcome)


def _refusal(error: Exception) -> KafkaError:
    """Why librdkafka did not take a record."""
    if isinstance(error, BufferError):
        return KafkaError(KafkaError._QUEUE_FULL, "the producer's queue is full")
    if isinstance(error, KafkaException):
        refusal: KafkaError = error.args[0]
        return refusal
    return KafkaError(KafkaError._INVALID_ARG, str(error))


def _not_written(error: KafkaError) -> NotWritten:
    too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    return NotWritten(error.str(), too_large=too_large, client_message=description_of(error))
