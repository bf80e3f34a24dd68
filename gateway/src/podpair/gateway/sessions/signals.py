"""Publishes clients' messages to workflows, which wait for them in the partition of their request.

Invariant: a message is sent until the broker has it. It is behind the request in its partition; where that is not known (another
gateway accepted the request, or the broker has not acknowledged it yet) the message goes to each partition, and the workflow is
in one of them. A session has at most as many under way as it may have requests open (`limits.in_flight`): the memory for them is
bounded, whatever a client sends while no broker answers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from podpair.common.gateway_config.model import Config
from podpair.common.logs import Throttle, ids
from podpair.gateway.core.protocol import Signal
from podpair.gateway.core.record_headers import signal_headers
from podpair.gateway.kafka.producer import Outgoing, RecordProducer
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)


class SignalPublisher:
    """Writes messages to the requests topic. partitions: returns its width."""

    def __init__(self, config: Config, source: str, producer: RecordProducer, partitions: Callable[[], int]) -> None:
        self._topic = config.requests.topic
        self._keyed = config.requests.ordering == "session"
        self._source = source
        self._producer = producer
        self._partitions = partitions
        self._limit = config.limits.in_flight
        self._under_way: dict[str, int] = {}  # messages, by session
        self._throttle = Throttle()
        self._tasks = Tasks()

    def publish(self, session: Session, signal: Signal, partition: int | None) -> None:
        """Pass a message on to the workflow of a request in this partition; None: it is not known where that is.

        Past the session's limit it is dropped, and logged.
        """
        places: Iterable[int] = range(self._partitions()) if partition is None else (partition,)
        if self._under_way.get(session.id, 0) >= self._limit:
            whose = ids(session=session.id, request=signal.id)
            self._throttle.log(_log, logging.WARNING, "dropped a message: too many are under way", extra=whose)
            return
        headers = signal_headers(
            request_id=signal.id, session=session.id, name=signal.name, source=self._source, now=time.time()
        )
        key = session.key if self._keyed else None
        about = f"the message {signal.name} to request {signal.id}".__str__
        records = [Outgoing(self._topic, bytes(signal.data), key, headers, about, None, place) for place in places]
        self._under_way[session.id] = self._under_way.get(session.id, 0) + 1
        self._tasks.spawn(self._send(session.id, records))

    async def _send(self, session: str, records: Sequence[Outgoing]) -> None:
        try:
            await asyncio.gather(*map(self._producer.send_until_acked, records))
        finally:
            self._under_way[session] -= 1
            if not self._under_way[session]:
                del self._under_way[session]

    async def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for messages that are being written."""
        await self._tasks.join(timeout)
        await self._tasks.cancel()
