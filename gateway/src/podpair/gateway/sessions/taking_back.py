"""Tells the other gateways of requests that their clients take back; one that has answered it lets the word pass.

Invariant: the word stands behind its request in the request's own partition, where a worker reads it after the request. Where
that partition is not known (another gateway accepted the request, and the session has moved here) it is written to each: they
are few, and a session has this done for no more ids in a while than it may have requests open. So it reaches every gateway that
has a partition, and with it a direct request, which is in no partition but in the memory of the gateway that the session left.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from podpair.gateway.config.model import Config
from podpair.gateway.core import records
from podpair.gateway.kafka.producer import NotWritten, RecordProducer, Written
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_HELD = 10.0  # seconds that an id counts, and is not looked for again


class TakingBack:
    """Writes cancellations. `partitions()` is how many the requests topic has."""

    def __init__(
        self, config: Config, source: str, producer: RecordProducer, partitions: Callable[[], int], metrics: Metrics
    ) -> None:
        self._topic = config.requests.topic
        self._keyed = config.requests.ordering == "session"
        self._limit = config.limits.in_flight
        self._source = source
        self._producer = producer
        self._partitions = partitions
        self._metrics = metrics
        self._sought: dict[str, set[str]] = {}  # session → ids that were looked for lately

    def at(self, session: Session, request_id: str, partition: int) -> None:
        """Its record is in that partition."""
        self._metrics.cancellations.labels("partition").inc()
        self._write(session, request_id, (partition,))

    def anywhere(self, session: Session, request_id: str) -> None:
        """Another gateway may have accepted it: it is looked for."""
        sought = self._sought.setdefault(session.id, set())
        if request_id in sought:
            return
        if len(sought) >= self._limit:
            self._metrics.cancellations.labels("too_many").inc()
            return
        sought.add(request_id)
        asyncio.get_running_loop().call_later(_HELD, self._forget, session.id, request_id)
        self._metrics.cancellations.labels("everywhere").inc()
        self._write(session, request_id, range(self._partitions()))

    def _forget(self, session_id: str, request_id: str) -> None:
        sought = self._sought[session_id]
        sought.discard(request_id)
        if not sought:
            del self._sought[session_id]

    def _write(self, session: Session, request_id: str, partitions: Iterable[int]) -> None:
        headers = records.cancel_headers(
            request_id=request_id, session=session.id, source=self._source, now=time.time()
        )
        key = session.key if self._keyed else None
        context = ids(session=session.id, request=request_id)
        for partition in partitions:
            self._producer.send(
                self._topic, b"", key=key, headers=headers, partition=partition, told=_told, context=context
            )


def _told(told: list[tuple[dict[str, str], Written | NotWritten]]) -> None:
    for about, outcome in told:
        if isinstance(outcome, NotWritten):
            _log.warning("a queued request runs on: %s", outcome, extra=about)
