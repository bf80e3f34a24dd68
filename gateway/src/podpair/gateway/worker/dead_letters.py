"""Where requests go that no attempt could answer: to a topic of their own, with the reason beside them."""

import logging
from datetime import UTC, datetime
from typing import cast

from confluent_kafka import Message

from podpair.gateway.core.dead_letters import buried
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.producer import NotWritten, RecordProducer
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)


class DeadLetters:
    """Writes them; without a topic they are only logged."""

    def __init__(self, producer: RecordProducer, topic: str | None, by: str, metrics: Metrics) -> None:
        self._producer = producer
        self._topic = topic
        self._by = by
        self._metrics = metrics

    async def bury(self, record: Message, reason: str, attempts: int) -> None:
        """Return when the broker has acknowledged the dead letter, however long that takes."""
        origin = f"{record.topic()}[{record.partition()}]@{record.offset()}"
        _log.error("dead letter of %s: %s", origin, reason)
        self._metrics.dead.inc()
        if self._topic is None:
            return
        headers = buried(
            cast("Headers | None", record.headers()),
            reason=reason,
            attempts=attempts,
            origin=origin,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            by=self._by,
        )
        value = record.value() or b""
        try:
            await self._producer.write_surely(
                self._topic, value, key=record.key(), headers=headers, what=f"the dead letter of {origin}"
            )
        except NotWritten:
            _log.error("%s takes no record as large as %s", self._topic, origin)
