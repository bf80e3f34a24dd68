"""Publishes cancellations of requests to the other gateways. A gateway that has already answered the request ignores it.

Invariant: a cancellation is written behind its request, to the same partition, so that a worker reads it after the request. If
that partition is not known (another gateway accepted the request, and the session has moved here) it is written to each
partition, for at most as many ids of a session at a time as the session may have open requests. So it reaches every gateway that
owns a partition, and thereby a direct request, which exists only in the memory of the gateway that the session left.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from podpair.common.gateway_config.model import Config
from podpair.common.logs import ids
from podpair.gateway.core.record_headers import Header, cancel_headers
from podpair.gateway.kafka.producer import DeliveryError, Outgoing, RecordMetadata, RecordProducer
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_REMEMBER = 10.0  # seconds for which a broadcast id is remembered, and not broadcast again


class CancellationPublisher:
    """Writes cancellations. partitions: returns the width of the requests topic."""

    def __init__(
        self, config: Config, source: str, producer: RecordProducer, partitions: Callable[[], int], metrics: Metrics
    ) -> None:
        self._topic = config.requests.topic
        self._keyed = config.requests.ordering == "session"
        self._limit = config.limits.in_flight
        self._source = source
        self._producer = producer
        self.partitions = partitions
        self._metrics = metrics
        self._tasks = Tasks()
        self._recent: dict[str, set[str]] = {}  # session → ids that were broadcast recently

    def to_partition(self, session: Session, request_id: str, partition: int, *, awaited: bool) -> None:
        """Cancel a request whose record is in `partition`.

        awaited: its client waits for the end that whoever runs it tells, so the record is sent until the broker has it.
        """
        self._metrics.cancellations.labels("partition").inc()
        if not awaited:
            self._write(session, request_id, (partition,))
            return
        key, headers = self._record(session, request_id)
        about = f"the cancellation of request {request_id}".__str__
        record = Outgoing(self._topic, b"", key, headers, about, None, partition)
        self._tasks.spawn(self._producer.send_until_acked(record))

    def broadcast(self, session: Session, request_id: str) -> None:
        """Cancel a request that another gateway may have accepted."""
        recent = self._recent.setdefault(session.id, set())
        if request_id in recent:
            return
        if len(recent) >= self._limit:
            self._metrics.cancellations.labels("too_many").inc()
            return
        recent.add(request_id)
        asyncio.get_running_loop().call_later(_REMEMBER, self._forget, session.id, request_id)
        self._metrics.cancellations.labels("broadcast").inc()
        self._write(session, request_id, range(self.partitions()))

    def _forget(self, session_id: str, request_id: str) -> None:
        recent = self._recent[session_id]
        recent.discard(request_id)
        if not recent:
            del self._recent[session_id]

    def _write(self, session: Session, request_id: str, partitions: Iterable[int]) -> None:
        key, headers = self._record(session, request_id)
        context = ids(session=session.id, request=request_id)
        for partition in partitions:
            self._producer.send(
                self._topic, b"", key=key, headers=headers, partition=partition, callback=_on_delivery, context=context
            )

    def _record(self, session: Session, request_id: str) -> tuple[bytes | None, list[Header]]:
        headers = cancel_headers(request_id=request_id, session=session.id, source=self._source, now=time.time())
        return session.key if self._keyed else None, headers

    async def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for cancellations that are being written."""
        await self._tasks.join(timeout)
        await self._tasks.cancel()


def _on_delivery(outcomes: list[tuple[dict[str, str], RecordMetadata | DeliveryError]]) -> None:
    for context, outcome in outcomes:
        if isinstance(outcome, DeliveryError):
            _log.warning("a queued request was not cancelled: %s", outcome, extra=context)
