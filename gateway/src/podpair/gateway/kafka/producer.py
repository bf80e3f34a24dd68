"""Writes records; the broker's acknowledgement is what the gateway's promises wait for.

One producer for everything, idempotent and acks=all. The loop itself asks for acknowledgements, every millisecond while any
are due: librdkafka's client takes the interpreter's lock anew for each of them, and a thread that asks has to wait for it, each
time, until the loop lets go of it.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from podpair.gateway.config.model import Config
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.clients import properties
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_BACKOFF = 0.5  # seconds before a record that was not acknowledged is written again
_DUE = 0.001  # seconds between looks for acknowledgements while some are due …
_PATIENT = 50  # … for so many looks in vain, …
_SLOW = 0.02  # … then so many seconds
_IDLE = 0.5  # seconds between looks otherwise: librdkafka has errors to tell, too


class NotWritten(Exception):
    """The record is not in Kafka: the local queue was full, or the broker did not acknowledge it in time.

    `too_large`: it never will be, the topic takes no record of that size.
    """

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


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


class RecordProducer:
    """`write` from the loop's thread; each record's future is set there too."""

    def __init__(self, config: Config, metrics: Metrics, *, timeout: float = 30.0) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(
            properties(
                config,
                acks="all",
                enable_idempotence=True,
                # What Kafka's own clients do: a record keyed by session id lands in that session's home.
                partitioner="murmur2_random",
                # A record without a key goes anywhere, each by itself: a spill is spread over the fleet, not sent to one.
                sticky_partitioning_linger_ms=0,
                linger_ms=1,
                delivery_timeout_ms=int(timeout * 1000),
                queue_buffering_max_messages=200_000,
            )
        )
        # future, topic, error, partition, offset; a thread that flushes puts them in as well
        self._heard: deque[tuple[asyncio.Future[Written], str, KafkaError | None, int, int]] = deque()
        self._due = 0  # records that are neither acknowledged nor given up
        self._in_vain = 0  # looks, since the last that found something
        self._timer = self._loop.call_later(_IDLE, self._look)

    def write(
        self, topic: str, value: bytes, *, key: bytes | None, headers: Headers, partition: int = -1
    ) -> asyncio.Future[Written]:
        """Queue one record, for a partition or (-1) the one that its key chooses; the future ends with its place, or NotWritten.

        Raises NotWritten where the queue is full.
        """
        future: asyncio.Future[Written] = self._loop.create_future()

        def acknowledged(error: KafkaError | None, message: Message) -> None:
            self._heard.append((future, topic, error, message.partition() or 0, message.offset() or 0))

        try:
            self._producer.produce(
                topic, value=value, key=key, headers=list(headers), partition=partition, on_delivery=acknowledged
            )
        except BufferError:
            self._metrics.produced.labels(topic, "queue_full").inc()
            raise NotWritten("the producer's queue is full") from None
        except KafkaException as error:
            self._metrics.produced.labels(topic, "refused").inc()
            raise _not_written(error.args[0]) from None
        self._due += 1
        if self._due == 1:
            self._look_after(_DUE)
        return future

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
                await asyncio.sleep(_BACKOFF)
            else:
                return

    def _look_after(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._producer.poll(0)
        self._in_vain = 0 if self._heard else self._in_vain + 1
        self._settle()
        if not self._due:
            self._look_after(_IDLE)
        else:
            self._look_after(_DUE if self._in_vain < _PATIENT else _SLOW)

    def _settle(self) -> None:
        outcomes: Counter[tuple[str, str]] = Counter()
        heard = self._heard
        while heard:
            future, topic, error, partition, offset = heard.popleft()
            self._due -= 1
            outcomes[topic, "error" if error is not None else "acknowledged"] += 1
            if future.done():
                continue
            if error is not None:
                future.set_exception(_not_written(error))
            else:
                future.set_result(Written(partition, offset))
        for labels, records in outcomes.items():
            self._metrics.produced.labels(*labels).inc(records)

    async def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for what is queued; returns how many records are lost."""
        left: int = await self._loop.run_in_executor(None, self._producer.flush, timeout)
        self._timer.cancel()
        self._settle()
        if left:
            _log.error("%d records were not acknowledged in %.0f s", left, timeout)
        return left


def _not_written(error: KafkaError) -> NotWritten:
    return NotWritten(error.str(), too_large=error.code() == KafkaError.MSG_SIZE_TOO_LARGE)
