"""Records of the results topic whose values do not match their types: a `result` that is not a JSON object, for example.

Invariant: the client gets an error in the record's place, so that requests end and positions advance; a metric counts such
records, and a log line at intervals names the producer if the record does.
"""

import logging

from podpair.common.logs import Throttle, ids
from podpair.gateway.core.records import Headers, Kind, MalformedEvent
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_WARN_EVERY = 60.0  # seconds between two warnings


class MalformedRecords:
    """Counts malformed records, each time that one is read for a client."""

    def __init__(self, topic: str, metrics: Metrics) -> None:
        self._topic = topic
        self._records = metrics.malformed
        self._log_throttle = Throttle(1, _WARN_EVERY)

    def count(self, event: MalformedEvent, headers: Headers | None) -> None:
        """Count a record with these headers, which became this event."""
        if event.kind is Kind.UNREADABLE:
            self._records.labels("cloudevent").inc()
            self._log_throttle.log(
                _log, logging.WARNING, "a record of %s at offset %d: %s",
                self._topic, event.offset, event.payload.decode(errors="replace"),
            )  # fmt: skip
            return
        fields = {name: (value or b"").decode(errors="replace")[:200] for name, value in headers or ()}
        kind = fields.get("ce_type", "").rpartition(".")[2]
        self._records.labels(kind).inc()
        expected = "JSON" if kind == "partial" else "a JSON object"
        self._log_throttle.log(
            _log, logging.WARNING, "a record of %s at offset %d is a %s whose value is not %s; it was written by %s",
            self._topic, event.offset, kind, expected, fields.get("ce_source") or "an unnamed service (no ce_source)",
            extra=ids(session=fields.get("ce_subject"), request=event.id),
        )  # fmt: skip
