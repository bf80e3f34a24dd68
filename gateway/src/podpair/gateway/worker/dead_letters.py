"""Dead letters: requests that no attempt could answer, written to a topic of their own with the reason."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from confluent_kafka import Message

from podpair.common.logs import Throttle
from podpair.gateway.core.dead_letters import to_dead_letter
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)


class DeadLetters:
    """Creates dead letters; without a topic they are only logged."""

    def __init__(self, topic: str | None, by: str, metrics: Metrics) -> None:
        self._topic = topic
        self._by = by
        self._metrics = metrics
        self._log_throttle = Throttle()

    def bury(self, record: Message, reason: str, attempts: int, *, headers_readable: bool = True) -> list[Outgoing]:
        """Make the dead letter of a request record. Returns nothing if there is no topic for it.

        headers_readable: False if they can't be read, and may not be asked for again: the letter has none of them.
        """
        origin = f"{record.topic()}[{record.partition()}]@{record.offset()}"
        self._log_throttle.log(_log, logging.ERROR, "dead letter of %s: %s", origin, reason)
        self._metrics.dead.inc()
        if self._topic is None:
            return []
        topic, value = self._topic, record.value() or b""
        kept = cast("Headers | None", record.headers()) if headers_readable else None

        def letter(value: bytes, reason: str, fallback: Callable[[], Outgoing] | None) -> Outgoing:
            headers = to_dead_letter(
                kept,
                reason=reason,
                attempts=attempts,
                origin=origin,
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                by=self._by,
            )
            return Outgoing(topic, value, record.key(), headers, lambda: f"the dead letter of {origin}", fallback)

        def without_value() -> Outgoing:
            """Make one that says at least that there was a request: the topic takes no record of its size."""
            lost = f"{reason}; its value ({len(value)} bytes) is larger than topic {topic} takes (max.message.bytes)"
            return letter(b"", lost, None)

        return [letter(value, reason, without_value)]
