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
from podpair.gateway.core.records import Event, accepted_event
from podpair.gateway.kafka.producer import NotWritten, RecordProducer, Written
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.session import Session
from podpair.gateway.sessions.taking_back import TakingBack


class Queueing:
    """Writes request records. `fail(session, id, fault)` is told of those that the broker did not take."""

    def __init__(
        self,
        config: Config,
        source: str,
        producer: RecordProducer,
        taking_back: TakingBack,
        metrics: Metrics,
        fail: Callable[[Session, str, Fault], None],
    ) -> None:
        self._topic = config.requests.topic
        self._keyed = config.requests.ordering == "session"
        self._source = source
        self._producer = producer
        self._taking_back = taking_back
        self._accepted = metrics.requests.labels("queue")
        self._fail = fail
        self._acknowledged: list[tuple[Session, str, OpenRequest]] = []  # whose `accepted` is due

    def enqueue(self, session: Session, question: Question) -> asyncio.Future[Written]:
        """Write the request's record; `accepted`, or the error, follows when the broker has answered.

        Raises Fault where it can't be written.
        """
        headers = records.request_headers(
            request_id=question.id,
            session=session.id,
            model=question.model,
            source=self._source,
            now=time.time(),
            deadline=question.deadline,
        )
        request = session.ledger.get(question.id)
        if question.trace:
            headers.append(("traceparent", question.trace.encode()))
        # Without a key a spill spreads over the fleet; with one the requests of a session keep their order.
        key = session.key if self._keyed else None
        try:
            written = self._producer.write(self._topic, question_body(question), key=key, headers=headers)
        except NotWritten as error:
            raise _not_queued(error) from None

        def settle(done: asyncio.Future[Written]) -> None:
            error = done.exception()
            if isinstance(error, NotWritten):
                self._fail(session, question.id, _not_queued(error))
                return
            if request is None:
                return
            place = done.result().partition
            if request.cancelled:
                self._taking_back.at(session, question.id, place)
            elif session.ledger.get(question.id) is request:
                request.partition = place
                self._accept_soon(session, question.id, request)

        written.add_done_callback(settle)
        return written

    def _accept_soon(self, session: Session, request_id: str, request: OpenRequest) -> None:
        """What the broker has acknowledged together is accepted together: one write a session."""
        if not self._acknowledged:
            asyncio.get_running_loop().call_soon(self._accept_all)
        self._acknowledged.append((session, request_id, request))

    def _accept_all(self) -> None:
        due, self._acknowledged = self._acknowledged, []
        events: dict[Session, list[Event]] = {}
        for session, request_id, request in due:
            # Its answer, which proves the acknowledgement, may have been quicker, and its client may have taken it back.
            if session.ledger.get(request_id) is request:
                request.accepted = True
                events.setdefault(session, []).append(accepted_event(request_id, "queue"))
        self._accepted.inc(sum(map(len, events.values())))
        for session, mine in events.items():
            session.send_all(mine)


def _not_queued(error: NotWritten) -> Fault:
    if error.too_large:
        return Fault(Code.INVALID, "the request is larger than the requests topic takes")
    return Fault(Code.OVERLOADED, f"the request is not in the queue: {error}", retry_after_ms=1000)
