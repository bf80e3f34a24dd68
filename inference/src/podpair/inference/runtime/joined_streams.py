"""The queue of a model that only streams, and streams texts: whoever wants its whole answer gets the texts of its chunks, joined.

A row is a stream. All rows of a request are streamed at the same time, as far as there are places.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np

from podpair.inference.core.batching import NORMAL
from podpair.inference.core.errors import TooLargeError, UnavailableError, to_client_error
from podpair.inference.core.generate import join_chunks
from podpair.inference.core.signature import Signature
from podpair.inference.core.statistics import Statistics
from podpair.inference.core.tensors import Array
from podpair.inference.core.trace import Trace
from podpair.inference.metrics import ModelMetrics
from podpair.inference.runtime.request_queue import NO_PARAMETERS, FutureSink, ResultSink
from podpair.inference.runtime.streams import Streams

# How long streams that were stopped may take to end, in seconds.
_END = 1.0


class JoinedStreams:
    """A `RequestQueue` of `streams`. All methods belong to the loop's thread."""

    def __init__(self, name: str, streams: Streams, signature: Signature, metrics: ModelMetrics) -> None:
        self.name = name
        self._metrics = metrics
        self._streams = streams
        self._signature = signature
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.statistics: Statistics = Statistics()

    @property
    def max_items(self) -> int:
        """Each request runs alone."""
        return 1

    @property
    def running(self) -> int:
        """No batches: streams are counted by themselves."""
        return 0

    @property
    def depth(self) -> int:
        """Streams that wait for a place."""
        return self._streams.waiting

    async def submit(
        self,
        arrays: Sequence[Array],
        deadline: float | None = None,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
        trace: Trace | None = None,
        priority: int = NORMAL,
    ) -> list[Array]:
        """See `Scheduler.submit`."""
        sink = FutureSink(self._loop, trace)
        task = self.enqueue(arrays, deadline, parameters, sink, priority)
        return await sink.result(lambda: self.withdraw(task))

    def enqueue(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: ResultSink,
        priority: int = NORMAL,
    ) -> "asyncio.Task[None]":  # fmt: skip
        """See `Scheduler.enqueue`."""
        if self._closed:
            raise UnavailableError("the container is stopping")
        rows = self._rows(arrays)
        if len(rows) > self._streams.limit:
            raise TooLargeError(
                f"{len(rows)} rows in one request; model {self.name} only streams, and has at most "
                f"{self._streams.limit} streams open (runtime.max_streams)"
            )
        task = self._loop.create_task(self._answer(rows, deadline, parameters, sink, priority))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def withdraw(self, task: "asyncio.Task[None]") -> bool:
        """Stop the streams of a request whose client has gone; False if they have ended. Its sink isn't called."""
        return task.cancel()

    async def drain(self, seconds: float) -> None:
        """Wait until all requests have ended; those that haven't after `seconds` end with UnavailableError."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END)

    def _rows(self, arrays: Sequence[Array]) -> list[Sequence[Array]]:
        """Return the rows of a request, each as a request of its own."""
        if not self._signature.has_rows:
            return [arrays]
        return [[array[i : i + 1] for array in arrays] for i in range(self._signature.count_rows(arrays))]

    async def _answer(
        self,
        rows: Sequence[Sequence[Array]],
        deadline: float | None,
        parameters: Mapping[str, Any],
        sink: ResultSink,
        priority: int,
    ) -> None:
        began = time.monotonic()
        streams = [self._loop.create_task(self._joined(row, deadline, parameters, sink, priority)) for row in rows]
        try:
            answers = await asyncio.gather(*streams)
        except asyncio.CancelledError:
            if not self._closed:
                raise
            self._fail(sink, UnavailableError("the container stopped before the answer was complete"), began)
        except Exception as error:
            self._fail(sink, to_client_error(self.name, error), began)
        else:
            taken = time.monotonic() - began
            self.statistics.success += 1
            self.statistics.success_seconds += taken
            self._metrics.request_duration.observe(taken)
            sink.done(_together(answers, len(self._signature.outputs)))
        finally:
            for stream in streams:
                stream.cancel()

    async def _joined(
        self,
        row: Sequence[Array],
        deadline: float | None,
        parameters: Mapping[str, Any],
        sink: ResultSink,
        priority: int,
    ) -> list[Array]:
        streamed = self._streams.stream(row, parameters, deadline, sink.trace, priority, sink.path)
        async with aclosing(streamed) as chunks:
            return join_chunks([chunk async for chunk in chunks], self._signature.outputs)

    def _fail(self, sink: ResultSink, error: Exception, began: float) -> None:
        self.statistics.fail += 1
        self.statistics.fail_seconds += time.monotonic() - began
        sink.failed(error)


def _together(answers: Sequence[list[Array]], outputs: int) -> list[Array]:
    """Return the answers to all rows as one tensor for each output."""
    if not answers:
        return [np.empty(0, object) for _ in range(outputs)]
    return [np.concatenate(column) for column in zip(*answers, strict=True)]
