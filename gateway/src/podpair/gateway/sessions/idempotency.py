"""Idempotency: a request that is repeated with the same id continues if it runs, and gets the same result if it has ended.

Invariant: while a session is remembered an id does not run twice, unless retention has deleted its result.
"""

import logging
import time
from collections.abc import Awaitable, Callable

from confluent_kafka import KafkaException

from podpair.common.logs import ids
from podpair.gateway.core import records
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import Code, Fault, Infer, InferRow, error_event
from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import Event, Kind, accepted_event
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.replies import Replies
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)

RecordLookup = Callable[[Session, int], Awaitable[Record | None]]
"""Returns the record at an offset of a session's home partition, or None if it is gone. Raises KafkaException."""


class IdempotencyFilter:
    """Detects repeated requests. begin: called with session, message and grant, runs a request; raises Fault."""

    def __init__(
        self,
        replies: Replies,
        record_at: RecordLookup,
        begin: Callable[[Session, Infer | InferRow, Grant | None], object],
        tasks: Tasks,
        metrics: Metrics,
    ) -> None:
        self._replies = replies
        self._record_at = record_at
        self._begin = begin
        self._tasks = tasks
        self._repeated = metrics.repeated

    def handled(self, session: Session, message: Infer | InferRow, grant: Grant | None) -> bool:
        """Return whether the request repeats another, and has thereby been handled.

        Raises Duplicate if the other is in flight and the request is not marked as a retry.
        """
        running = session.ledger.get(message.id)
        if running is not None:
            if not message.retry:
                raise Duplicate(message.id)
            if running.accepted and not session.may_be_lost(running):
                session.send(accepted_event(message.id, running.route))
            if running.resume is not None and isinstance(message, Infer):
                running.resume(message.seen)
            return True
        answer = session.ledger.recent_answer(message.id)
        if answer is None:
            return False
        self._repeated.labels(message.route).inc()
        if isinstance(answer, Event):
            self._replies.send(session, [accepted_event(message.id, "direct"), answer])
            return True
        request = OpenRequest("queue", cancels_on_disconnect=False, began=time.perf_counter(), grant=grant)
        session.ledger.open(message.id, request)
        self._tasks.spawn(self._replay_from_log(session, message, answer, grant))
        return True

    async def _replay_from_log(
        self, session: Session, message: Infer | InferRow, offset: int, grant: Grant | None
    ) -> None:
        """Send the result at `offset` of the session's home again. If retention has deleted it, or it is an error after which
        a request may be repeated, the request runs again.
        """
        try:
            record = await self._record_at(session, offset)
        except KafkaException as error:
            _log.warning("a result can't be read again: %s", error, extra=ids(session=session.id, request=message.id))
            record = None
        if session.ledger.get(message.id) is None:
            return  # it has been cancelled
        _, value, headers = record or (offset, None, None)
        if records.ended_by(value, headers) == message.id and not records.invites_retry(value, headers):
            session.ledger.end(message.id, offset)
            again = records.answer_again(message.id, value, headers)
            # As `direct`: what is sent here comes no second time by itself.
            self._replies.send(session, [accepted_event(message.id, "direct"), again])
            return
        session.ledger.discard(message.id)
        try:
            self._begin(session, message, grant)
        except Fault as fault:
            terminal = Event(Kind.TERMINAL, "error", message.id, error_event(fault, message.id), -1)
            self._replies.send(session, [terminal])


class Duplicate(Fault):
    """The id is already in flight: the error must not be taken for the end of that request."""

    def __init__(self, request_id: str) -> None:
        super().__init__(Code.INVALID, f"id {request_id!r} is already in flight, that request goes on: choose another")
