"""Writes records; the broker's acknowledgement is what the gateway's promises wait for.

One producer for everything, idempotent and acks=all. Acknowledgements come on a thread of its own and cross to the loop a
batch at a time.
"""

import asyncio
import logging
import threading
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from podpair.gateway.config.model import Config
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.threads import call_on
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_BACKOFF = 0.5  # seconds before a record that was not acknowledged is written again


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
    instead: "Outgoing | None" = None  # what is written if the topic takes no record so large; None: nothing


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
        self._settled: list[tuple[asyncio.Future[Written], KafkaError | None, Message]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._thread.start()

    def write(
        self, topic: str, value: bytes, *, key: bytes | None, headers: Headers, partition: int = -1
    ) -> asyncio.Future[Written]:
        """Queue one record, for a partition or (-1) the one that its key chooses; the future ends with its place, or NotWritten.

        Raises NotWritten where the queue is full.
        """
        future: asyncio.Future[Written] = self._loop.create_future()

        def acknowledged(error: KafkaError | None, message: Message) -> None:
            self._settled.append((future, error, message))

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
                    left = left.instead
                    continue
                _log.warning("writing %s again: %s", left.what, error)
                await asyncio.sleep(_BACKOFF)
            else:
                return

    def _poll(self) -> None:
        while not self._stop.is_set():
            if self._producer.poll(0.5) and self._settled:
                settled, self._settled = self._settled, []
                call_on(self._loop, self._settle, settled)

    def _settle(self, settled: list[tuple[asyncio.Future[Written], KafkaError | None, Message]]) -> None:
        for future, error, message in settled:
            topic = message.topic() or ""
            self._metrics.produced.labels(topic, "error" if error is not None else "acknowledged").inc()
            if future.done():
                continue
            if error is not None:
                future.set_exception(_not_written(error))
            else:
                future.set_result(Written(message.partition() or 0, message.offset() or 0))

    async def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for what is queued; returns how many records are lost."""
        left: int = await self._loop.run_in_executor(None, self._producer.flush, timeout)
        self._stop.set()
        await self._loop.run_in_executor(None, self._thread.join)
        settled, self._settled = self._settled, []
        self._settle(settled)
        if left:
            _log.error("%d records were not acknowledged in %.0f s", left, timeout)
        return left


def _not_written(error: KafkaError) -> NotWritten:
    return NotWritten(error.str(), too_large=error.code() == KafkaError.MSG_SIZE_TOO_LARGE)
