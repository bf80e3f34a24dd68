"""The stage before a model's queue: images are decoded by threads of their own, each for itself, so that a bad one fails its
request and nothing else.

It takes what the queue takes (`core.batching`), and hands it on prepared. What waits here counts against the same bound as
what waits there, so that nothing is decoded that would then be refused. A deadline or a client that has gone is heeded
before each image.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from podpair.inference.core.batching import Queued
from podpair.inference.core.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
)
from podpair.inference.core.signature import Signature
from podpair.inference.core.statistics import Statistics
from podpair.inference.core.tensors import Array
from podpair.inference.core.traces import Trace
from podpair.inference.metrics import StageMetrics
from podpair.inference.runtime.failing import explain
from podpair.inference.runtime.scheduler import FutureSink, Job, Scheduler, Sink

if TYPE_CHECKING:
    from podpair.inference.runtime.images import ImageDecoder

_NONE: Mapping[str, Any] = {}


@dataclass(slots=True, eq=False)
class Work:
    """A request on its way to the queue."""

    arrays: list[Array]
    deadline: float | None
    parameters: Mapping[str, Any]
    sink: Sink
    rows: int
    entered: float
    # Images that aren't decoded yet.
    left: int = 0
    error: Exception | None = None
    # Nobody wants it any more.
    withdrawn: bool = False
    # In the model's queue.
    queued: Queued[Job] | None = None


class Preparing:
    """Stands before the scheduler of a model with images, and looks like it. All methods belong to the loop's thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        signature: Signature,
        decoders: "Sequence[ImageDecoder | None]",
        queue_size: int,
        threads: Executor,
        metrics: StageMetrics,
    ) -> None:
        self.name = scheduler.name
        self._scheduler = scheduler
        self._signature = signature
        self._decoders = decoders
        self._queue_size = queue_size
        self._threads = threads
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        # Rows in here.
        self._rows = 0
        # Set while there are none.
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._counting = threading.Lock()
        # Seconds that a row spends in here, averaged: the base of `Retry-After`.
        self._row_seconds = 0.0

    @property
    def depth(self) -> int:
        """Rows waiting in the model's queue."""
        return self._scheduler.depth

    @property
    def max_items(self) -> int:
        """Rows that a batch of the model may have."""
        return self._scheduler.max_items

    @property
    def running(self) -> int:
        """Batches in the model's runtime."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """Rows being prepared, or waiting for it."""
        return self._rows

    @property
    def statistics(self) -> Statistics:
        """The model's."""
        return self._scheduler.statistics

    async def submit(
        self,
        arrays: Sequence[Array],
        deadline: float | None = None,
        parameters: Mapping[str, Any] = _NONE,
        trace: Trace | None = None,
    ) -> list[Array]:
        """As `Scheduler.submit`. Raises InvalidRequestError for what is no image, cut off or too large, too."""
        sink = FutureSink(self._loop, trace)
        return await self._until(sink, self.enqueue(arrays, deadline, parameters, sink))

    async def prepared(
        self, arrays: Sequence[Array], deadline: float | None = None, trace: Trace | None = None
    ) -> list[Array]:
        """The model's own inputs, for a request that takes another way than its queue."""
        sink = FutureSink(self._loop, trace)
        work = self._begin(arrays, deadline, _NONE, sink)
        self._start(work, self._hand_out)
        return await self._until(sink, work)

    def enqueue(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: Sink
    ) -> Work:
        """As `Scheduler.enqueue`."""
        work = self._begin(arrays, deadline, parameters, sink)
        self._start(work, self._hand_on)
        return work

    def withdraw(self, work: Work) -> bool:
        """As `Scheduler.withdraw`."""
        if work.queued is not None:
            return self._scheduler.withdraw(work.queued)
        if work.withdrawn:
            return False
        work.withdrawn = True
        return True

    async def drain(self, seconds: float) -> None:
        """As `Scheduler.drain`."""
        end = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self._closed = True
        await self._scheduler.drain(max(0.0, end - time.monotonic()))

    async def _until(self, sink: FutureSink, work: Work) -> list[Array]:
        try:
            return await sink.future
        finally:
            if sink.future.cancelled():
                self.withdraw(work)

    def _begin(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: Sink
    ) -> Work:
        now = time.monotonic()
        if self._closed:
            raise UnavailableError("the container is stopping")
        if deadline is not None and deadline <= now:
            raise DeadlineExceededError("the deadline had passed when the request arrived")
        rows, size = self._signature.rows(arrays) or 1, self._queue_size
        if rows > size:
            raise TooLargeError(
                f"{rows} rows in one request; model {self.name} takes at most {size} (batching.queue_size)"
            )
        there = self._rows + self._scheduler.depth
        if there + rows > size:
            message = f"the queue of model {self.name} is full ({there} of {size} rows)"
            raise OverloadedError(message, max(0.01, self._row_seconds * self._rows))
        return Work(list(arrays), deadline, parameters, sink, rows, now)

    def _start(self, work: Work, done: Any) -> None:
        """Have its images decoded; `done` is called with it in the loop."""
        self._rows += work.rows
        self._idle.clear()
        tasks = []
        for index, decoder in enumerate(self._decoders):
            if decoder is not None:
                images = work.arrays[index].ravel().tolist()
                room = decoder.room(len(images))
                work.arrays[index] = room.reshape(decoder.spec.model_shape(len(images)))
                tasks += [(decoder, i, data, room[i], len(images)) for i, data in enumerate(images)]
        work.left = len(tasks)
        if not tasks:
            self._loop.call_soon(self._end, work, done)
        for task in tasks:
            self._threads.submit(self._decode, work, task, done)

    def _decode(self, work: Work, task: "tuple[ImageDecoder, int, bytes, Array, int]", done: Any) -> None:
        """In a thread: one image."""
        decoder, i, data, out, images = task
        try:
            if work.error is None and not work.withdrawn:
                if work.deadline is not None and work.deadline <= time.monotonic():
                    raise DeadlineExceededError("the deadline passed while the request waited to be decoded")
                decoder.decode(data, out)
        except InvalidRequestError as error:
            which = f"{decoder.spec.config.input!r}" if images == 1 else f"{decoder.spec.config.input!r}, image {i + 1}"
            work.error = InvalidRequestError(f"input {which}: {error}")
        except InferenceError as error:
            work.error = error
        except Exception as error:
            work.error = explain(self.name, error)
        with self._counting:
            work.left -= 1
            last = not work.left
        if last:
            # The loop may be gone after a stop that didn't wait.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end, work, done)

    def _end(self, work: Work, done: Any) -> None:
        """In the loop: all its images are decoded, or one of them can't be."""
        self._rows -= work.rows
        now = time.monotonic()
        taken = now - work.entered
        self._row_seconds += 0.1 * (taken / work.rows - self._row_seconds)
        if not work.withdrawn:
            self._metrics.seconds.observe(taken)
            self.statistics.prepared(taken)
            if work.sink.trace is not None:
                work.sink.trace.stage("preprocess", work.entered, now)
            done(work)
        if not self._rows:
            self._idle.set()

    def _hand_on(self, work: Work) -> None:
        if work.error is not None:
            work.sink.failed(work.error)
            return
        try:
            work.queued = self._scheduler.enqueue(work.arrays, work.deadline, work.parameters, work.sink)
        except Exception as error:
            work.sink.failed(error)

    def _hand_out(self, work: Work) -> None:
        if work.error is not None:
            work.sink.failed(work.error)
        else:
            work.sink.done(work.arrays)
