"""Writes requests of sessions to the requests topic, and sends their `accepted`.

Invariant: `accepted` is sent once the broker has acknowledged the record; if the broker rejects the record, the request ends
with an error.
"""

import asyncio
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.record_headers import request_headers
from podpair.gateway.core.records import USER
from podpair.gateway.core.request import InferenceRequest, encode_request
from podpair.gateway.kafka.producer import DeliveryError, RecordMetadata, RecordProducer, resolve
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.sessions.cancellation import CancellationPublisher
from podpair.gateway.sessions.replies import Accepted, Replies
from podpair.gateway.sessions.session import Session
from podpair.gateway.sessions.signals import SignalPublisher

_SMALL = 4096  # bytes that any topic accepts


class QueuedRequest(msgspec.Struct, eq=False):
    """A request whose record is being written."""

    session: Session
    id: str
    request: OpenRequest | None
    waiter: asyncio.Future[RecordMetadata] | None = None  # created by `written`

    async def written(self) -> None:
        """Wait for the broker's acknowledgement; to be called at once. Raises DeliveryError."""
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            # The error refers to the frames of the waiting task, and they refer to the request: that cycle would live long.
            self.waiter = None


@dataclass(frozen=True, slots=True)
class RecordWriters:
    """What requests, their cancellations and results are written with."""

    producer: RecordProducer
    topic_limits: TopicLimits
    cancellations: CancellationPublisher
    signals: SignalPublisher
    results: ResultWriter
    source: str
    """This gateway's name, as records have it."""


class Enqueuer:
    """Writes request records. fail: called with the session, the id and the fault if the broker rejects a record."""

    def __init__(
        self,
        config: Config,
        writers: RecordWriters,
        replies: Replies,
        fail: Callable[[Session, str, Fault], None],
    ) -> None:
        self._topic = config.requests.topic
        self._keyed = config.requests.ordering == "session"
        self._by_id = config.workflows.enabled and not self._keyed
        self._source = writers.source
        self._producer = writers.producer
        self._topic_limits = writers.topic_limits
        self._cancellations = writers.cancellations
        self._replies = replies
        self._fail = fail
        # Their workers have to know whose a request is.
        self._by_subject = frozenset(cached.model for cached in config.cache.models if cached.scope == "subject")
        self._on_outcomes = self._on_delivery  # one object, by which the producer finds what belongs together

    def enqueue(self, session: Session, request: InferenceRequest) -> QueuedRequest:
        """Write the request's record; `accepted` or an error follows when the broker has answered."""
        open_request = session.ledger.get(request.id)
        grant = None if open_request is None else open_request.grant
        headers = request_headers(
            request_id=request.id,
            session=session.id,
            model=request.model,
            source=self._source,
            now=time.time(),
            deadline=request.deadline,
            priority="normal" if grant is None else grant.priority,
            not_before=request.not_before,
        )
        if request.trace:
            headers.append(("traceparent", request.trace.encode()))
        if request.model in self._by_subject:
            headers.append((USER, request.subject.encode()))
        queued = QueuedRequest(session, request.id, open_request)
        # Without a key a spill spreads over the fleet; with one the requests of a session keep their order.
        key = session.key if self._keyed else None
        body = encode_request(request)
        if len(body) > _SMALL and len(body) > self._topic_limits.record_bytes(self._topic):
            # The broker would reject it, but only after receiving all of it.
            return self._refused(queued, self._too_large())
        if (refusal := self._producer.refusal) is not None:
            return self._refused(queued, DeliveryError(refusal))
        partition = self._partition(session, request.id) if self._by_id else -1
        self._producer.send(
            self._topic, body, key=key, headers=headers, partition=partition, callback=self._on_outcomes, context=queued
        )
        return queued

    def _partition(self, session: Session, request_id: str) -> int:
        """Return where a request belongs; -1: anywhere. What repeats it finds what it has begun, or is kept, there."""
        width = self._cancellations.partitions()
        return zlib.crc32(b"%b/%b" % (session.key, request_id.encode())) % width if width else -1

    def _refused(self, queued: QueuedRequest, why: DeliveryError) -> QueuedRequest:
        outcomes: list[tuple[QueuedRequest, RecordMetadata | DeliveryError]] = [(queued, why)]
        asyncio.get_running_loop().call_soon(self._on_delivery, outcomes)
        return queued

    def _on_delivery(self, outcomes: list[tuple[QueuedRequest, RecordMetadata | DeliveryError]]) -> None:
        """Accept the requests that the broker acknowledged together: one write per session."""
        accepted: list[Accepted] = []
        for queued, outcome in outcomes:
            if isinstance(outcome, DeliveryError):
                self._on_failure(queued, outcome)
                continue
            if queued.waiter is not None:
                resolve(queued.waiter, outcome)
            session, request_id, request = queued.session, queued.id, queued.request
            if request is None:
                continue
            if request.cancelled:
                request.partition, request.offset = outcome
                awaited = session.ledger.get(request_id) is request
                self._cancellations.to_partition(session, request_id, outcome.partition, awaited=awaited)
            # The result, which implies the acknowledgement, may have arrived before it.
            elif session.ledger.get(request_id) is request:
                request.partition, request.offset = outcome
                if not session.may_be_lost(request):  # else its result says so
                    accepted.append((session, request_id, request))
        if accepted:
            self._replies.accept(accepted, "queue")

    def _on_failure(self, queued: QueuedRequest, error: DeliveryError) -> None:
        if error.too_large:
            error = self._too_large()
        if queued.waiter is not None:
            resolve(queued.waiter, error)
        self._fail(queued.session, queued.id, not_queued(error))

    def _too_large(self) -> DeliveryError:
        most = self._topic_limits.record_bytes(self._topic)
        message = f"the request is larger than topic {self._topic} takes: {most} bytes (its max.message.bytes)"
        return DeliveryError(message, too_large=True)


def not_queued(error: DeliveryError) -> Fault:
    """Return the fault for a request that could not be queued."""
    if error.too_large:
        return Fault(Code.INVALID, str(error))
    return Fault(Code.OVERLOADED, f"the request is not in the queue: {error.client_message}", retry_after_ms=1000)
