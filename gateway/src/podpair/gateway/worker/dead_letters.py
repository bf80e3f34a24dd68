"""Where requests go that no attempt could answer: to a topic of their own, with the reason beside them."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from confluent_kafka import Message

from podpair.gateway.core.dead_letters import buried
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.logs import Throttle
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)


class DeadLetters:
    """Makes them; without a topic they are only logged."""

    def __init__(self, topic: str | None, by: str, metrics: Metrics) -> None:
        self._topic = topic
        self._by = by
        self._metrics = metrics
        self._told = Throttle()

    def bury(self, record: Message, reason: str, attempts: int) -> list[Outgoing]:
        """The dead letter to write for a request record, if there is a topic for it."""
        origin = f"{record.topic()}[{record.partition()}]@{record.offset()}"
        self._told.log(_log, logging.ERROR, "dead letter of %s: %s", origin, reason)
        self._metrics.dead.inc()
        if self._topic is None:
            return []
        topic, value = self._topic, record.value() or b""

        def letter(value: bytes, reason: str, instead: Callable[[], Outgoing] | None) -> Outgoing:
            headers = buried(
                cast("Headers | None", record.headers()),
                reason=reason,
                attempts=attempts,
                origin=origin,
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                by=self._by,
            )
            return Outgoing(topic, value, record.key(), headers, f"the dead letter of {origin}", instead)

        def without_value() -> Outgoing:
            """What tells at least that there was one, where the topic takes less than the requests topic does."""
            lost = f"{reason}; its value ({len(value)} bytes) is larger than topic {topic} takes (max.message.bytes)"
            return letter(b"", lost, None)

        return [letter(value, reason, without_value)]
