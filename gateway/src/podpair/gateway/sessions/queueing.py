"""Puts requests of sessions on the requests topic, and says `accepted` for them.

Invariant: `accepted` is sent once the broker has acknowledged the record; a record that it did not take ends its request with
an error.
"""

import asyncio
import time
from collections.abc import Callable

from podpair.gateway.config.model import Config
from podpair.gateway.core import records
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.questions import Question, question_body
from podpair.gateway.kafka.producer import NotWritten, RecordProducer, Written, settle
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.sessions.replies import Accepted, Replies
from podpair.gateway.sessions.session import Session
from podpair.gateway.sessions.taking_back import TakingBack

_SMALL = 4096  # bytes that any topic takes


class Queued:
    """A request on its way to the broker."""

    __slots__ = ("_written", "id", "request", "session")

    def __init__(self, session: Session, request_id: str, request: OpenRequest | None) -> None:
        self.session = session
        self.id = request_id
        self.request = request
        self._written: asyncio.Future[Written] | None = None  # made for who waits

    async def written(self) -> None:
        """Return when the broker has acknowledged it, if called at once. Raises NotWritten where it did not."""
        self._written = asyncio.get_running_loop().create_future()
        try:
            await self._written
        finally:
            # Its error has the frames of who waits, and they have the request: a cycle would keep that for long.
            self._written = None

    def settle(self, outcome: Written | NotWritten) -> None:
        if self._written is not None:
            settle(self._written, outcome)


class Queueing:
    """Writes request records. `fail(session, id, fault)` is told of those that the broker did not take."""

    def __init__(
        self,
        config: Config,
        source: str,
        producer: RecordProducer,
        topic_limits: TopicLimits,
        taking_back: TakingBack,
        replies: Replies,
        fail: Callable[[Session, str, Fault], None],
    ) -> None:
        self._topic = config.requests.topic
        self._keyed = config.requests.ordering == "session"
        self._source = source
        self._producer = producer
        self._topic_limits = topic_limits
        self._taking_back = taking_back
        self._replies = replies
        self._fail = fail

    def enqueue(self, session: Session, question: Question) -> Queued:
        """Write the request's record; `accepted`, or the error, follows when the broker has answered."""
        headers = records.request_headers(
            request_id=question.id,
            session=session.id,
            model=question.model,
            source=self._source,
            now=time.time(),
            deadline=question.deadline,
        )
        if question.trace:
            headers.append(("traceparent", question.trace.encode()))
        queued = Queued(session, question.id, session.ledger.get(question.id))
        # Without a key a spill spreads over the fleet; with one the requests of a session keep their order.
        key = session.key if self._keyed else None
        body = question_body(question)
        if len(body) > _SMALL and len(body) > self._topic_limits.record_bytes(self._topic):
            # The broker would say so once it has all of it.
            return self._refused(queued, self._too_large())
        if (refusal := self._producer.refusal) is not None:
            return self._refused(queued, NotWritten(refusal))
        self._producer.send(self._topic, body, key=key, headers=headers, told=self._told, context=queued)
        return queued

    def _refused(self, queued: Queued, why: NotWritten) -> Queued:
        told: list[tuple[Queued, Written | NotWritten]] = [(queued, why)]
        asyncio.get_running_loop().call_soon(self._told, told)
        return queued

    def _told(self, told: list[tuple[Queued, Written | NotWritten]]) -> None:
        """What the broker has acknowledged together is accepted together: one write a session."""
        accepted: list[Accepted] = []
        for queued, what in told:
            outcome = what
            session, request_id, request = queued.session, queued.id, queued.request
            if isinstance(outcome, NotWritten) and outcome.too_large:
                outcome = self._too_large()
            queued.settle(outcome)
            if isinstance(outcome, NotWritten):
                self._fail(session, request_id, not_queued(outcome))
                continue
            if request is None:
                continue
            if request.cancelled:
                self._taking_back.at(session, request_id, outcome.partition)
            # Its answer, which proves the acknowledgement, may have been quicker.
            elif session.ledger.get(request_id) is request:
                request.partition, request.offset = outcome.partition, outcome.offset
                accepted.append((session, request_id, request))
        self._replies.accept(accepted, "queue")

    def _too_large(self) -> NotWritten:
        most = self._topic_limits.record_bytes(self._topic)
        message = f"the request is larger than topic {self._topic} takes: {most} bytes (its max.message.bytes)"
        return NotWritten(message, too_large=True)


def not_queued(error: NotWritten) -> Fault:
    """What a client is told of a request that is not in the queue."""
    if error.too_large:
        return Fault(Code.INVALID, str(error))
    return Fault(Code.OVERLOADED, f"the request is not in the queue: {error.client_message}", retry_after_ms=1000)
