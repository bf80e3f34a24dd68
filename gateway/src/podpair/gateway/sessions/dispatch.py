"""What clients ask: each request is accepted on one route and ends in one terminal event, whatever happens to its client.

Invariant: on the queue route `accepted` is sent once the broker has acknowledged the record. A direct request that the
model refuses, or dies under, goes on through Kafka where its client said `auto`. An answer whose client is gone is
written to the results topic, so it is found wherever the session resumes.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from podpair.gateway.config.model import Config
from podpair.gateway.core import records
from podpair.gateway.core.attempts import Busy, Failed, Unavailable
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import Code, Fault, Infer, error_event
from podpair.gateway.core.records import Event, accepted_event, terminal_event
from podpair.gateway.core.routing import Load, Route, choose_route, may_spill
from podpair.gateway.kafka.producer import NotWritten, RecordProducer, Written
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.registry import Registry
from podpair.gateway.sessions.session import Session
from podpair.gateway.upstream.asking import Asking, Question, question_body
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.worker.answers import AnswerWriter

_log = logging.getLogger(__name__)


class Started(NamedTuple):
    """A request on its way; `written` is there on the queue route, and settled once Kafka has the record."""

    route: Route
    written: asyncio.Future[Written] | None


class Dispatcher:
    """Takes requests of sessions, routes them, and brings back their terminal events."""

    def __init__(
        self,
        config: Config,
        source: str,
        asking: Asking,
        readiness: Readiness,
        producer: RecordProducer,
        answers: AnswerWriter,
        registry: Registry,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._source = source
        self._asking = asking
        self._readiness = readiness
        self._producer = producer
        self._answers = answers
        self._registry = registry
        self._metrics = metrics
        self._in_flight = 0  # direct requests
        self._tasks: set[asyncio.Task[None]] = set()
        registry.on_unsent = self._on_unsent
        registry.on_gone = self._on_gone

    @contextmanager
    def direct_slot(self) -> Iterator[None]:
        """Room for one synchronous call to the model. Raises Fault(overloaded) where there is none."""
        choose_route("direct", self.load())
        self._count_direct(1)
        try:
            yield
        finally:
            self._count_direct(-1)

    def _count_direct(self, change: int) -> None:
        self._in_flight += change
        self._metrics.direct.set(self._in_flight)

    def load(self) -> Load:
        """The pair as the next request finds it."""
        return Load(self._readiness.ready, self._in_flight, self._config.limits.direct, queue_open=True)

    def infer(self, session: Session, message: Infer) -> Started | None:
        """Begin a request; its events go to the session. None: it is a retry of one that still runs.

        Raises Fault where it can't be accepted; a duplicate id in flight is such a fault, and the first goes on.
        """
        running = session.ledger.get(message.id)
        if running is not None:
            if not message.retry:
                raise Duplicate(message.id)
            if running.accepted:
                session.send(accepted_event(message.id, running.route))
            return None
        route = choose_route(message.route, self.load())
        request = OpenRequest(route, message.on_disconnect == "cancel")
        session.ledger.open(message.id, request)
        deadline = time.time() + message.deadline_ms / 1000 if message.deadline_ms is not None else None
        question = Question(
            message.id, message.model, bytes(message.inputs), bytes(message.data), bytes(message.parameters), deadline
        )
        if route == "queue":
            try:
                return Started("queue", self._enqueue(session, question))
            except Fault:
                session.ledger.forget(message.id)
                raise
        self._accept(session, message.id, request)
        task = self._spawn(self._direct(session, message, question))
        request.abort = task.cancel
        return Started("direct", None)

    def cancel(self, session: Session, request_id: str) -> None:
        """The client does not want the answer any more. An id that isn't open has just ended: nothing to do."""
        request = session.ledger.get(request_id)
        if request is None:
            return
        if request.abort is not None:
            request.abort()
        self._finish_with(session, request_id, Fault(Code.CANCELLED, "cancelled by its client"))

    def _accept(self, session: Session, request_id: str, request: OpenRequest) -> None:
        request.accepted = True
        self._metrics.requests.labels(request.route).inc()
        session.send(accepted_event(request_id, request.route))

    async def _direct(self, session: Session, message: Infer, question: Question) -> None:
        self._count_direct(1)
        started = time.perf_counter()
        try:
            body = await self._asking.ask(question)
        except Fault as fault:
            self._finish_with(session, question.id, fault)
        except (Unavailable, Busy, Failed) as error:
            self._after_failure(session, message, question, error)
        except Exception:
            _log.exception("direct request failed", extra=ids(session=session.id, request=question.id))
            self._finish_with(session, question.id, Fault(Code.INTERNAL, "internal error"))
        else:
            self._metrics.latency.labels(question.model).observe(time.perf_counter() - started)
            self._finish(session, question.id, terminal_event("result", question.id, body), "result")
        finally:
            self._count_direct(-1)

    def _after_failure(
        self, session: Session, message: Infer, question: Question, error: Unavailable | Busy | Failed
    ) -> None:
        if isinstance(error, Unavailable):
            self._readiness.failed()
        if not isinstance(error, Failed) and may_spill(message.route, self.load()):
            self._spill(session, question, error)
            return
        if isinstance(error, Busy):
            fault = Fault(Code.OVERLOADED, str(error), retry_after_ms=int(error.retry_after * 1000))
        else:
            fault = Fault(Code.UPSTREAM, str(error))
        self._finish_with(session, question.id, fault)

    def _spill(self, session: Session, question: Question, error: Unavailable | Busy) -> None:
        request = session.ledger.get(question.id)
        if request is None:
            return  # cancelled meanwhile
        self._metrics.spilled.labels(type(error).__name__.lower()).inc()
        request.abort = None
        request.route = "queue"
        try:
            self._enqueue(session, question)
        except Fault as fault:
            self._finish_with(session, question.id, fault)

    def _enqueue(self, session: Session, question: Question) -> asyncio.Future[Written]:
        """Write the request's record; `accepted`, or the error, follows when the broker has answered."""
        headers = records.request_headers(
            request_id=question.id,
            session=session.id,
            model=question.model,
            source=self._source,
            now=time.time(),
            deadline=question.deadline,
        )
        try:
            # No key: a spill spreads over the fleet.
            written = self._producer.write(
                self._config.requests.topic, question_body(question), key=None, headers=headers
            )
        except NotWritten as error:
            raise _not_queued(error) from None

        def settle(done: asyncio.Future[Written]) -> None:
            error = done.exception()
            if isinstance(error, NotWritten):
                self._finish_with(session, question.id, _not_queued(error))
            elif (request := session.ledger.get(question.id)) is not None:
                self._accept(session, question.id, request)

        written.add_done_callback(settle)
        return written

    def _finish_with(self, session: Session, request_id: str, fault: Fault) -> None:
        payload = error_event(fault, request_id)
        if fault.code in (Code.UPSTREAM, Code.INTERNAL):
            _log.warning("request failed: %s", fault.message, extra=ids(session=session.id, request=request_id))
        self._finish(session, request_id, Event(records.Kind.TERMINAL, "error", request_id, payload, -1), fault.code)

    def _finish(self, session: Session, request_id: str, terminal: Event, outcome: str) -> None:
        if session.ledger.end(request_id) is None:
            return  # it has ended: cancelled, or answered by another gateway
        self._metrics.answers.labels(outcome).inc()
        if not session.send(terminal):
            self._keep(session, terminal)
            self._registry.forget_if_done(session)

    def _keep(self, session: Session, terminal: Event) -> None:
        """The client is gone: its answer waits in Kafka."""
        self._spawn(self._answers.event(session.id, terminal))

    def _on_unsent(self, session: Session, unsent: list[Event]) -> None:
        for terminal in unsent:
            self._keep(session, terminal)

    def _on_gone(self, session: Session) -> None:
        for request_id, request in list(session.ledger.opened.items()):
            if request.cancels_on_disconnect:
                self.cancel(session, request_id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, timeout: float) -> None:
        """Wait for what is in hand, direct requests and answers being written, up to `timeout` seconds; give up the rest."""
        end = time.monotonic() + timeout
        while self._tasks and (left := end - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        for task in list(self._tasks):
            task.cancel()


class Duplicate(Fault):
    """An id that is already in flight: the error must not look like that request's end."""

    def __init__(self, request_id: str) -> None:
        super().__init__(Code.INVALID, f"id {request_id!r} is already in flight, that request goes on: choose another")


def _not_queued(error: NotWritten) -> Fault:
    if error.too_large:
        return Fault(Code.INVALID, "the request is larger than the requests topic takes")
    return Fault(Code.OVERLOADED, f"the request is not in the queue: {error}", retry_after_ms=1000)
