"""Dispatches requests: each is accepted on one route and ends in one terminal event, whatever happens to its client.

Invariant: on the queue route `accepted` is sent once the broker has acknowledged the record. A direct request with route `auto`
that the model rejects, or crashes on, continues through Kafka.
"""

import asyncio
import logging
import time
from collections.abc import Container, Sequence
from typing import NamedTuple

from podpair.common.gateway_config.model import Config
from podpair.common.logs import Throttle, ids
from podpair.gateway.core import records
from podpair.gateway.core.lanes import direct_lane
from podpair.gateway.core.latency_estimate import QUEUE
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.model_errors import Busy, Failed, ServiceUnavailable, Unavailable
from podpair.gateway.core.protocol import Code, Fault, Infer, InferRow, QueueOnly, Signal, error_event
from podpair.gateway.core.quotas import Grant, Limited
from podpair.gateway.core.records import Event, accepted_event, direct_events, result_event
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.routing import Route, choose_route
from podpair.gateway.sessions.asked import asked_by, check_later
from podpair.gateway.sessions.direct import DirectRequests
from podpair.gateway.sessions.direct_rows import DirectRows, Rest
from podpair.gateway.sessions.enqueue import Enqueuer, QueuedRequest, RecordWriters
from podpair.gateway.sessions.idempotency import IdempotencyFilter, RecordLookup
from podpair.gateway.sessions.registry import Registry
from podpair.gateway.sessions.replies import Replies
from podpair.gateway.sessions.session import Session
from podpair.gateway.sessions.streams import LiveStream
from podpair.gateway.tasks import Tasks
from podpair.gateway.tracing import Telemetry, Tracer
from podpair.gateway.upstream.batcher import Outcome, PendingRequest
from podpair.gateway.upstream.factory import ModelAccess

_log = logging.getLogger(__name__)


class Started(NamedTuple):
    """A request that was started; `queued` is set on the queue route."""

    route: Route
    queued: QueuedRequest | None


_DIRECT = Started("direct", None)


class Dispatcher:
    """Routes the requests of sessions, and delivers their terminal events."""

    def __init__(
        self,
        config: Config,
        model: ModelAccess,
        writers: RecordWriters,
        registry: Registry,
        record_at: RecordLookup,
        telemetry: Telemetry,
    ) -> None:
        metrics = telemetry.metrics
        self._config = config
        self._queues = config.requests.source != "amqp"  # the requests topic is read
        self._inference = model.client
        self._readiness = model.readiness
        self._latency = model.latency
        self._producer = writers.producer
        self._cancellations = writers.cancellations
        self._signals = writers.signals
        self._tasks = Tasks()
        self._replies = Replies(writers.results, registry, self._tasks, metrics)
        self._enqueuer = Enqueuer(config, writers, self._replies, self._finish_with)
        self._idempotency = IdempotencyFilter(self._replies, record_at, self._begin, self._tasks, metrics)
        self._registry = registry
        self._tracer = telemetry.tracer
        self._metrics = metrics
        self._results, self._requests = metrics.completed.labels("result"), metrics.requests.labels("direct")
        self._log_throttle = Throttle()
        self.direct = DirectRequests(config.limits.max_direct_in_flight, model.readiness, metrics)
        self._rows = DirectRows(model, writers.producer, self.direct, self._replies, metrics, self._on_failure)
        self.on_undelivered = self._replies.on_undelivered

    def infer(self, session: Session, message: Infer | InferRow, grant: Grant | None) -> Started | None:
        """Start a request; its events go to the session. Return None if it repeats one that runs or has ended.

        The request counts under `grant`, the rights of its token, until it ends. Raises Fault if it can't be accepted; a
        duplicate of an id in flight is such a fault, and the first request continues.
        """
        if self._idempotency.handled(session, message, grant):
            return None
        return self._begin(session, message, grant)

    def infer_soon(self, session: Session, frames: Sequence[str], rest: Rest) -> bool:
        """Start the requests of text frames at the end of this turn of the loop, as far as they are plain rows of numbers.

        rest: gets the frames from the first on that is anything else. Return False if that can't be: see `infer`.
        """
        if session.grant is not None or self._tracer is not None:
            return False
        self._rows.begin_soon(session, frames, rest)
        return True

    def flush(self) -> None:
        """Start now what `infer_soon` has been given."""
        self._rows.flush()

    def _begin(self, session: Session, message: Infer | InferRow, grant: Grant | None) -> Started:
        later = check_later(message, self._config)
        if not self._queues and (later or message.route == "queue"):
            raise Fault(Code.INVALID, "there is no route queue here: its topic is not read (requests.source: amqp)")
        if later:
            route: Route = "queue"
        elif message.route != "queue" and self._is_workflow(message.model):
            if message.route == "direct":
                raise QueueOnly(message.model)
            route = "queue"
        elif message.route != "queue" and self.direct.room(grant):
            route = "direct"  # the common case, decided at once
        else:
            route = choose_route(message.route if self._queues else "direct", self.direct.load(grant))
        if message.deadline_ms is not None and not later and self._config.admission.load_shedding:
            self._shed(message.model if route == "direct" else QUEUE, message.deadline_ms)
        if self._producer.full:
            # On either route: a result that its client doesn't get is written to Kafka, too.
            raise Fault(Code.OVERLOADED, f"not accepted: {self._producer.refusal}", retry_after_ms=1000)
        request = OpenRequest(route, message.on_disconnect == "cancel", began=time.perf_counter(), grant=grant)
        request.model, request.later = message.model, later
        session.ledger.open(message.id, request)
        inference_request = asked_by(session, message)
        if self._tracer is not None:
            self._trace(self._tracer, session, message, request, inference_request)
        if route == "queue":
            return Started("queue", self._enqueuer.enqueue(session, inference_request))
        if grant is not None:
            inference_request.lane = direct_lane(grant.priority)
        request.spills = message.route == "auto"
        self.direct.add(1)
        if inference_request.stream:
            self._stream(session, inference_request, request)
        else:
            request.abort = self._inference.submit(inference_request, self._on_outcomes, session).cancel
        self._replies.accept_soon(session, message.id, request)
        return _DIRECT

    def _is_workflow(self, name: str) -> bool:
        """Return whether a model is known to be a workflow; of one that isn't known yet that shows when it is asked."""
        model = self._inference.described(name)
        return model is not None and model.workflow is not None

    def _trace(
        self,
        tracer: Tracer,
        session: Session,
        message: Infer | InferRow,
        request: OpenRequest,
        inference_request: InferenceRequest,
    ) -> None:
        """Start the request's span, if the request is sampled: the span ends with the request."""
        about = {"podpair.session": session.id, "podpair.request": message.id, "podpair.model": message.model}
        span = tracer.begin("infer", "server", message.traceparent, about, root=True)
        if span is not None:
            request.span = span
            inference_request.trace = span.traceparent

    def _shed(self, key: str, deadline_ms: int) -> None:
        """Raise Limited if the estimated response time exceeds the deadline; with nothing in flight the request is tried."""
        expected = self._latency.estimate(key, time.monotonic()) if self.direct.count or key == QUEUE else 0.0
        if expected * 1000 > deadline_ms:
            message = f"estimated response time ({expected * 1000:.0f} ms) exceeds the deadline ({deadline_ms} ms)"
            raise Limited("deadline", message, expected)

    @property
    def models(self) -> Container[str]:
        """The models whose metadata is cached."""
        return self._inference.models

    def cancel(self, session: Session, request_id: str) -> None:
        """Cancel a request for its client. An id that was never open here may be open at another gateway.

        It ends at once, but for a workflow, which ends once what its stages have done is compensated, and one that is kept.
        """
        request = session.ledger.get(request_id)
        if request is None:
            if not session.ledger.has_ended(request_id):
                self._cancellations.broadcast(session, request_id)
            return
        if request.stop():
            self.direct.add(-1)
        awaited = request.route == "queue" and (request.later or self._may_be_workflow(request.model))
        if awaited and request.cancelled:
            return  # it is being cancelled
        request.cancelled = True
        if request.partition is not None:
            self._cancellations.to_partition(session, request_id, request.partition, awaited=awaited)
        if not awaited:
            self._finish_with(session, request_id, Fault(Code.CANCELLED, "cancelled by its client"))

    def _may_be_workflow(self, name: str) -> bool:
        """Return whether a model is a workflow, or may be: of one that isn't known here whoever runs it tells the end."""
        return self._config.workflows.enabled and (self._inference.described(name) is None or self._is_workflow(name))

    def signal(self, session: Session, message: Signal) -> None:
        """Pass a client's message on to the workflow that a request of it has begun. One that has ended needs none."""
        request = session.ledger.get(message.id)
        if request is not None or not session.ledger.has_ended(message.id):
            self._signals.publish(session, message, None if request is None else request.partition)

    def cancelled_elsewhere(self, session_id: str, request_id: str) -> None:
        """Cancel a direct request of a session that has moved, whose client cancelled it at another gateway.

        Workers cancel queued requests. If the session's client is connected here the cancellation is ignored: the client may
        have reused the id since.
        """
        session = self._registry.sessions.get(session_id.encode())
        if session is None or session.connection is not None:
            return
        request = session.ledger.get(request_id)
        if request is not None and request.route == "direct":
            self.cancel(session, request_id)

    def _stream(self, session: Session, inference_request: InferenceRequest, request: OpenRequest) -> None:
        sessions = self._config.sessions
        stream = LiveStream(
            session, inference_request.id, sessions.buffer_bytes, sessions.slow_consumer_timeout_seconds
        )
        task = self._tasks.spawn(self._run_stream(session, inference_request, request, stream))
        request.resume = stream.resume
        request.abort = task.cancel

    async def _run_stream(
        self, session: Session, inference_request: InferenceRequest, request: OpenRequest, stream: LiveStream
    ) -> None:
        async def on_chunk(seq: int, data: bytes) -> None:
            if not request.accepted:  # `accepted` comes first
                self._replies.accept([(session, inference_request.id, request)], request.route)
            await stream.send_chunk(seq, data)

        outcome: Outcome
        try:
            outcome = await self._inference.stream(inference_request, on_chunk)
            await stream.flush()
        except Exception as error:
            outcome = error
        finally:
            stream.close()
        request.resume = None
        self._complete([(session, inference_request, outcome)])

    def _on_outcomes(self, outcomes: list[tuple[PendingRequest, Outcome]]) -> None:
        """Complete direct requests. Outcomes of one call arrive together, and are sent in one write per session."""
        self._complete([(pending.context, pending.request, outcome) for pending, outcome in outcomes])

    def _complete(self, outcomes: list[tuple[Session, InferenceRequest, Outcome]]) -> None:
        self.direct.add(-len(outcomes))
        now = time.perf_counter()
        events: dict[Session, list[Event]] = {}
        seconds: dict[str, list[float]] = {}
        accepted = 0
        for session, inference_request, outcome in outcomes:
            if isinstance(outcome, Exception):
                self._on_failure(session, inference_request, outcome)
                continue
            request = session.ledger.end(inference_request.id)
            if request is None:
                continue  # answered by another gateway
            session_events = events.get(session)
            if session_events is None:
                session_events = events[session] = []
            if request.accepted:
                session_events.append(result_event(inference_request.id, outcome))
            else:
                accepted += 1
                session_events += direct_events(inference_request.id, outcome)
            session.ledger.store_answer(session_events[-1])
            seconds.setdefault(inference_request.model, []).append(now - request.began)
        for session, session_events in events.items():
            self._replies.send(session, session_events)
        for model, values in seconds.items():
            self._latency.observe(model, max(values), time.monotonic())
            self._metrics.request_duration.labels(model).observe_all(values)
            self._results.inc(len(values))
        if accepted:
            self._requests.inc(accepted)

    def _on_failure(self, session: Session, inference_request: InferenceRequest, error: Exception) -> None:
        request = session.ledger.get(inference_request.id)
        if request is not None:
            request.abort = None
        if isinstance(error, QueueOnly) and request is not None and request.spills:
            self._spill(session, inference_request, "workflow")
        elif isinstance(error, Fault):
            self._finish_with(session, inference_request.id, error)
        elif isinstance(error, Unavailable | Busy | Failed):
            self._after_failure(session, request, inference_request, error)
        else:
            _log.error(
                "direct request failed", exc_info=error, extra=ids(session=session.id, request=inference_request.id)
            )
            self._finish_with(session, inference_request.id, Fault(Code.INTERNAL, "internal error"))

    def _after_failure(
        self,
        session: Session,
        request: OpenRequest | None,
        inference_request: InferenceRequest,
        error: Unavailable | Busy | Failed,
    ) -> None:
        self._readiness.on_error(error)
        spills = self._queues and request is not None and request.spills
        if spills and not isinstance(error, Failed):
            self._spill(session, inference_request, error.reason)
            return
        message = error.client_message if isinstance(error, Unavailable) else str(error)
        if isinstance(error, Busy | ServiceUnavailable):
            fault = Fault(Code.OVERLOADED, message, retry_after_ms=int(error.retry_after * 1000))
        else:
            fault = Fault(Code.UPSTREAM, message)
        self._finish_with(session, inference_request.id, fault)

    def _spill(self, session: Session, inference_request: InferenceRequest, reason: str) -> None:
        request = session.ledger.get(inference_request.id)
        if request is None:
            return  # it has been cancelled
        self._metrics.spilled.labels(reason).inc()
        request.route = "queue"
        request.accepted = False  # on that route, once its record is there
        request.resume = None
        self._enqueuer.enqueue(session, inference_request)

    def fail_queued(self, session: Session, request_id: str, fault: Fault) -> None:
        """End a queued request with a fault: it will not be answered any more.

        Through the log, like any answer to it: a client that has it as queued waits for its end there, on whatever connection.
        """
        terminal = Event(records.Kind.TERMINAL, "error", request_id, error_event(fault, request_id), -1)
        if self._end(session, request_id, fault) is not None:
            self._replies.on_undelivered(session, [terminal])
            self._registry.evict_if_idle(session)

    def _end(self, session: Session, request_id: str, fault: Fault) -> OpenRequest | None:
        """End a request with a fault. Returns None if it has ended: cancelled, or answered by another gateway."""
        running = session.ledger.get(request_id)
        if running is not None and running.span is not None:
            running.span.failed(fault.code)
        request = session.ledger.end(request_id)
        if request is not None:
            self._metrics.completed.labels(fault.code).inc()
        return request

    def _finish_with(self, session: Session, request_id: str, fault: Fault) -> None:
        payload = error_event(fault, request_id)
        if fault.code in (Code.UPSTREAM, Code.INTERNAL):
            about = ids(session=session.id, request=request_id)
            self._log_throttle.log(_log, logging.WARNING, "request failed: %s", fault.message, extra=about)
        terminal = Event(records.Kind.TERMINAL, "error", request_id, payload, -1)
        request = self._end(session, request_id, fault)
        if request is None:
            return
        if fault.code is not Code.OVERLOADED:  # which invites a retry
            session.ledger.store_answer(terminal)
        events = [terminal]
        if not request.accepted and request.route == "direct":
            self._requests.inc()
            events.insert(0, accepted_event(request_id, "direct"))
        self._replies.send(session, events)

    def on_disconnect(self, session: Session) -> None:
        """Cancel the requests that are to end with their client's connection."""
        for request_id, request in list(session.ledger.opened.items()):
            if request.cancels_on_disconnect:
                self.cancel(session, request_id)

    async def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for direct requests and for results being written; cancel the rest."""
        end = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self.direct.ended()
        except TimeoutError:
            _log.warning("%d direct requests are abandoned", self.direct.count)
        await self._tasks.join(end - time.monotonic())
        await self._signals.close(end - time.monotonic())
        await self._cancellations.close(end - time.monotonic())
        await self._tasks.cancel()
