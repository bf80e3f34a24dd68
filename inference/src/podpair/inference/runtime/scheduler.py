"""Between the asyncio loop and the runner threads of one model version.

`core.batching` decides what runs; here are the clock, the threads and the futures. A batch crosses to a thread once and
back once, however many requests it has. A thread whose run has ended takes the next batch itself: a core would stand still
for as long as the loop needs to hear of it. What is not queued any more can't be cancelled: it runs, and nobody reads it.

Invariant: the queue and the number of busy threads are touched under the lock, all else by the loop's thread alone.
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
from typing import Any, Protocol

from podpair.inference.core.batching import Batcher, Decision, Queued, QueueFullError
from podpair.inference.core.errors import (
    DeadlineExceededError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
)
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.statistics import Statistics
from podpair.inference.core.tensors import Array
from podpair.inference.core.timing import RunTimes
from podpair.inference.core.traces import Trace
from podpair.inference.metrics import ModelMetrics
from podpair.inference.runtime.cpu import bind_thread
from podpair.inference.runtime.protocol import Runtime
from podpair.inference.runtime.running import Outcome, Part, Runner
from podpair.inference.runtime.warmup import largest_batch, run_clock

log = logging.getLogger(__name__)

_NONE: Mapping[str, Any] = {}


class Sink(Protocol):
    """Where a request's end goes, in the loop's thread: one of these, once."""

    @property
    def trace(self) -> Trace | None:
        """What its stages are told to, where it is recorded."""
        ...

    def done(self, arrays: list[Array]) -> None:
        """The outputs."""
        ...

    def failed(self, error: Exception) -> None:
        """Why there are none."""
        ...


@dataclass(slots=True, eq=False)
class Job(Part):
    """A request, and where its end goes."""

    sink: Sink


class Entry(Protocol):
    """A model version's way in: its scheduler, or the stage before it. What `enqueue` returns is for `withdraw`."""

    @property
    def max_items(self) -> int:
        """Rows that a batch may have."""
        ...

    @property
    def running(self) -> int:
        """Batches in the runtime."""
        ...

    @property
    def depth(self) -> int:
        """Rows waiting."""
        ...

    @property
    def statistics(self) -> Statistics:
        """What came of the requests."""
        ...

    async def submit(
        self,
        arrays: Sequence[Array],
        deadline: float | None = None,
        parameters: Mapping[str, Any] = ...,
        trace: Trace | None = None,
    ) -> list[Array]:
        """The outputs for one request."""
        ...

    def enqueue(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: Sink
    ) -> Any:
        """Queue a request whose end `sink` is told."""
        ...

    def withdraw(self, item: Any) -> bool:
        """Nobody wants it any more."""
        ...

    async def drain(self, seconds: float) -> None:
        """Wait until all has ended."""
        ...


class FutureSink:
    """A sink that somebody awaits."""

    __slots__ = ("future", "trace")

    def __init__(self, loop: asyncio.AbstractEventLoop, trace: Trace | None = None) -> None:
        self.trace = trace
        self.future: asyncio.Future[list[Array]] = loop.create_future()

    def done(self, arrays: list[Array]) -> None:
        if not self.future.done():
            self.future.set_result(arrays)

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


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
        # Where model.yaml says how large a batch may be, it is that large.
        self._learns = config.batching.max_items is None
        batching = config.batching
        self._batcher: Batcher[Job] = Batcher(
            times.worthwhile if self._learns else self.max_items,
            batching.max_delay_ms / 1000,
            batching.queue_size,
            runtime.instances,
            [size for size in batching.preferred if size <= self.max_items],
        )
        self._runner = Runner(name, runtime, signature, run_clock(runtime))
        self._threads = ThreadPoolExecutor(
            runtime.instances,
            thread_name_prefix=f"run-{name}",
            initializer=partial(bind_thread, config.runtime.cpus),
        )
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        # Threads that run a batch, and batches of theirs whose end the loop hasn't heard of.
        self._busy = self._running = 0
        # Set by drain(): the threads are gone.
        self._closed = False
        # Set while nothing is queued or runs.
        self._idle = asyncio.Event()
        self._idle.set()
        self._pump_is_due = False
        self._wake: asyncio.TimerHandle | None = None
        # When a deadline of what is queued may pass next.
        self._look_at = math.inf
        self._lateness: asyncio.TimerHandle | None = None
        self.statistics: Statistics = Statistics()
        # Seconds that a row takes, averaged over the last batches: the base of `Retry-After`.
        self._row_seconds = 0.0

    @property
    def depth(self) -> int:
        """Rows waiting."""
        return self._batcher.rows

    @property
    def running(self) -> int:
        """Batches in the threads."""
        return self._running

    async def submit(
        self,
        arrays: Sequence[Array],
        deadline: float | None = None,
        parameters: Mapping[str, Any] = _NONE,
        trace: Trace | None = None,
    ) -> list[Array]:
        """The outputs for one request, row for row.

        deadline: on `time.monotonic()`. Raises OverloadedError, TooLargeError, DeadlineExceededError,
        InvalidRequestError or ModelError. When this coroutine is cancelled the request leaves the queue.
        """
        sink = FutureSink(self._loop, trace)
        item = self.enqueue(arrays, deadline, parameters, sink)
        try:
            return await sink.future
        finally:
            if sink.future.cancelled():
                self.withdraw(item)

    def enqueue(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: Sink
    ) -> Queued[Job]:
        """Queue a request whose end `sink` is told; raises as `submit` does where that is known at once."""
        now = time.monotonic()
        if self._closed:
            raise UnavailableError("the container is stopping")
        if deadline is not None and deadline <= now:
            raise DeadlineExceededError("the deadline had passed when the request arrived")
        rows = self._signature.rows(arrays)
        key = tuple([array.shape[1:] for array in arrays])
        # A request without rows takes a place as well.
        item = Queued(Job(arrays, parameters, rows, sink), key, rows or 1, now, deadline)
        self._offer(item)
        self._idle.clear()
        # Not at once: the requests that this turn of the loop has read, too, belong to the batch.
        self._pump_soon()
        if deadline is not None and deadline < self._look_at:
            self._look_for_late(deadline, now)
        return item

    def withdraw(self, item: Queued[Job]) -> bool:
        """Take a request out of the queue, nobody wants it any more; False if it has left it. Its sink isn't told."""
        with self._lock:
            withdrawn = self._batcher.withdraw(item)
        if not withdrawn:
            return False
        self._check_idle()
        return True

    async def drain(self, seconds: float) -> None:
        """Wait until all that was submitted has ended; what hasn't after `seconds` ends with UnavailableError."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        with self._lock:
            self._closed = True
            left = self._batcher.drain()
        for item in left:
            _fail(item, UnavailableError("the container stopped before the request could run"))
        self._threads.shutdown(wait=False)

    def _offer(self, item: Queued[Job]) -> None:
        size = self._batcher.queue_size
        if item.rows > size:
            raise TooLargeError(
                f"{item.rows} rows in one request; model {self.name} takes at most {size} (batching.queue_size)"
            )
        now = time.monotonic()
        late: list[Queued[Job]] = []
        try:
            with self._lock:
                try:
                    self._batcher.offer(item)
                except QueueFullError:
                    late = self._batcher.expire(now)
                    self._batcher.offer(item)
        except QueueFullError:
            message = f"the queue of model {self.name} is full ({self.depth} of {size} rows)"
            raise OverloadedError(
                message, max(0.01, self._row_seconds * self.depth / self._runtime.instances)
            ) from None
        finally:
            self._fail_late(late)

    def _pump(self) -> None:
        """Start all that may run now, and come back when the next may."""
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
        """A run that isn't worth a thread; between two of them the loop turns once, for whatever else it has to do."""
        started = time.monotonic()
        self._deliver(batch, rows, self._runner.run([item.payload for item in batch]), started)
        if self._batcher.rows:
            self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pump_is_due:
            self._pump_is_due = True
            self._loop.call_soon(self._pump)

    def _look_for_late(self, at: float, now: float) -> None:
        """One timer for all deadlines: it looks at the earliest there was, and again at the earliest that is left."""
        if self._lateness is not None:
            self._lateness.cancel()
        self._look_at = at
        self._lateness = self._loop.call_later(at - now, self._expire)

    def _expire(self) -> None:
        now = time.monotonic()
        self._lateness, self._look_at = None, math.inf
        with self._lock:
            late = self._batcher.expire(now)
            earliest = min((item.deadline for item in self._batcher if item.deadline is not None), default=None)
        self._fail_late(late)
        self._check_idle()
        if earliest is not None:
            self._look_for_late(earliest, now)

    def _fail_late(self, late: list[Queued[Job]]) -> None:
        for item in late:
            _fail(item, DeadlineExceededError("the deadline passed while the request was queued"))

    def _check_idle(self) -> None:
        if self._running == 0 and self._batcher.rows == 0:
            self._idle.set()

    def _work(self, batch: list[Queued[Job]], started: float) -> None:
        """In a thread: run a batch, and those that are due behind it."""
        while batch:
            outcome = self._runner.run([item.payload for item in batch])
            now = time.monotonic()
            with self._lock:
                following = Decision[Job]() if self._closed else self._batcher.decide(self._busy - 1, now)
                if not following.run:
                    self._busy -= 1
            # The loop may be gone after a stop that didn't wait.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish, batch, started, outcome, following)
            batch, started = following.run, now

    def _finish(self, batch: list[Queued[Job]], started: float, outcome: Outcome, following: Decision[Job]) -> None:
        self._fail_late(following.expired)
        if not following.run:
            self._running -= 1
        self._deliver(batch, sum([item.rows for item in batch]), outcome, started)
        self._pump()

    def _deliver(self, batch: list[Queued[Job]], rows: int, outcome: Outcome, started: float) -> None:
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
        statistics.ran(rows, len(batch), waited, now - started, time.time())
        for item, result in zip(batch, outcome.results, strict=True):
            taken = now - item.enqueued_at
            trace = item.payload.sink.trace
            if trace is not None:
                _tell(trace, item, outcome, rows)
            if isinstance(result, Exception):
                statistics.fail += 1
                statistics.fail_seconds += taken
                _fail(item, result)
            else:
                statistics.success += 1
                statistics.success_seconds += taken
                metrics.latency.observe(taken)
                item.payload.sink.done(result)

    def _learn(self, rows: int, cost: float, passed: float) -> None:
        """What a run took: by the runtime's clock, and on the wall."""
        self._times.observe(rows, cost)
        if self._learns:
            self._batcher.max_items = self._times.worthwhile
        taken = passed / rows
        self._row_seconds = taken if not self._row_seconds else 0.9 * self._row_seconds + 0.1 * taken


def _tell(trace: Trace, item: Queued[Job], outcome: Outcome, rows: int) -> None:
    """A request that was run in a batch of `rows`."""
    trace.tell(rows=item.rows, batch=rows)
    trace.stage("queue", item.enqueued_at, outcome.began)
    computed = outcome.began + outcome.runtime
    trace.stage("runtime", outcome.began, computed)
    if outcome.cost is not None:
        trace.stage("postprocess", computed, computed + outcome.postprocess)


def _fail(item: Queued[Job], error: Exception) -> None:
    item.payload.sink.failed(error)
