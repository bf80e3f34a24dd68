"""Writes terminal events to the results topic: of queued requests, and of direct ones whose client is gone."""

import logging
import time

import msgspec

from podpair.gateway.core import records
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.kafka.producer import NotWritten, RecordProducer
from podpair.gateway.logs import ids

_log = logging.getLogger(__name__)


class AnswerWriter:
    """Each method returns when the broker has acknowledged the record, however long that takes."""

    def __init__(self, producer: RecordProducer, topic: str, source: str) -> None:
        self._producer = producer
        self._topic = topic
        self._source = source

    async def result(self, session: str, request_id: str, body: bytes) -> None:
        """Write a result; `body` is its JSON object."""
        await self._write(records.RESULT, session, request_id, body)

    async def error(self, session: str, request_id: str, fault: Fault) -> None:
        """Write a terminal error."""
        body = {"code": fault.code, "message": fault.message, "retry_after_ms": fault.retry_after_ms}
        await self._write(
            records.ERROR, session, request_id, msgspec.json.encode({k: v for k, v in body.items() if v is not None})
        )

    async def event(self, session: str, event: records.Event) -> None:
        """Write a terminal event that its client did not get."""
        body = {k: v for k, v in msgspec.json.decode(event.payload).items() if k not in ("type", "id")}
        ce_type = records.RESULT if event.name == "result" else records.ERROR
        await self._write(ce_type, session, event.id or "", msgspec.json.encode(body))

    async def _write(self, ce_type: bytes, session: str, request_id: str, body: bytes) -> None:
        headers = records.answer_headers(
            ce_type, request_id=request_id, session=session, source=self._source, now=time.time()
        )
        key = session.encode()
        try:
            await self._producer.write_surely(self._topic, body, key=key, headers=headers, what=f"answer {request_id}")
        except NotWritten as error:
            if ce_type == records.ERROR:
                # What is so large is the id, or the session's: no client of ours sent it.
                _log.error("no record can tell the end: %s", error, extra=ids(session=session, request=request_id))
                return
            message = f"the answer ({len(body)} bytes) is larger than topic {self._topic} takes"
            await self.error(session, request_id, Fault(Code.INTERNAL, message))
