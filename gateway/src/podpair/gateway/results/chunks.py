"""Writes the chunks of a queued request's stream to the results topic while the model is still running.

A chunk is a preview: one that the broker rejects is left out, because the result has the whole. Invariant: no chunk is written
after the terminal record, and only a bounded number wait for the broker.
"""

import asyncio
import logging
import time

from podpair.common.logs import ids
from podpair.gateway.core import records
from podpair.gateway.core.record_headers import answer_headers
from podpair.gateway.kafka.producer import RecordMetadata, RecordProducer

_log = logging.getLogger(__name__)
_AHEAD = 64  # chunks that may wait for the broker


class ChunkWriter:
    """Writes the chunks of one result."""

    def __init__(self, producer: RecordProducer, topic: str, source: str, request: records.Request) -> None:
        self._producer = producer
        self._topic = topic
        self._source = source
        self._request = request
        self._last: asyncio.Future[RecordMetadata] | None = None
        self._unacknowledged = 0

    async def write(self, seq: int, data: bytes) -> None:
        """Write the next chunk; return when another can be accepted."""
        request, key = self._request, self._request.session.encode()
        headers = answer_headers(
            records.PARTIAL,
            request_id=request.id,
            session=key,
            source=self._source,
            now=time.time(),
            seq=seq,
        )
        self._last = self._producer.write(self._topic, data, key=key, headers=headers)
        self._last.add_done_callback(self._on_written)
        self._unacknowledged += 1
        if self._unacknowledged >= _AHEAD:
            await self.flush()

    async def flush(self) -> None:
        """Wait until the broker has acknowledged or rejected all chunks, which are written in order."""
        if self._last is not None:
            await asyncio.wait((self._last,))
        self._unacknowledged = 0

    def _on_written(self, written: asyncio.Future[RecordMetadata]) -> None:
        if not written.cancelled() and (error := written.exception()) is not None:
            about = ids(session=self._request.session, request=self._request.id)
            _log.warning("a chunk is left out: %s", error, extra=about)
