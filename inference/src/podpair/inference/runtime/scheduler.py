"""Schedules the requests of one model version between the asyncio loop and the runner threads.

`core.batching` decides what runs; here are the clock, the threads and the futures. A batch crosses to a thread once and
back once, however many requests it has. A thread whose run has ended takes the next batch itself: otherwise a core would be idle
until the loop has noticed. A request that has left the queue can't be cancelled: it runs, and nobody reads its result.

Invariant: `_batcher` (the queue and its settings), `_busy` and `_closed` are read and written under `_lock` only; all else that
changes belongs to the loop's thread. Threads use the executor besides, which doesn't change.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from podpair.inference.core.batching import NORMAL, Batcher, Decision, Queued, QueueFullError
from podpair.inference.core.errors import (
    DeadlineExceededError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
)
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.request_context import NO_REQUEST, RequestContext
from podpair.inference.core.run_times import RunTimes
from podpair.inference.core.signature import Signature
from podpair.inference.core.statistics import Statistics
from podpair.inference.core.tensors import Array
from podpair.inference.core.trace import Trace
from podpair.inference.metrics import ModelMetrics
from podpair.inference.runtime.batch_executor import BatchExecutor, BatchItem, BatchOutcome
from podpair.inference.runtime.cpu import bind_thread
from podpair.inference.runtime.protocol import Runtime
from podpair.inference.runtime.request_queue import NO_PARAMETERS, FutureSink, ResultSink
from podpair.inference.runtime.warmup import largest_batch, run_clock

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job(BatchItem):
    """A request, and where its result goes."""

    sink: ResultSink


class Scheduler:
    """Queues, batches and runs the requests of one model version. All public methods belong to the loop's thread."""

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        signature: Signature,
        config: ModelConfig,
        metrics: ModelMetrics,
        times: RunTimes,
    ) -> None:
        self.name = name
        self._runtime = runtime
        self._signature = signature
        self._metrics = metrics
        self._times = times
        self.max_items = largest_batch(config, signature)
        # A batch size that model.yaml gives isn't learnt.
        self._learns = config.batching.max_items is None
        batching = config.batching
        self._queue_size = batching.queue_size
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._batcher: Batcher[Job] = Batcher(
            times.worthwhile if self._learns else self.max_items,
            batching.max_delay_ms / 1000,
            batching.queue_size,
            runtime.instances,
            [size for size in batching.preferred if size <= self.max_items],
        )
        self._executor = BatchExecutor(name, runtime, signature, run_clock(runtime))
        self._threads = ThreadPoolExecutor(
            runtime.instances,
            thread_name_prefix=f"run-{name}",
            initializer=partial(bind_thread, config.runtime.cpus),
        )
        self._loop = asyncio.get_running_loop()
        # Threads that run a batch. Guarded by the lock.
        self._busy = 0
        # Set by drain(): the threads are gone. Guarded by the lock.
        self._closed = False
        # Batches in threads, as far as the loop knows.
        self._running = 0
        # Set while nothing is queued or running.
        self._idle = asyncio.Event()
        self._idle.set()
        self._pump_is_due = False
        self._wake: asyncio.TimerHandle | None = None
        # When the next deadline of a queued request may pass, and the timer for it.
        self._next_deadline = math.inf
        self._deadline_timer: asyncio.TimerHandle | None = None
        self.statistics: Statistics = Statistics()
        # Seconds per row, averaged over the last batches: the base of `Retry-After`.
        self._row_seconds = 0.0

    @property
    def depth(self) -> int:
        """Rows waiting."""
        with self._lock:
            return self._batcher.rows

    @property
    def running(self) -> int:
        """Batches in the threads."""
        return self._running

    async def submit(
        self,
        arrays: Sequence[Array],
        deadline: float | None = None,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
        trace: Trace | None = None,
        priority: int = NORMAL,
    ) -> list[Array]:
        """Run one request and return its outputs, row for row.

        deadline: on `time.monotonic()`. priority: of PRIORITIES. Raises OverloadedError, TooLargeError,
        DeadlineExceededError, InvalidRequestError or ModelError. When this coroutine is cancelled the request leaves the queue.
        """
        sink = FutureSink(self._loop, trace)
        item = self.enqueue(arrays, deadline, parameters, sink, priority)
        return await sink.result(lambda: self.withdraw(item))

    def enqueue(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: ResultSink,
        priority: int = NORMAL,
    ) -> Queued[Job]:  # fmt: skip
        """Queue a request whose result goes to `sink`; raise at once what is known at once, as `submit` does."""
        now = time.monotonic()
        with self._lock:
            closed = self._closed
        if closed:
            raise UnavailableError("the container is stopping")
        if deadline is not None and deadline <= now:
            raise DeadlineExceededError("the deadline had passed when the request arrived")
        rows = self._signature.rows(arrays)
        key = tuple([array.shape[1:] for array in arrays])
        # A request without rows takes a place, too.
        item = Queued(Job(arrays, parameters, rows, sink), key, rows or 1, now, deadline, priority)
        self._offer(item)
        self._idle.clear()
        # Not at once: other requests that are read in this turn of the loop belong to the batch, too.
        self._pump_soon()
        if deadline is not None and deadline < self._next_deadline:
            self._watch_deadlines(deadline, now)
        return item

    def withdraw(self, item: Queued[Job]) -> bool:
        """Drop a queued request whose client has gone; False if it has left the queue. Its sink isn't called."""
        with self._lock:
            withdrawn = self._batcher.withdraw(item)
        if not withdrawn:
            return False
        self._check_idle()
        return True

    async def drain(self, seconds: float) -> None:
        """Wait until all requests have ended; those that haven't after `seconds` end with UnavailableError."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        with self._lock:
            self._closed = True
            left = self._batcher.drain()
        for item in left:
            _fail(item, UnavailableError("the container stopped before the request could run"))
        self._threads.shutdown(wait=False)

    def _offer(self, item: Queued[Job]) -> None:
        size = self._queue_size
        if item.rows > size:
            raise TooLargeError(
                f"{item.rows} rows in one request; model {self.name} takes at most {size} (batching.queue_size)"
            )
        now = time.monotonic()
        late: list[Queued[Job]] = []
        depth = 0
        try:
            with self._lock:
                try:
                    self._batcher.offer(item)
                except QueueFullError:
                    late = self._batcher.expire(now)
                    depth = self._batcher.rows
                    self._batcher.offer(item)
        except QueueFullError:
            message = f"the queue of model {self.name} is full ({depth} of {size} rows)"
            raise OverloadedError(message, max(0.01, self._row_seconds * depth / self._runtime.instances)) from None
        finally:
            self._fail_late(late)

    def _pump(self) -> None:
        """Start all batches that may run now, and schedule the next look."""
        self._pump_is_due = False
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        while True:
            now = time.monotonic()
            with self._lock:
                decision = self._batcher.decide(self._busy, now)
                rows = sum([item.rows for item in decision.run])
                here = self._runtime.inline and self._times.is_short(rows)
                if decision.run and not here:
                    self._busy += 1
            self._fail_late(decision.expired)
            if not decision.run:
                break
            if here:
                self._run_here(decision.run, rows)
                break
            self._running += 1
            self._threads.submit(self._work, decision.run, now)
        if decision.wake_at is not None:
            self._wake = self._loop.call_later(max(0.0, decision.wake_at - now), self._pump)
        self._check_idle()

    def _run_here(self, batch: list[Queued[Job]], rows: int) -> None:
        """Run a batch that isn't worth a thread; between two of them the loop turns once, for its other work."""
        started = time.monotonic()
        self._deliver(batch, rows, self._executor.run([item.payload for item in batch]), started)
        if self.depth:
            self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pump_is_due:
            self._pump_is_due = True
            self._loop.call_soon(self._pump)

    def _watch_deadlines(self, at: float, now: float) -> None:
        """Set the one timer for all deadlines to the earliest."""
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._next_deadline = at
        self._deadline_timer = self._loop.call_later(at - now, self._expire)

    def _expire(self) -> None:
        now = time.monotonic()
        self._deadline_timer, self._next_deadline = None, math.inf
        with self._lock:
            late = self._batcher.expire(now)
            earliest = min((item.deadline for item in self._batcher if item.deadline is not None), default=None)
        self._fail_late(late)
        self._check_idle()
        if earliest is not None:
            self._watch_deadlines(earliest, now)

    def _fail_late(self, late: list[Queued[Job]]) -> None:
        for item in late:
            _fail(item, DeadlineExceededError("the deadline passed while the request was queued"))

    def _check_idle(self) -> None:
        if self._running == 0 and self.depth == 0:
            self._idle.set()

    def _work(self, batch: list[Queued[Job]], started: float) -> None:
        """Run a batch, and those that are due after it (in a thread)."""
        while batch:
            outcome = self._executor.run([item.payload for item in batch], self._context(batch))
            now = time.monotonic()
            with self._lock:
                following = Decision[Job]() if self._closed else self._batcher.decide(self._busy - 1, now)
                if not following.run:
                    self._busy -= 1
            # The loop may be gone after a stop that didn't wait.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish, batch, started, outcome, following)
            batch, started = following.run, now

    def _context(self, batch: list[Queued[Job]]) -> RequestContext:
        """Return what calls to other models inherit from a batch: they are of use while one of its requests can be answered."""
        if not self._runtime.calls_models:
            return NO_REQUEST
        deadlines = [item.deadline for item in batch if item.deadline is not None]
        sinks = [item.payload.sink for item in batch]
        return RequestContext(
            max(deadlines) if len(deadlines) == len(batch) else None,
            batch[0].priority,
            next((sink.trace.traceparent() for sink in sinks if sink.trace is not None), None),
            (*max((sink.path for sink in sinks), key=len), self.name),
        )

    def _finish(
        self, batch: list[Queued[Job]], started: float, outcome: BatchOutcome, following: Decision[Job]
    ) -> None:
        self._fail_late(following.expired)
        if not following.run:
            self._running -= 1
        self._deliver(batch, sum([item.rows for item in batch]), outcome, started)
        self._pump()

    def _deliver(self, batch: list[Queued[Job]], rows: int, outcome: BatchOutcome, started: float) -> None:
        now = time.monotonic()
        statistics, metrics = self.statistics, self._metrics
        if outcome.cost is not None:
            self._learn(rows, outcome.cost, now - started)
        waited = 0.0
        for item in batch:
            waited += started - item.enqueued_at
            metrics.queue.observe(started - item.enqueued_at)
        metrics.batch_size.observe(rows)
        metrics.runtime.observe(outcome.runtime)
        metrics.postprocess.observe(outcome.postprocess)
        statistics.record_run(rows, len(batch), waited, now - started, time.time())
        for item, result in zip(batch, outcome.results, strict=True):
            taken = now - item.enqueued_at
            trace = item.payload.sink.trace
            if trace is not None:
                _trace_run(trace, item, outcome, rows)
            if isinstance(result, Exception):
                statistics.fail += 1
                statistics.fail_seconds += taken
                _fail(item, result)
            else:
                statistics.success += 1
                statistics.success_seconds += taken
                metrics.request_duration.observe(taken)
                item.payload.sink.done(result)

    def _learn(self, rows: int, cost: float, passed: float) -> None:
        """Learn from a run's time: by the runtime's clock, and by the wall clock."""
        self._times.observe(rows, cost)
        if self._learns:
            with self._lock:
                self._batcher.max_items = self._times.worthwhile
        taken = passed / rows
        self._row_seconds = taken if not self._row_seconds else 0.9 * self._row_seconds + 0.1 * taken


def _trace_run(trace: Trace, item: Queued[Job], outcome: BatchOutcome, rows: int) -> None:
    """Record the stages of a request that ran in a batch of `rows`."""
    trace.annotate(rows=item.rows, batch=rows)
    trace.stage("queue", item.enqueued_at, outcome.began)
    computed = outcome.began + outcome.runtime
    trace.stage("runtime", outcome.began, computed)
    if outcome.cost is not None:
        trace.stage("postprocess", computed, computed + outcome.postprocess)


def _fail(item: Queued[Job], error: Exception) -> None:
    item.payload.sink.failed(error)
