"""Dead letters: requests that no attempt could answer, written to a topic of their own with the reason."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from podpair.common.logs import Throttle
from podpair.gateway.core.dead_letters import parse_dead_letter, to_dead_letter
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import Headers, InvalidRecord
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.metrics import Metrics
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.worker.request import QueuedRequest

_log = logging.getLogger(__name__)


class RequestRecord(Protocol):
    """The record of a request: Kafka's, or what a workflow's state has kept of it."""

    def topic(self) -> str | None: ...
    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> Any: ...


class DeadLetters:
    """Creates dead letters; without a topic they are only logged."""

    def __init__(self, topic: str | None, by: str, metrics: Metrics) -> None:
        self._topic = topic
        self._by = by
        self._metrics = metrics
        self._log_throttle = Throttle()

    def bury(
        self, record: RequestRecord, reason: str, attempts: int, *, headers_readable: bool = True
    ) -> list[Outgoing]:
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


def bury_invalid(
    dead_letters: DeadLetters, results: ResultWriter, request: QueuedRequest, error: InvalidRecord
) -> list[Outgoing]:
    """Make the dead letter of a record that is no request, and the error for whoever waits for it, as far as that is known."""
    record = request.record
    records = dead_letters.bury(record, str(error), 0, headers_readable=request.headers_readable)
    if not request.headers_readable:
        return records  # whose it is stands there
    try:
        letter = parse_dead_letter(record.value(), cast("Headers | None", record.headers()))
    except Exception:
        _log.exception("whose a dead letter is could not be read")
        return records
    if letter.id and letter.session:  # as far as can be known, a client waits for it
        records.append(results.error(letter.session, letter.id, Fault(Code.INVALID, str(error))))
    return records
