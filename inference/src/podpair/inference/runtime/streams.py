"""The open streams of one model version: their limit, those that wait for a place, their deadlines and their end."""

import asyncio
import contextlib
import heapq
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import Any

from podpair.inference.core.batching import NORMAL
from podpair.inference.core.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    OverloadedError,
    to_client_error,
)
from podpair.inference.core.request_context import RequestContext, answering
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.core.trace import Trace
from podpair.inference.runtime.protocol import Streaming

# How long a stream waits for a place, in seconds. One that is refused comes back when its client sees fit, and a place that is
# free by then stays empty until then; so it waits, but not for so long that whoever can go elsewhere would not.
_WAIT = 1.0
# `Retry-After`, in seconds: at least, and before the first stream has ended.
_LEAST_RETRY, _FIRST_RETRY = 0.05, 1.0


class Streams:
    """Streams of `runtime`: at most `limit` at the same time, and `waiting` that wait for a place."""

    def __init__(self, name: str, runtime: Streaming, signature: Signature, limit: int, waiting: int) -> None:
        self.name = name
        self.limit = limit
        self.open = 0
        self._runtime = runtime
        self._signature = signature
        self._most_waiting = waiting
        # Those that wait for a place, by priority and age.
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ages = count()
        # Seconds that a stream takes, averaged over the last ones.
        self._seconds = _FIRST_RETRY

    async def stream(
        self,
        arrays: Sequence[Array],
        parameters: Mapping[str, Any],
        deadline: float | None = None,
        trace: Trace | None = None,
        priority: int = NORMAL,
        path: tuple[str, ...] = (),
    ) -> AsyncGenerator[list[Array], None]:
        """Yield the chunks of one request's answer; `aclose` the generator to stop the model.

        deadline: on `time.monotonic()`, for the whole stream. path: see `ResultSink`. Raises OverloadedError,
        DeadlineExceededError, InvalidRequestError or ModelError.
        """
        if self._signature.has_rows and any(array.shape[0] != 1 for array in arrays):
            raise InvalidRequestError("a stream answers one request: send one row")
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceededError("the deadline had passed when the request arrived")
        async with self._place(deadline, priority, trace):
            begun, chunks_read = time.monotonic(), 0
            parent = None if trace is None else trace.traceparent()
            context = RequestContext(deadline, priority, parent, (*path, self.name))
            try:
                async with aclosing(self._runtime.stream(arrays, parameters)) as chunks:
                    while True:
                        async with _until(deadline):
                            # What the runtime begins, it begins with the first chunk.
                            with answering(context):
                                chunk = await anext(chunks, None)
                        if chunk is None:
                            return
                        chunks_read += 1
                        if trace is not None and chunks_read == 1:
                            trace.stage("first part", begun, time.monotonic())
                        yield chunk
            except InferenceError:
                raise
            except Exception as error:
                raise to_client_error(self.name, error) from None
            finally:
                ended = time.monotonic()
                self._seconds += 0.2 * (ended - begun - self._seconds)
                if trace is not None:
                    trace.annotate(parts=chunks_read)
                    trace.stage("runtime", begun, ended)

    @property
    def waiting(self) -> int:
        """Streams that wait for a place."""
        return sum(not place.done() for _, _, place in self._waiting)

    @asynccontextmanager
    async def _place(self, deadline: float | None, priority: int, trace: Trace | None) -> AsyncIterator[None]:
        """Hold one of the places. Raises OverloadedError or DeadlineExceededError."""
        if self.open < self.limit:
            self.open += 1
        else:
            entered = time.monotonic()
            await self._next_place(deadline, priority)
            if trace is not None:
                trace.stage("queue", entered, time.monotonic())
        try:
            yield
        finally:
            self._hand_on()

    async def _next_place(self, deadline: float | None, priority: int) -> None:
        """Wait until a stream that has ended hands its place on."""
        if self.waiting >= self._most_waiting:
            raise self._full()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._ages), place))
        left = _WAIT if deadline is None else min(_WAIT, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left):
                await place
        except (TimeoutError, asyncio.CancelledError) as ended:
            if place.cancelled():
                # Streams may stay open for days: while they do, those that gave up are not kept.
                self._waiting = [each for each in self._waiting if each[2] is not place]
                heapq.heapify(self._waiting)
            else:
                # It was given in the same turn.
                self._hand_on()
            if isinstance(ended, asyncio.CancelledError):
                raise
            if deadline is not None and deadline <= time.monotonic():
                raise DeadlineExceededError("the deadline passed while the stream waited for its place") from None
            raise self._full() from None

    def _hand_on(self) -> None:
        """Give a place to whoever is the next to wait for one."""
        while self._waiting:
            *_, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self.open -= 1

    def _full(self) -> OverloadedError:
        message = f"model {self.name} has {self.limit} streams open (runtime.max_streams)"
        return OverloadedError(message, max(_LEAST_RETRY, self._seconds * (self.waiting + 1) / self.limit))


@contextlib.asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[None]:
    left = None if deadline is None else deadline - time.monotonic()
    timer = asyncio.timeout(left)
    try:
        async with timer:
            yield
    except TimeoutError:
        if timer.expired():
            raise DeadlineExceededError("the deadline passed while the model streamed") from None
        raise
