"""Terminal events as records of the results topic: of queued requests, and of direct ones whose client is gone."""

import time
from collections.abc import Callable

import msgspec

from podpair.gateway.core import records
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.kafka.producer import Outgoing, RecordProducer
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.worker.parts import PartWriter


class AnswerWriter:
    """Makes the records, and writes those of requests that never were in Kafka."""

    def __init__(self, producer: RecordProducer, topic: str, source: str, limits: TopicLimits) -> None:
        self._producer = producer
        self._topic = topic
        self._source = source
        self._limits = limits

    def parts(self, request: records.Request) -> PartWriter:
        """What writes the parts of a queued request's answer."""
        return PartWriter(self._producer, self._topic, self._source, request)

    def result(self, session: str, request_id: str, body: bytes) -> Outgoing:
        """The record of a result; `body` is its JSON object. One that is too large gives way to an error."""

        def instead() -> Outgoing:
            most = self._limits.record_bytes(self._topic)
            message = (
                f"the answer ({len(body)} bytes) is larger than topic {self._topic} takes: {most} (max.message.bytes)"
            )
            return self.error(session, request_id, Fault(Code.INTERNAL, message))

        return self._record(records.RESULT, session, request_id, body, instead)

    def plain_result(self, session: str, request_id: str, body: bytes, now: float) -> Outgoing:
        """The record of a result, without what is only needed where it is refused. `now`: Unix seconds."""
        headers = records.answer_headers(
            records.RESULT, request_id=request_id, session=session, source=self._source, now=now
        )
        return Outgoing(self._topic, body, session.encode(), headers, request_id)

    def error(self, session: str, request_id: str, fault: Fault) -> Outgoing:
        """The record of a terminal error."""
        body = {"code": fault.code, "message": fault.message, "retry_after_ms": fault.retry_after_ms}
        value = msgspec.json.encode({k: v for k, v in body.items() if v is not None})
        # Should even this be too large, then by its ids: no client of ours sent them, and nobody can be told.
        return self._record(records.ERROR, session, request_id, value, None)

    async def event(self, session: str, event: records.Event) -> None:
        """Write a terminal event that its client did not get; returns when the broker has acknowledged it."""
        body, request_id = records.record_value(event), event.id or ""
        if event.name == "result":
            record = self.result(session, request_id, body)
        else:
            record = self._record(records.ERROR, session, request_id, body, None)
        await self._producer.write_surely(record)

    def _record(
        self, ce_type: bytes, session: str, request_id: str, body: bytes, instead: Callable[[], Outgoing] | None
    ) -> Outgoing:
        headers = records.answer_headers(
            ce_type, request_id=request_id, session=session, source=self._source, now=time.time()
        )
        what = f"the answer to {request_id} of session {session}"
        return Outgoing(self._topic, body, session.encode(), headers, what, instead)
