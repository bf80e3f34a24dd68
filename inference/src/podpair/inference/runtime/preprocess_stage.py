"""The stage before a model's queue: images are decoded by threads of their own, one by one, so that a bad one fails its
request and nothing else.

It accepts what the queue accepts (`core.batching`), and passes it on decoded. Rows that wait here count against the same limit as
rows that wait there, so that nothing is decoded that would then be refused. Before each image it checks the deadline, and
whether the client has gone.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from podpair.inference.core.batching import NORMAL
from podpair.inference.core.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
    to_client_error,
)
from podpair.inference.core.signature import Signature
from podpair.inference.core.statistics import Statistics
from podpair.inference.core.tensors import Array
from podpair.inference.core.trace import Trace
from podpair.inference.metrics import StageMetrics
from podpair.inference.runtime.request_queue import NO_PARAMETERS, FutureSink, RequestQueue, ResultSink

if TYPE_CHECKING:
    from podpair.inference.runtime.images import ImageDecoder


@dataclass(slots=True, eq=False)
class PreprocessJob:
    """A request on its way to the queue."""

    arrays: list[Array]
    deadline: float | None
    parameters: Mapping[str, Any]
    sink: ResultSink
    rows: int
    entered_at: float
    # Images that aren't decoded yet.
    images_left: int = 0
    error: Exception | None = None
    # Its client has gone.
    withdrawn: bool = False
    # Its item in the model's queue.
    queued: Any = None
    priority: int = NORMAL


class PreprocessStage:
    """A `RequestQueue` before the scheduler of a model with images. All methods belong to the loop's thread."""

    def __init__(
        self,
        scheduler: RequestQueue,
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
        # Rows in this stage.
        self._rows = 0
        # Set while there are none.
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._counting = threading.Lock()
        # Seconds per row in this stage, averaged: the base of `Retry-After`.
        self._row_seconds = 0.0

    @property
    def depth(self) -> int:
        """Rows waiting in the model's queue."""
        return self._scheduler.depth

    @property
    def max_items(self) -> int:
        """The most rows of a batch of the model."""
        return self._scheduler.max_items

    @property
    def running(self) -> int:
        """Batches in the model's runtime."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """Rows being preprocessed, or waiting for it."""
        return self._rows

    @property
    def statistics(self) -> Statistics:
        """The model's statistics."""
        return self._scheduler.statistics

    async def submit(
        self,
        arrays: Sequence[Array],
        deadline: float | None = None,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
        trace: Trace | None = None,
        priority: int = NORMAL,
    ) -> list[Array]:
        """See `Scheduler.submit`. Raises InvalidRequestError also for what is no image, truncated or too large."""
        sink = FutureSink(self._loop, trace)
        job = self.enqueue(arrays, deadline, parameters, sink, priority)
        return await sink.result(lambda: self.withdraw(job))

    async def preprocess(
        self, arrays: Sequence[Array], deadline: float | None = None, trace: Trace | None = None
    ) -> list[Array]:
        """Return the model's own inputs, for a request that bypasses its queue."""
        sink = FutureSink(self._loop, trace)
        job = self._admit(arrays, deadline, NO_PARAMETERS, sink)
        self._submit_images(job, self._return_arrays)
        return await sink.result(lambda: self.withdraw(job))

    def enqueue(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: ResultSink,
        priority: int = NORMAL,
    ) -> PreprocessJob:  # fmt: skip
        """See `Scheduler.enqueue`."""
        job = self._admit(arrays, deadline, parameters, sink)
        job.priority = priority
        self._submit_images(job, self._enqueue_ready)
        return job

    def withdraw(self, job: PreprocessJob) -> bool:
        """See `Scheduler.withdraw`."""
        if job.queued is not None:
            return self._scheduler.withdraw(job.queued)
        if job.withdrawn:
            return False
        job.withdrawn = True
        return True

    async def drain(self, seconds: float) -> None:
        """See `Scheduler.drain`."""
        end = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self._closed = True
        await self._scheduler.drain(max(0.0, end - time.monotonic()))

    def _admit(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: ResultSink
    ) -> PreprocessJob:
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
        waiting = self._rows + self._scheduler.depth
        if waiting + rows > size:
            message = f"the queue of model {self.name} is full ({waiting} of {size} rows)"
            raise OverloadedError(message, max(0.01, self._row_seconds * self._rows))
        return PreprocessJob(list(arrays), deadline, parameters, sink, rows, now)

    def _submit_images(self, job: PreprocessJob, done: Any) -> None:
        """Have the images of a job decoded; `done` is called with the job in the loop."""
        self._rows += job.rows
        self._idle.clear()
        tasks = []
        for index, decoder in enumerate(self._decoders):
            if decoder is not None:
                images = job.arrays[index].ravel().tolist()
                room = decoder.allocate(len(images))
                job.arrays[index] = room.reshape(decoder.spec.model_shape(len(images)))
                tasks += [(decoder, i, data, room[i], len(images)) for i, data in enumerate(images)]
        job.images_left = len(tasks)
        if not tasks:
            self._loop.call_soon(self._on_decoded, job, done)
        for task in tasks:
            self._threads.submit(self._decode, job, task, done)

    def _decode(self, job: PreprocessJob, task: "tuple[ImageDecoder, int, bytes, Array, int]", done: Any) -> None:
        """Decode one image (in a thread)."""
        decoder, i, data, out, images = task
        try:
            if job.error is None and not job.withdrawn:
                if job.deadline is not None and job.deadline <= time.monotonic():
                    raise DeadlineExceededError("the deadline passed while the request waited to be decoded")
                decoder.decode(data, out)
        except InvalidRequestError as error:
            which = f"{decoder.spec.config.input!r}" if images == 1 else f"{decoder.spec.config.input!r}, image {i + 1}"
            job.error = InvalidRequestError(f"input {which}: {error}")
        except InferenceError as error:
            job.error = error
        except Exception as error:
            job.error = to_client_error(self.name, error)
        with self._counting:
            job.images_left -= 1
            last = not job.images_left
        if last:
            # The loop may be gone after a stop that didn't wait.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._on_decoded, job, done)

    def _on_decoded(self, job: PreprocessJob, done: Any) -> None:
        """Finish a job whose images are decoded, or one of which can't be (in the loop)."""
        self._rows -= job.rows
        now = time.monotonic()
        taken = now - job.entered_at
        self._row_seconds += 0.1 * (taken / job.rows - self._row_seconds)
        if not job.withdrawn:
            self._metrics.seconds.observe(taken)
            self.statistics.record_preprocess(taken)
            if job.sink.trace is not None:
                job.sink.trace.stage("preprocess", job.entered_at, now)
            done(job)
        if not self._rows:
            self._idle.set()

    def _enqueue_ready(self, job: PreprocessJob) -> None:
        if job.error is not None:
            job.sink.failed(job.error)
            return
        try:
            job.queued = self._scheduler.enqueue(job.arrays, job.deadline, job.parameters, job.sink, job.priority)
        except Exception as error:
            job.sink.failed(error)

    def _return_arrays(self, job: PreprocessJob) -> None:
        if job.error is not None:
            job.sink.failed(job.error)
        else:
            job.sink.done(job.arrays)
