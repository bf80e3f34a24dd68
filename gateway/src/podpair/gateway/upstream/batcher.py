"""Dynamic batching: requests that arrive while a call is in flight go to the model as one call, and are split by row.

Invariants: nothing waits while the model is idle; no request is in two calls at a time; a request that fails a call does
not fail the others in it: they are retried in halves, at most 2n - 1 calls for n requests. Nothing is done per request
that can be done per call: no task, no timer (but for a deadline), no write of its own.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any, cast

import msgspec

from podpair.common.gateway_config.model import Batching
from podpair.gateway.core.lanes import MIDDLE, TURN, lane_of_turn
from podpair.gateway.core.model_errors import Busy, Failed, Late, ServiceUnavailable, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.row_codec import EncodedRows, RowLayout
from podpair.gateway.metrics import Metrics
from podpair.gateway.tasks import Tasks
from podpair.gateway.upstream.batch_calls import (
    BatchItem,
    PlainItem,
    ResultCallback,
    distribute,
    distribute_plain,
    merged_call,
    notify,
    plain_call,
)
from podpair.gateway.upstream.batch_calls import Outcome as Outcome
from podpair.gateway.upstream.calls import CallAnswer, Upstream

_log = logging.getLogger(__name__)


class PendingRequest(msgspec.Struct, eq=False):
    """A request on its way to the model, until `callback` has got its outcome, or it was cancelled."""

    request: InferenceRequest
    callback: ResultCallback
    context: Any  # the callback's own
    encoded: EncodedRows | None = None
    in_flight: "InFlightCall | None" = None  # the call that it is in
    timer: asyncio.TimerHandle | None = None
    done: bool = False  # nobody waits for it any more
    retried: bool = False  # the caller makes further attempts, and counts those that the model died of

    @property
    def rows(self) -> EncodedRows:
        """The request as rows of a call."""
        assert self.encoded is not None  # noqa: S101 - it is in a queue
        return self.encoded

    def cancel(self) -> None:
        """Cancel the request: the callback is not called, and a call only for this request is cancelled."""
        if not self.done:
            self._leave()

    def _leave(self) -> None:
        self.done = True
        if self.timer is not None:
            self.timer.cancel()
        if self.in_flight is not None:
            self.in_flight.leave()

    def expire(self) -> None:
        """End the request, because its deadline has passed."""
        if not self.done:
            self._leave()
            self.callback([(self, Fault(Code.DEADLINE_EXCEEDED, "the deadline passed while the model was at work"))])

    def complete(self) -> bool:
        """Mark the request as done; return False if nobody waits for it."""
        if self.done:
            return False
        self.done = True
        if self.timer is not None:
            self.timer.cancel()
        return True


class InFlightCall:
    """A call in flight, and how many wait for it."""

    __slots__ = ("_task", "_waiting")

    def __init__(self, requests: Sequence[BatchItem]) -> None:
        self._waiting = len(requests)
        self._task: asyncio.Task[None] | None = None
        for pending in requests:
            pending.in_flight = self

    def begin(self, task: "asyncio.Task[None]") -> None:
        """Set the task that makes the call."""
        self._task = task

    def leave(self) -> None:
        """Stop waiting for one request of the call; cancel the call, and tell the model, when nobody waits any more."""
        self._waiting -= 1
        if self._waiting == 0 and self._task is not None:
            self._task.cancel()


class _BatchQueue:
    """Requests that may share a call."""

    __slots__ = ("_turns", "calls", "due", "key", "lanes", "layout", "model")

    def __init__(self, key: Hashable, model: Model) -> None:
        self.key = key
        self.model = model
        self.lanes: tuple[deque[BatchItem], ...] = (deque(), deque(), deque())
        self.layout: RowLayout | None = None  # of all that wait, if they are plain rows, which stand in the middle lane
        self.calls = 0  # in flight
        self.due = False  # a dispatch is scheduled
        self._turns = 0  # while more than one lane waited

    @property
    def waiting(self) -> bool:
        """Whether any request waits."""
        first, middle, last = self.lanes
        return bool(middle or last or first)

    def next_lane(self) -> deque[BatchItem]:
        """Return the lane whose turn it is, of those in which requests wait."""
        waiting = [lane for lane in self.lanes if lane]
        if len(waiting) == 1:
            return waiting[0]
        self._turns = (self._turns + 1) % TURN
        return waiting[lane_of_turn(self._turns)]


class DynamicBatcher:
    """Queues of requests that may share a call, and the calls made from them.

    on_not_batchable: gets a request whose model does not answer row by row. on_model_changed: gets a request whose model is
    another than the one it was encoded for. model_changed: tells whether a version that is missing in the model's description
    shows another model.
    """

    def __init__(
        self,
        config: Batching,
        upstream: Upstream,
        metrics: Metrics,
        on_not_batchable: Callable[[BatchItem], object],
        on_model_changed: Callable[[BatchItem], object],
        model_changed: Callable[[Model, str | None], Awaitable[bool]],
    ) -> None:
        self._config = config
        self._upstream = upstream
        self._on_not_batchable = on_not_batchable
        self._on_model_changed = on_model_changed
        self._model_changed = model_changed
        self._calls = metrics.upstream_calls.labels("batch")
        self._rows = metrics.upstream_rows
        self._splits = metrics.batch_splits
        self._queues: dict[Hashable, _BatchQueue] = {}
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()

    def room(self, model: Model) -> int:
        """Return how many rows a call to the model may have."""
        rows = self._config.max_rows
        return rows if model.max_rows is None else min(rows, model.max_rows)

    def add(self, pending: PendingRequest, encoded: EncodedRows, model: Model) -> None:
        """Add a request to its queue."""
        pending.encoded = encoded
        key, timeout = encoded.layout.key, pending.request.timeout
        queue = self._queue((key, timeout) if timeout else key, model)  # none waits for longer than it may
        queue.layout = None
        queue.lanes[pending.request.lane].append(pending)
        self._schedule(queue)

    def add_plain(self, requests: Sequence[PlainItem], layout: RowLayout, model: Model) -> None:
        """Add requests of one caller that are a row each, of that layout: without parameters, deadline, version and trace."""
        queue = self._queue(layout.key, model)
        if not queue.waiting:
            queue.layout = layout
        elif queue.layout is not layout:
            queue.layout = None
        queue.lanes[MIDDLE].extend(requests)
        if not queue.due:  # at once: they are all that this turn of the loop has read
            self._dispatch(queue)

    def _queue(self, key: Hashable, model: Model) -> _BatchQueue:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _BatchQueue(key, model)
        queue.model = model
        return queue

    def _schedule(self, queue: _BatchQueue) -> None:
        model = queue.model
        if not queue.due and queue.calls < max(self._config.max_concurrent_calls, model.runs):
            # Not at once: what this turn of the loop still reads belongs to the same call.
            queue.due = True
            self._loop.call_soon(self._dispatch, queue)

    def _dispatch(self, queue: _BatchQueue) -> None:
        queue.due = False
        limit = max(self._config.max_concurrent_calls, queue.model.runs)
        while queue.waiting and queue.calls < limit:
            layout = queue.layout
            requests = self._next_batch(queue) if layout is None else self._next_plain_batch(queue, layout)
            if not requests:
                continue
            queue.calls += 1
            in_flight = InFlightCall(requests)
            task = self._tasks.spawn(self._run(queue.model, requests, layout))
            # Not at the end of the task's work: one that is given up before its first step does nothing at all.
            task.add_done_callback(partial(self._on_call_done, queue))
            in_flight.begin(task)
        if not queue.calls and not queue.waiting and self._queues.get(queue.key) is queue:
            del self._queues[queue.key]  # or a client that varies its shapes would fill the memory with them

    def _next_plain_batch(self, queue: _BatchQueue, layout: RowLayout) -> list[BatchItem]:
        """Remove and return the requests of the next call, all of which are plain rows; none if all of those were cancelled."""
        waiting = queue.lanes[MIDDLE]
        most = max(1, min(self.room(queue.model), self._config.max_bytes // max(1, waiting[0].rows.size)))
        if len(waiting) <= most:
            taken = list(waiting)
            waiting.clear()
        else:
            taken = [waiting.popleft() for _ in range(most)]
        return [pending for pending in taken if not pending.done]

    def _next_batch(self, queue: _BatchQueue) -> list[BatchItem]:
        """Remove and return the requests of the next call, all of one lane."""
        rows, size = self.room(queue.model), self._config.max_bytes
        taken: list[BatchItem] = []
        waiting = queue.next_lane()
        while waiting:
            pending = waiting[0]
            if not pending.done:
                encoded = pending.rows
                rows -= encoded.layout.rows
                size -= encoded.size
                if taken and (rows < 0 or size < 0):
                    break
                taken.append(pending)
            waiting.popleft()
        return taken

    async def _run(self, model: Model, requests: list[BatchItem], layout: RowLayout | None) -> None:
        try:
            await self._infer(model, requests, layout)
        except Exception as error:
            _log.exception("a call failed")
            notify((pending, error) for pending in requests)

    def _on_call_done(self, queue: _BatchQueue, _: "asyncio.Task[None]") -> None:
        queue.calls -= 1
        self._dispatch(queue)

    async def _infer(
        self,
        model: Model,
        requests: list[BatchItem],
        layout: RowLayout | None,
        tracker: "_BusyTracker | None" = None,
    ) -> None:
        """Make the call, and notify each caller. `layout`: of all of them, if they are plain rows. `tracker`: the call is one of
        several that another was split into.
        """
        requests = [pending for pending in requests if not pending.done]
        if not requests:
            return
        outcome: CallAnswer | Exception = (tracker and tracker.busy) or await self._send(model, requests, layout)
        if isinstance(outcome, CallAnswer):
            if tracker is not None:
                tracker.observe(outcome)
            try:
                if layout is not None and outcome.outputs:
                    distribute_plain(model, requests, outcome)
                else:
                    distribute(model, requests, outcome)
            except Exception as error:
                _log.exception("an answer could not be split by row")
                notify((pending, Failed(f"its answer can't be split by row: {error}")) for pending in requests)
            return
        tracker = tracker or _BusyTracker(len(requests))
        tracker.observe(outcome)
        if isinstance(outcome, ModelChangedError) or (isinstance(outcome, NotBatchableError) and len(requests) > 1):
            take = self._on_model_changed if isinstance(outcome, ModelChangedError) else self._on_not_batchable
            for pending in requests:
                if not pending.done:
                    take(pending)
        elif len(requests) > 1 and _may_be_one_request(outcome, tracker):
            await self._split(model, requests, layout, tracker)
        elif len(requests) > 1 and isinstance(outcome, Unavailable) and outcome.midway:
            # It may be gone for good, which the next call would show at once; or it closes on one of them each time.
            notify((pending, outcome) for pending in requests if pending.retried)
            await self._split(model, [pending for pending in requests if not pending.retried], layout, tracker)
        else:
            notify((pending, outcome) for pending in requests)

    async def _split(
        self, model: Model, requests: list[BatchItem], layout: RowLayout | None, tracker: "_BusyTracker"
    ) -> None:
        self._splits.inc()
        middle = len(requests) // 2
        await self._infer(model, requests[:middle], layout, tracker)
        await self._infer(model, requests[middle:], layout, tracker)

    async def _send(self, model: Model, requests: list[BatchItem], layout: RowLayout | None) -> CallAnswer | Exception:
        if layout is not None and len(requests) > 1:
            call, rows = plain_call(model, cast("list[PlainItem]", requests), layout), len(requests)
        else:
            call, rows = merged_call(model, requests)
        self._calls.inc()
        self._rows.inc(rows)
        try:
            answer = await self._upstream.call(call)
            if not model.lists(answer.model_version) and await self._model_changed(model, answer.model_version):
                return ModelChangedError("another model has answered than was described")
        except Exception as error:
            return error
        for output in answer.outputs:
            if output.shape[:1] != (rows,):
                return NotBatchableError(f"it answered {rows} rows with another number of them")
        return answer

    async def close(self) -> None:
        """Give up what is in flight."""
        await self._tasks.cancel()


class NotBatchableError(Failed):
    """The model does not answer row by row."""


class ModelChangedError(Failed):
    """Another model has answered: whether its rows may share a call is unknown."""


class _BusyTracker:
    """Counts how often the calls that one was split into were refused as busy, one after the other.

    One request that is refused each time is found with as many refusals as its call can be halved; a model that refuses more is
    too busy for all of them, and is left alone.
    """

    __slots__ = ("_left", "_most", "busy")

    def __init__(self, requests: int) -> None:
        self._left = self._most = requests.bit_length() + 1
        self.busy: Exception | None = None  # the outcome of the rest

    def observe(self, outcome: CallAnswer | Exception) -> None:
        """Record the outcome of a call."""
        if not isinstance(outcome, Busy | ServiceUnavailable):
            self._left = self._most
            return
        self._left -= 1
        if not self._left:
            self.busy = outcome


def _may_be_one_request(error: Exception, tracker: _BusyTracker) -> bool:
    """Return whether a single request may have failed the call."""
    if isinstance(error, Busy | ServiceUnavailable):
        return tracker.busy is None
    if isinstance(error, Fault):
        return error.code is Code.INVALID
    return isinstance(error, Failed) and not isinstance(error, Late)


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline in Unix seconds. Raises Fault if it has passed."""
    if deadline is None:
        return None
    left = deadline - time.time()
    if left <= 0:
        raise Fault(Code.DEADLINE_EXCEEDED, "the deadline had passed before the model was asked")
    return left
