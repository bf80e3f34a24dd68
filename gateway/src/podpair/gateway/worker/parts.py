"""The parts of a queued request's answer, on their way to the results topic while the model is still at work.

A part is a preview: one that the broker does not take is left out, for the result holds the whole. Invariant: no part is
written after the answer's terminal record, and no more than a few wait for the broker.
"""

import asyncio
import logging
import time

from podpair.gateway.core import records
from podpair.gateway.kafka.producer import RecordProducer, Written
from podpair.gateway.logs import ids

_log = logging.getLogger(__name__)
_AHEAD = 64  # parts that may wait for the broker


class PartWriter:
    """Writes the parts of one answer."""

    def __init__(self, producer: RecordProducer, topic: str, source: str, request: records.Request) -> None:
        self._producer = producer
        self._topic = topic
        self._source = source
        self._request = request
        self._last: asyncio.Future[Written] | None = None
        self._unheard = 0

    async def part(self, seq: int, data: bytes) -> None:
        """Write the next part; returns when another can be taken."""
        request = self._request
        headers = records.answer_headers(
            records.PARTIAL,
            request_id=request.id,
            session=request.session,
            source=self._source,
            now=time.time(),
            seq=seq,
        )
        self._last = self._producer.write(self._topic, data, key=request.session.encode(), headers=headers)
        self._last.add_done_callback(self._heard)
        self._unheard += 1
        if self._unheard >= _AHEAD:
            await self.settled()

    async def settled(self) -> None:
        """Return when the broker has acknowledged, or refused, all of them: they are written in order."""
        if self._last is not None:
            await asyncio.wait((self._last,))
        self._unheard = 0

    def _heard(self, written: asyncio.Future[Written]) -> None:
        if not written.cancelled() and (error := written.exception()) is not None:
            about = ids(session=self._request.session, request=self._request.id)
            _log.warning("a part is left out: %s", error, extra=about)
