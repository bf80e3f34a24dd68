"""Writes terminal events to the results topic: of queued requests, and of direct ones whose client is gone."""

import time
from functools import partial

import msgspec

from podpair.gateway.core import records
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.record_headers import answer_headers
from podpair.gateway.kafka.producer import Outgoing, RecordProducer
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.results.chunks import ChunkWriter

_DESCRIBE = "the answer to {} of session {}".format


class ResultWriter:
    """Creates the records, and writes those of requests that were never in Kafka."""

    def __init__(
        self, producer: RecordProducer, topic: str, source: str, limits: TopicLimits, homes: HomePartitions
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._source = source
        self._limits = limits
        self._homes = homes

    def chunks(self, request: records.Request) -> ChunkWriter:
        """Make the writer of the chunks of a queued request's answer."""
        return ChunkWriter(self._producer, self._topic, self._source, request)

    def result(self, session: str, request_id: str, body: bytes, now: float | None = None) -> Outgoing:
        """Make the record of a result; `body` is its JSON object. Its fallback, if it is too large, is an error.

        now: Unix seconds, if they are known.
        """
        key = session.encode()
        headers = answer_headers(
            records.RESULT, request_id=request_id, session=key, source=self._source, now=now or time.time()
        )
        describe = partial(_DESCRIBE, request_id, session)
        fallback = partial(self._too_large, session, request_id, len(body))
        # A named tuple's own constructor takes several times as long.
        return tuple.__new__(Outgoing, (self._topic, body, key, headers, describe, fallback, -1, False))

    def _too_large(self, session: str, request_id: str, size: int) -> Outgoing:
        most = self._limits.record_bytes(self._topic)
        message = f"the result ({size} bytes) is larger than topic {self._topic} takes: {most} (max.message.bytes)"
        return self.error(session, request_id, Fault(Code.INTERNAL, message))

    def error(self, session: str, request_id: str, fault: Fault) -> Outgoing:
        """Make the record of a terminal error."""
        body = {"code": fault.code, "message": fault.message, "retry_after_ms": fault.retry_after_ms}
        value = msgspec.json.encode({k: v for k, v in body.items() if v is not None})
        # If even this is too large, then by its ids: no client of ours sent them, and there is nobody to answer.
        return self._error(session, request_id, value)

    async def write_event(self, session: str, event: records.Event) -> None:
        """Write a terminal event that its client did not get; return when the broker has acknowledged it."""
        body, request_id = records.record_value(event), event.id or ""
        record = (
            self.result(session, request_id, body) if event.name == "result" else self._error(session, request_id, body)
        )
        # To its home by name: where the topic was widened the producer may know of it later than this gateway does.
        await self._producer.send_until_acked(record, lambda: self._homes.of(session))

    def _error(self, session: str, request_id: str, body: bytes) -> Outgoing:
        key = session.encode()
        headers = answer_headers(
            records.ERROR, request_id=request_id, session=key, source=self._source, now=time.time()
        )
        return Outgoing(self._topic, body, key, headers, partial(_DESCRIBE, request_id, session))
