"""Requests that a client asks again, with the same id: what runs goes on, what has ended lately is answered as it was.

Invariant: within the time that a session is remembered an id does not run twice, but where retention has taken its answer.
"""

import logging
import time
from collections.abc import Awaitable, Callable

from confluent_kafka import KafkaException

from podpair.gateway.core import records
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import Code, Fault, Infer, InferRow, error_event
from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.records import Event, Kind, accepted_event
from podpair.gateway.core.tails import Record
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.replies import Replies
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)

Logged = Callable[[Session, int], Awaitable[Record | None]]
"""The record at an offset of a session's home partition, if it is still there. Raises KafkaException."""


class Repeating:
    """Knows repeated requests. `begin(session, message, grant)` runs one after all, and raises Fault."""

    def __init__(
        self,
        replies: Replies,
        logged: Logged,
        begin: Callable[[Session, Infer | InferRow, Grant | None], object],
        tasks: Tasks,
        metrics: Metrics,
    ) -> None:
        self._replies = replies
        self._logged = logged
        self._begin = begin
        self._tasks = tasks
        self._repeated = metrics.repeated

    def answers(self, session: Session, message: Infer | InferRow, grant: Grant | None) -> bool:
        """Whether the request repeats one: then nothing else has to be done for it.

        Raises Duplicate where it is in flight and its client does not say that it asks again.
        """
        running = session.ledger.get(message.id)
        if running is not None:
            if not message.retry:
                raise Duplicate(message.id)
            if running.accepted:
                session.send(accepted_event(message.id, running.route))
            if running.resume is not None and isinstance(message, Infer):
                running.resume(message.seen)
            return True
        answer = session.ledger.answer(message.id)
        if answer is None:
            return False
        self._repeated.labels(message.route).inc()
        if isinstance(answer, Event):
            self._replies.send(session, [accepted_event(message.id, "direct"), answer])
            return True
        request = OpenRequest("queue", cancels_on_disconnect=False, began=time.perf_counter(), grant=grant)
        session.ledger.open(message.id, request)
        self._replies.accept([(session, message.id, request)], "queue")
        self._tasks.begin(self._from_log(session, message, answer, grant))
        return True

    async def _from_log(self, session: Session, message: Infer | InferRow, offset: int, grant: Grant | None) -> None:
        """Its answer stands at `offset` of the session's home. Where retention has taken it, the request runs again."""
        try:
            record = await self._logged(session, offset)
        except KafkaException as error:
            _log.warning("an answer can't be read again: %s", error, extra=ids(session=session.id, request=message.id))
            record = None
        if session.ledger.get(message.id) is None:
            return  # it was cancelled meanwhile
        if record is not None and dict(record.headers() or ()).get("ce_id") == message.id.encode():
            session.ledger.end(message.id, offset)
            again = records.answer_again(message.id, record.value(), record.headers())
            self._replies.send(session, [again])
            return
        session.ledger.forget(message.id)
        try:
            self._begin(session, message, grant)
        except Fault as fault:
            terminal = Event(Kind.TERMINAL, "error", message.id, error_event(fault, message.id), -1)
            self._replies.send(session, [terminal])


class Duplicate(Fault):
    """An id that is already in flight: the error must not look like that request's end."""

    def __init__(self, request_id: str) -> None:
        super().__init__(Code.INVALID, f"id {request_id!r} is already in flight, that request goes on: choose another")
