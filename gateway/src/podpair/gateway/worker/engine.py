"""Works on queued requests: asks the model for each, and has the records written that tell how it ended.

A request has no task as long as nothing goes wrong: it is asked, answered and delivered with those beside it. A stream, and a
request that the model has failed or that finds it not ready, gets one (`_work`).

Invariant: each request in flight is delivered once, or dropped. One with an id that is being answered waits for that answer; one
that was answered recently gets it again. With `requests.ordering: session` each waits for its session's one before it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import cast

from confluent_kafka import Message

from podpair.common.gateway_config.kafka import Requests
from podpair.common.logs import Throttle, ids
from podpair.gateway.core.bounded_cache import BoundedCache
from podpair.gateway.core.latency_estimate import QUEUE
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.queue_wait import agree, longest_wait, representative_wait
from podpair.gateway.core.records import Cancellation, InvalidRecord, Request
from podpair.gateway.core.request import decode_request
from podpair.gateway.core.result_members import result_with_queue_ms
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.kafka.requests import Gate
from podpair.gateway.tasks import Tasks
from podpair.gateway.tracing import Telemetry
from podpair.gateway.upstream.batcher import Outcome, PendingRequest
from podpair.gateway.upstream.factory import ModelAccess
from podpair.gateway.worker.dead_letters import bury_invalid
from podpair.gateway.worker.delivery import Outputs
from podpair.gateway.worker.handover import Handover
from podpair.gateway.worker.partition import PartitionState
from podpair.gateway.worker.request import QueuedRequest, RequestKey, State
from podpair.gateway.worker.retry import Retrier
from podpair.gateway.worker.session_order import SessionOrder
from podpair.gateway.worker.spans import begin_span, end_span

_log = logging.getLogger(__name__)


class RequestEngine:
    """Drives requests from state to state.

    Args:
        config: Of the requests.
        model: What answers.
        outputs: Where the answers go. Its `delivery` calls `on_delivered`.
        gate: Hears how many requests are no longer in flight.
        telemetry: Metrics, and spans of traced requests.
        on_cancelled: Called with the session and id of each request that its client cancels, whoever has it.
    """

    def __init__(
        self,
        config: Requests,
        model: ModelAccess,
        outputs: Outputs,
        gate: Gate,
        telemetry: Telemetry,
        on_cancelled: Callable[[str, str], object],
    ) -> None:
        self._model = model
        self._results = outputs.results
        self._dead_letters = outputs.dead_letters
        self._delivery = outputs.delivery
        self._replies = outputs.replies
        self._gate = gate
        self._tracer = telemetry.tracer
        self._metrics = telemetry.metrics
        self._on_cancelled = on_cancelled
        self._log_throttle = Throttle()
        self._retrier = Retrier(config, model, telemetry.metrics)
        self._handover = Handover(outputs.workflows, model.client, self._finish, self._fail, self._end)
        self._order = SessionOrder() if config.ordering == "session" else None
        self._tasks = Tasks()
        self._in_hand: set[QueuedRequest] = set()
        self._running: dict[RequestKey, QueuedRequest] = {}  # those that are being answered
        self._recent_results: BoundedCache[RequestKey, bytes] = BoundedCache(config.idempotency_bytes)
        self._drains: list[tuple[set[QueuedRequest], asyncio.Future[None]]] = []

    @property
    def in_hand(self) -> int:
        """How many requests are worked on."""
        return len(self._in_hand)

    def begin(self, partition: PartitionState, record: Message, offset: int) -> None:
        """Take a record of the requests topic in hand. An error that nobody expects costs this one its answer."""
        request = QueuedRequest(partition, record, offset)
        self._in_hand.add(request)
        try:
            self._begin(request)
        except Exception as error:
            self._leave_behind(request, error)

    def _begin(self, request: QueuedRequest) -> None:
        parsed = request.read()
        if parsed is not None:
            request.key = (parsed.session, parsed.id)
            if isinstance(parsed, Cancellation):
                self._apply_cancellation(request)
                return
            if not isinstance(parsed, Request):
                self._handover.say(request, parsed, self._in_hand)
                return
            request.parsed = parsed
            written = request.partition.times.observe(request.record.timestamp(), parsed, time.time())
            if written is not None:
                request.written, request.representative = written, agree(parsed.queued_at, written)
        if self._order is None or self._order.join(request):
            self._start(request)

    def _apply_cancellation(self, cancellation: QueuedRequest) -> None:
        key = cancellation.key
        self._handover.cancel(cancellation, ended_here=self._cancel(key))
        try:
            self._on_cancelled(*key)
        except Exception:
            _log.exception("a cancellation was not passed on", extra=ids(session=key[0], request=key[1]))

    def _start(self, request: QueuedRequest) -> None:
        """Begin to work on a request. An error that nobody expects costs this one its answer, not others theirs."""
        try:
            self._start_or_wait(request)
        except Exception as error:
            self._leave_behind(request, error)

    def _start_or_wait(self, request: QueuedRequest) -> None:
        """Ask for it, unless it is no request, or its answer is known or under way."""
        key, parsed = request.key, request.parsed
        if parsed is None:
            error = cast("InvalidRecord", request.error)
            self._finish([request], request.outcome, bury_invalid(self._dead_letters, self._results, request, error))
            return
        first = self._running.get(key)
        if first is not None:
            first.add_repeat(request)
            return
        if (body := self._recent_results.get(key)) is not None:
            self._finish([request], "repeated", [self._results.result(*key, body)])
            return
        self._running[key] = request
        self._ask(request, parsed)

    def _ask(self, request: QueuedRequest, parsed: Request) -> None:
        request_id, session, model, deadline, _, body, trace, _, _, lane, user, _, not_before = parsed
        if trace:
            trace = begin_span(self._tracer, request, parsed)
        try:
            asked = decode_request(body, request_id, model, deadline, session)
            asked.lane = lane
            if trace:
                asked.trace = trace
            if user:
                asked.subject = user
            request.inference_request = asked
            request.asked = time.time()
            if not_before is not None and self._handover.keep(request, not_before):
                return
            unknown = self._handover.knows_not(asked)
            if not unknown and self._handover.take(request, asked):
                return
            if unknown or asked.stream or not self._model.readiness.ready:
                request.ask(self._spawn(request))
            else:
                request.ask(self._model.client.submit(asked, self._on_outcomes, request, retried=True))
                asked.release_row(body)
        except Exception as error:
            self._fail(request, error, 0)

    def _on_outcomes(self, outcomes: list[tuple[PendingRequest, Outcome]]) -> None:
        """Take what the model made of requests that were asked without a task."""
        now = time.time()
        answered = []
        written = []  # when representative ones were
        for pending, outcome in outcomes:
            request: QueuedRequest = pending.context
            if isinstance(outcome, Exception):
                if request.open:
                    request.ask(self._spawn(request, outcome))
                continue
            at = request.written
            if at is None:
                body = b"{%b}" % outcome
            else:
                body = result_with_queue_ms(outcome, (request.asked - at) * 1000)
                if request.representative:
                    written.append(at)
            if self._answer(request, body, now):
                answered.append(request)
        if written and (slowest := longest_wait(written, now)) > 0.0:
            self._model.latency.observe(QUEUE, slowest, time.monotonic())
        self._deliver(answered)

    def _spawn(self, request: QueuedRequest, failed: Exception | None = None) -> asyncio.Task[None]:
        task = self._tasks.spawn(self._work(request, failed))
        task.add_done_callback(partial(self._on_work_done, request))
        return task

    def _on_work_done(self, request: QueuedRequest, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._leave_behind(request, error)

    def _leave_behind(self, request: QueuedRequest, error: BaseException) -> None:
        """Drop a request that can't be worked on for a fault of ours, and go on with those that wait for it."""
        _log.error("a queued request was left behind, it is done again after a restart", exc_info=error)
        if request.drop():
            self._forget(request)
            successor = self._leave(request)
            self._gate.give_room(1)
            self._start_repeats(request)
            if successor is not None:
                self._start(successor)

    async def _work(self, request: QueuedRequest, failed: Exception | None = None) -> None:
        """Get the answer in as many attempts as it may have; `failed`: what came of the first."""
        parsed = cast("Request", request.parsed)._replace(written=request.written)
        inference_request = request.inference_request
        assert inference_request is not None  # noqa: S101 - `_ask` has made it
        attempts = self._retrier.new_policy(inference_request.model)
        try:
            while self._handover.knows_not(inference_request):
                if not await self._retrier.describe(parsed, inference_request, attempts):
                    break
            if self._handover.take(request, inference_request):
                return
            chunks = self._results.chunks(parsed) if inference_request.stream else None
            body = await self._retrier.run(parsed, inference_request, chunks, attempts, failed)
        except asyncio.CancelledError:
            if request.open:  # nobody waits here for its next attempt
                self.drop([request])
            raise
        except Exception as error:
            self._fail(request, error, attempts.tries)
            return
        waited = representative_wait(parsed, request.written, time.time())
        if waited > 0.0:
            self._model.latency.observe(QUEUE, waited, time.monotonic())
        self._end(request, body)

    def _end(self, request: QueuedRequest, body: bytes) -> None:
        if self._answer(request, body):
            self._deliver([request])

    def _answer(self, request: QueuedRequest, body: bytes, now: float | None = None) -> bool:
        """Answer a request with the JSON object of its result. Returns False if that comes too late."""
        key = session, request_id = request.key
        answer = self._results.result(session, request_id, body, now)
        records: Sequence[Outgoing] = (answer,)
        if request.parsed is not None and request.parsed.reply_to is not None:
            records = (answer, *self._replies.to(request.parsed.reply_to, answer))
        if request.span is not None:
            records = end_span(request, "result", records)
        if not request.answer("result", records):
            return False
        if self._running.get(key) is request:
            del self._running[key]
        self._recent_results.put(key, body, len(body))
        return True

    def _fail(self, request: QueuedRequest, error: Exception, tries: int) -> None:
        """End a request with an error, and keep it as a dead letter unless the error is its client's."""
        if not request.open:
            return
        about = ids(session=request.key[0], request=request.key[1])
        fault = self._handover.explained(error)
        if isinstance(fault, Fault):
            self._log_throttle.log(_log, logging.INFO, "queued request failed: %s", fault.message, extra=about)
        else:
            # Not the model's fault, nor the request's: but whoever waits for it has to know, and the partition to go on.
            _log.error("queued request failed", exc_info=error, extra=about)
            fault = Fault(Code.INTERNAL, f"internal error: {type(error).__name__}")
        records = []
        if fault.code in (Code.UPSTREAM, Code.INTERNAL):
            records = self._dead_letters.bury(request.record, fault.message, tries)
        answer = self._results.error(*request.key, fault)
        replies = self._replies.to(request.parsed.reply_to, answer) if request.parsed is not None else ()
        self._finish([request], fault.code, [*records, answer, *replies])

    def _cancel(self, key: RequestKey) -> bool:
        """End what is in flight of a request that its client does not want any more. Returns whether anything was."""
        requests = [request for request in self._in_hand if request.key == key and request.cancellable]
        if requests:
            fault = Fault(Code.CANCELLED, "cancelled by its client")
            for request in requests:
                request.stop()
            answer = self._results.error(*key, fault)
            addresses = {request.parsed.reply_to for request in requests if request.parsed}
            self._finish(requests, Code.CANCELLED, [answer, *self._replies.to_each(addresses, answer)])
        return bool(requests)

    def _finish(self, requests: Sequence[QueuedRequest], outcome: str, records: Sequence[Outgoing]) -> None:
        self._deliver([request for request in requests if self._settle(request, outcome, records)])

    def _settle(self, request: QueuedRequest, outcome: str, records: Sequence[Outgoing]) -> bool:
        """Note how a request ends. Returns False if that comes too late."""
        if request.span is not None:
            records = end_span(request, outcome, records)
        if not request.answer(outcome, records):
            return False
        if self._running.get(request.key) is request:
            del self._running[request.key]
        return True

    def _start_repeats(self, request: QueuedRequest) -> None:
        """Go on with those that waited for the request's answer."""
        repeats, request.repeats = request.repeats, None
        for repeat in repeats or ():
            if repeat.said is None and repeat.open:
                self._start(repeat)
            elif repeat.said is not None and request.state is State.DROPPED:
                self.drop([repeat])  # whoever begins the workflow passes it on
            elif repeat.said is not None and repeat.open:
                self._handover.say(repeat, repeat.said, self._in_hand)

    def _deliver(self, requests: Sequence[QueuedRequest]) -> None:
        if requests:
            self._delivery.complete(requests)
            for request in requests:
                if request.repeats is not None:
                    self._start_repeats(request)

    def on_delivered(self, requests: Iterable[QueuedRequest]) -> None:
        """Finish requests whose records are in Kafka."""
        outcomes: dict[str, int] = {}
        successors = []
        for request in requests:
            if request.done():
                outcomes[request.outcome] = outcomes.get(request.outcome, 0) + 1
                self._in_hand.discard(request)
                if (self._order is not None or self._drains) and (successor := self._leave(request)) is not None:
                    successors.append(successor)
        for outcome, count in outcomes.items():
            self._metrics.worked.labels(outcome).inc(count)
        if outcomes:
            self._gate.give_room(sum(outcomes.values()))
        for successor in successors:
            self._start(successor)

    def drop(self, requests: Iterable[QueuedRequest]) -> None:
        """Give requests up, with those that wait for their turn behind them: other members work on them."""
        dropped, left = [], list(requests)
        while left:
            request = left.pop()
            if request.drop():
                dropped.append(request)
                self._forget(request)
                if (successor := self._leave(request)) is not None:
                    left.append(successor)
        if dropped:
            self._gate.give_room(len(dropped))
        for request in dropped:  # now that all are: a repeat may be one of them
            self._start_repeats(request)

    def _forget(self, request: QueuedRequest) -> None:
        """Note that a request that was dropped is not being answered."""
        if self._running.get(request.key) is request:
            del self._running[request.key]
        if request.span is not None:
            end_span(request, "dropped", ())

    def _leave(self, request: QueuedRequest) -> QueuedRequest | None:
        """Let a request go that is done, or dropped. Returns the one whose turn it is then."""
        self._in_hand.discard(request)
        for waiting, drained in self._drains:
            waiting.discard(request)
            if not waiting and not drained.done():
                drained.set_result(None)
        return None if self._order is None else self._order.leave(request)

    def _of(self, partitions: Collection[PartitionState]) -> list[QueuedRequest]:
        return [request for request in self._in_hand if request.partition in partitions]

    async def drain(self, partitions: Collection[PartitionState], timeout: float) -> None:
        """Wait up to `timeout` seconds until nothing of the partitions is in flight that is now.

        Requests that only wait for their next attempt are dropped: another gateway makes it.
        """
        self.drop([request for request in self._of(partitions) if self._retrier.is_waiting(request.work)])
        requests = set(self._of(partitions))
        if not requests or not self._model.readiness.ready:
            return
        drain = (requests, asyncio.get_running_loop().create_future())
        self._drains.append(drain)
        try:
            await asyncio.wait((drain[1],), timeout=timeout)
        finally:
            self._drains.remove(drain)

    def drop_partitions(self, partitions: Collection[PartitionState]) -> None:
        """Give up whatever is in flight of the partitions."""
        self.drop(self._of(partitions))

    def close(self) -> None:
        """Make no further attempt at any request."""
        self._retrier.close()
