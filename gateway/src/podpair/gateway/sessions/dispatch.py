"""What clients ask: each request is accepted on one route and ends in one terminal event, whatever happens to its client.

Invariant: on the queue route `accepted` is sent once the broker has acknowledged the record. A direct request that the
model refuses, or dies under, goes on through Kafka where its client said `auto`.
"""

import asyncio
import logging
import time
from collections.abc import Container
from typing import NamedTuple

from podpair.gateway.config.model import Config
from podpair.gateway.core import records
from podpair.gateway.core.attempts import Busy, Failed, ServiceUnavailable, Unavailable
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.pace import QUEUE, Paces
from podpair.gateway.core.protocol import Code, Fault, Infer, InferRow, error_event
from podpair.gateway.core.questions import Question
from podpair.gateway.core.quotas import Grant, Limited
from podpair.gateway.core.records import Event, accepted_event, direct_events, result_event
from podpair.gateway.core.routing import Route, choose_route, may_spill
from podpair.gateway.kafka.producer import RecordProducer
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.logs import Throttle, ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.direct import DirectRequests
from podpair.gateway.sessions.queueing import Queued, Queueing
from podpair.gateway.sessions.registry import Registry
from podpair.gateway.sessions.repeating import Logged, Repeating
from podpair.gateway.sessions.replies import Replies
from podpair.gateway.sessions.session import Session
from podpair.gateway.sessions.streams import LiveStream
from podpair.gateway.sessions.taking_back import TakingBack
from podpair.gateway.tasks import Tasks
from podpair.gateway.tracing import Tracer
from podpair.gateway.upstream.asking import Asking
from podpair.gateway.upstream.coalescing import Ask, Outcome
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.worker.answers import AnswerWriter

_log = logging.getLogger(__name__)


class Started(NamedTuple):
    """A request on its way; `queued` is there on the queue route."""

    route: Route
    queued: Queued | None


_DIRECT = Started("direct", None)


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
        taking_back: TakingBack,
        registry: Registry,
        logged: Logged,
        topic_limits: TopicLimits,
        paces: Paces,
        tracer: Tracer | None,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._asking = asking
        self._readiness = readiness
        self._producer = producer
        self._taking_back = taking_back
        self._tasks = Tasks()
        self._replies = Replies(answers, registry, self._tasks, metrics)
        self._queueing = Queueing(config, source, producer, topic_limits, taking_back, self._replies, self._finish_with)
        self._repeating = Repeating(self._replies, logged, self._begin, self._tasks, metrics)
        self._registry = registry
        self._paces = paces
        self._tracer = tracer
        self._metrics = metrics
        self._results, self._requests = metrics.answers.labels("result"), metrics.requests.labels("direct")
        self._told = Throttle()
        self.direct = DirectRequests(config.limits.direct, readiness, metrics)
        registry.on_gone = self._on_gone

    def infer(self, session: Session, message: Infer | InferRow, grant: Grant | None) -> Started | None:
        """Begin a request; its events go to the session. None: it repeats one that still runs, or has ended.

        It counts under `grant`, what its token allows, until it ends. Raises Fault where it can't be accepted; a duplicate id
        in flight is such a fault, and the first goes on.
        """
        if self._repeating.answers(session, message, grant):
            return None
        return self._begin(session, message, grant)

    def _begin(self, session: Session, message: Infer | InferRow, grant: Grant | None) -> Started:
        if message.route != "queue" and self.direct.room(grant):
            route: Route = "direct"  # what most are, decided at once
        else:
            route = choose_route(message.route, self.direct.load(grant))
        if message.deadline_ms is not None and self._config.admission.shed:
            self._shed(message.model if route == "direct" else QUEUE, message.deadline_ms)
        if self._producer.full:
            # On either route: an answer that its client doesn't get has to be written, too.
            raise Fault(Code.OVERLOADED, f"not accepted: {self._producer.refusal}", retry_after_ms=1000)
        request = OpenRequest(route, message.on_disconnect == "cancel", began=time.perf_counter(), grant=grant)
        session.ledger.open(message.id, request)
        question = _question(session, message)
        if self._tracer is not None:
            self._trace(self._tracer, session, message, request, question)
        if route == "queue":
            return Started("queue", self._queueing.enqueue(session, question))
        request.spills = message.route == "auto"
        self.direct.add(1)
        if question.stream:
            self._stream(session, question, request)
        else:
            request.abort = self._asking.submit(question, self._answered, session).cancel
        self._replies.accept_soon(session, message.id, request)
        return _DIRECT

    def _trace(
        self, tracer: Tracer, session: Session, message: Infer | InferRow, request: OpenRequest, question: Question
    ) -> None:
        """Begin the request's span, if it is to have one: it ends with the request."""
        about = {"podpair.session": session.id, "podpair.request": message.id, "podpair.model": message.model}
        span = tracer.begin("infer", "server", message.traceparent, about, root=True)
        if span is not None:
            request.span = span
            question.trace = span.traceparent

    def _shed(self, what: str, deadline_ms: int) -> None:
        """Raises Limited where the deadline is shorter than answers take just now; where nothing is in hand it may be tried."""
        expected = self._paces.expected(what, time.monotonic()) if self.direct.count or what == QUEUE else 0.0
        if expected * 1000 > deadline_ms:
            self._metrics.limited.labels("deadline").inc()
            message = f"answers take {expected * 1000:.0f} ms just now, longer than the deadline of {deadline_ms} ms"
            raise Limited("deadline", message, expected)

    @property
    def models(self) -> Container[str]:
        """The models that are known here."""
        return self._asking.models

    def cancel(self, session: Session, request_id: str) -> None:
        """The client does not want the answer any more. An id that was never open here may be so at another gateway."""
        request = session.ledger.get(request_id)
        if request is None:
            if not session.ledger.has_ended(request_id):
                self._taking_back.anywhere(session, request_id)
            return
        if request.abort is not None:
            request.abort()
            request.abort = None
            self.direct.add(-1)
        request.cancelled = True
        if request.partition is not None:
            self._taking_back.at(session, request_id, request.partition)
        self._finish_with(session, request_id, Fault(Code.CANCELLED, "cancelled by its client"))

    def taken_back(self, session_id: str, request_id: str) -> None:
        """The session has moved, and its client has told another gateway that it does not want a request any more.

        Queued ones are their worker's. Of a session that is here this is no news: what its client says here counts, and it may
        have asked the same id again meanwhile.
        """
        session = self._registry.sessions.get(session_id.encode())
        if session is None or session.connection is not None:
            return
        request = session.ledger.get(request_id)
        if request is not None and request.route == "direct":
            self.cancel(session, request_id)

    def _stream(self, session: Session, question: Question, request: OpenRequest) -> None:
        sessions = self._config.sessions
        stream = LiveStream(session, question.id, sessions.buffer_bytes, sessions.slow_seconds)
        task = self._tasks.begin(self._run_stream(session, question, request, stream))
        request.resume = stream.resume
        request.abort = task.cancel

    async def _run_stream(self, session: Session, question: Question, request: OpenRequest, stream: LiveStream) -> None:
        async def on_part(seq: int, data: bytes) -> None:
            if not request.accepted:  # which comes first
                self._replies.accept([(session, question.id, request)], request.route)
            await stream.part(seq, data)

        outcome: Outcome
        try:
            outcome = await self._asking.stream(question, on_part)
            await stream.finished()
        except Exception as error:
            outcome = error
        finally:
            stream.close()
        request.resume = None
        self._settle([(session, question, outcome)])

    def _answered(self, told: list[tuple[Ask, Outcome]]) -> None:
        """Direct requests have their outcomes: those of one call come together, and go out in one write a session."""
        self._settle([(ask.context, ask.question, outcome) for ask, outcome in told])

    def _settle(self, told: list[tuple[Session, Question, Outcome]]) -> None:
        self.direct.add(-len(told))
        now = time.perf_counter()
        events: dict[Session, list[Event]] = {}
        seconds: dict[str, list[float]] = {}
        accepted = 0
        for session, question, outcome in told:
            if isinstance(outcome, Exception):
                self._failed(session, question, outcome)
                continue
            request = session.ledger.end(question.id)
            if request is None:
                continue  # answered by another gateway
            mine = events.get(session)
            if mine is None:
                mine = events[session] = []
            if request.accepted:
                mine.append(result_event(question.id, outcome))
            else:
                accepted += 1
                mine += direct_events(question.id, outcome)
            session.ledger.keep(mine[-1])
            seconds.setdefault(question.model, []).append(now - request.began)
        for session, mine in events.items():
            self._replies.send(session, mine)
        for model, values in seconds.items():
            self._paces.saw(model, max(values), time.monotonic())
            self._metrics.latency.observe(model, values)
            self._results.inc(len(values))
        if accepted:
            self._requests.inc(accepted)

    def _failed(self, session: Session, question: Question, error: Exception) -> None:
        request = session.ledger.get(question.id)
        if request is not None:
            request.abort = None
        if isinstance(error, Fault):
            self._finish_with(session, question.id, error)
        elif isinstance(error, Unavailable | Busy | Failed):
            self._after_failure(session, request, question, error)
        else:
            _log.error("direct request failed", exc_info=error, extra=ids(session=session.id, request=question.id))
            self._finish_with(session, question.id, Fault(Code.INTERNAL, "internal error"))

    def _after_failure(
        self, session: Session, request: OpenRequest | None, question: Question, error: Unavailable | Busy | Failed
    ) -> None:
        self._readiness.after(error)
        spills = request is not None and request.spills and may_spill("auto", self.direct.load())
        if spills and not isinstance(error, Failed):
            self._spill(session, question, error)
            return
        message = error.client_message if isinstance(error, Unavailable) else str(error)
        if isinstance(error, Busy | ServiceUnavailable):
            fault = Fault(Code.OVERLOADED, message, retry_after_ms=int(error.retry_after * 1000))
        else:
            fault = Fault(Code.UPSTREAM, message)
        self._finish_with(session, question.id, fault)

    def _spill(self, session: Session, question: Question, error: Unavailable | Busy) -> None:
        request = session.ledger.get(question.id)
        if request is None:
            return  # cancelled meanwhile
        self._metrics.spilled.labels(error.reason).inc()
        request.route = "queue"
        request.resume = None
        self._queueing.enqueue(session, question)

    def lose(self, session: Session, request_id: str, fault: Fault) -> None:
        """A queued request will not be answered any more."""
        self._finish_with(session, request_id, fault)

    def _finish_with(self, session: Session, request_id: str, fault: Fault) -> None:
        payload = error_event(fault, request_id)
        if fault.code in (Code.UPSTREAM, Code.INTERNAL):
            about = ids(session=session.id, request=request_id)
            self._told.log(_log, logging.WARNING, "request failed: %s", fault.message, extra=about)
        terminal = Event(records.Kind.TERMINAL, "error", request_id, payload, -1)
        running = session.ledger.get(request_id)
        if running is not None and running.span is not None:
            running.span.failed(fault.code)
        request = session.ledger.end(request_id)
        if request is None:
            return  # it has ended: cancelled, or answered by another gateway
        self._metrics.answers.labels(fault.code).inc()
        if fault.code not in (Code.OVERLOADED, Code.LOST):  # which invite to ask again
            session.ledger.keep(terminal)
        events = [terminal]
        if not request.accepted and request.route == "direct":
            self._requests.inc()
            events.insert(0, accepted_event(request_id, "direct"))
        self._replies.send(session, events)

    def _on_gone(self, session: Session) -> None:
        for request_id, request in list(session.ledger.opened.items()):
            if request.cancels_on_disconnect:
                self.cancel(session, request_id)

    async def close(self, timeout: float) -> None:
        """Wait for what is in hand, direct requests and answers being written, up to `timeout` seconds; give up the rest."""
        end = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self.direct.ended()
        except TimeoutError:
            _log.warning("%d direct requests are given up", self.direct.count)
        await self._tasks.ended(end - time.monotonic())
        await self._tasks.cancel()


def _question(session: Session, message: Infer | InferRow) -> Question:
    deadline = time.time() + message.deadline_ms / 1000 if message.deadline_ms is not None else None
    if isinstance(message, InferRow):
        return Question(message.id, message.model, deadline=deadline, row=message.data, key=session.id)
    return Question(
        message.id, message.model, bytes(message.inputs), bytes(message.data), bytes(message.parameters), deadline,
        stream=message.stream, key=session.id,
    )  # fmt: skip
