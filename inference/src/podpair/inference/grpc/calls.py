"""What every call has in common: its deadline and key, failures as statuses, and streams whose requests run side by side."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from functools import partial
from typing import Any

import grpc

from podpair.inference.core.errors import InferenceError, OverloadedError
from podpair.inference.core.held import LARGE, HeldBytes
from podpair.inference.grpc.call import Call, CallEnded, Direct
from podpair.inference.metrics import Metrics
from podpair.inference.tracing import NOTHING, Recorded, Tracing

log = logging.getLogger(__name__)

KEY = "podpair-key"
TRACE = "traceparent"
RETRY_AFTER_MS = "podpair-retry-after-ms"
# What gRPC's own clients heed where a retry policy is configured.
PUSHBACK_MS = "grpc-retry-pushback-ms"
# Requests of one stream that are at work at the same time; past it the stream isn't read, and its sender waits.
STREAM_REQUESTS = 64

STATUS = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "too_large": grpc.StatusCode.INVALID_ARGUMENT,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "deadline_exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "model": grpc.StatusCode.INTERNAL,
    "load": grpc.StatusCode.FAILED_PRECONDITION,
    "internal": grpc.StatusCode.INTERNAL,
}

Unary = Callable[[Any, Any], Awaitable[Any]]
# One request of a stream, and its encoded answers.
Answers = Callable[[Any, Any], AsyncGenerator[bytes, None]]
Explain = Callable[[Any, InferenceError], bytes]


def deadline(context: Any) -> float | None:
    """The call's deadline on the monotonic clock."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + float(left)


def key(context: Any) -> str | None:
    """What keeps a caller at one version of a model."""
    return next((str(value) for name, value in context.invocation_metadata() or () if name == KEY), None)


def traced(tracing: Tracing, context: Any) -> "Recorded | AbstractContextManager[None]":
    """The call as a span, where it is recorded."""
    return begun(tracing, context, time.monotonic()) or NOTHING


def begun(tracing: Tracing, context: Any, now: float) -> Recorded | None:
    """The call that came `now`, where it is recorded; whoever asks ends it."""
    tracer = tracing.tracer
    if tracer is None:
        return None
    metadata = context.invocation_metadata() or ()
    return tracer.begin(next((str(value) for name, value in metadata if name == TRACE), None), now)


class Calls:
    """Wraps methods: a failure is a status, and counted. A client that goes away cancels the method."""

    def __init__(self, metrics: Metrics, held: HeldBytes) -> None:
        self._metrics = metrics
        self._held = held

    def direct(self, method: Direct) -> Direct:
        """One request that is begun in the loop's turn in which it came, and answered without a task, in this turn or later."""

        def begin(message: bytes, call: Call) -> None:
            try:
                self._hold(len(message), call)
                method(message, call)
            except Exception as error:
                self.fail(call, error)

        return begin

    def fail(self, call: Call, error: Exception) -> None:
        """End a call that was begun directly."""
        call.fail(*_status(self._counted(error if isinstance(error, InferenceError) else self._unexpected(error))))

    def _hold(self, size: int, call: Call) -> None:
        """Count a large request until its call ends. Raises OverloadedError."""
        if size < LARGE:
            return
        self._held.hold(size)
        call.ended = partial(self._held.let_go, size)

    def unary(self, method: Unary) -> Unary:
        """One request, one answer."""

        async def call(request: Any, context: Any) -> Any:
            try:
                with self._holding(request):
                    return await method(request, context)
            except InferenceError as error:
                await self._abort(self._counted(error), context)
            except (CallEnded, grpc.aio.AbortError):
                raise
            except Exception as error:
                await self._abort(self._counted(self._unexpected(error)), context)

        return call

    def stream(self, answers: Answers, explain: Explain) -> Callable[[AsyncIterator[Any], Any], Awaitable[None]]:
        """Requests side by side, each answered as it is done; one that fails is answered by `explain`."""

        async def call(requests: AsyncIterator[Any], context: Any) -> None:
            room, writing = asyncio.Semaphore(STREAM_REQUESTS), asyncio.Lock()

            async def write(message: bytes) -> None:
                async with writing:
                    await context.write(message)

            async def answer(request: Any) -> None:
                try:
                    with self._holding(request):
                        async with aclosing(answers(request, context)) as parts:
                            async for part in parts:
                                await write(part)
                except InferenceError as error:
                    await write(explain(request, self._counted(error)))
                except CallEnded:
                    raise
                except Exception as error:
                    await write(explain(request, self._counted(self._unexpected(error))))
                finally:
                    room.release()

            async with asyncio.TaskGroup() as tasks:
                async for request in requests:
                    await room.acquire()
                    tasks.create_task(answer(request))

        return call

    @contextmanager
    def _holding(self, request: Any) -> Iterator[None]:
        """Count a large request, encoded or not, while it is at work. Raises OverloadedError."""
        size = len(request) if isinstance(request, bytes) else request.ByteSize()
        if size < LARGE:
            yield
            return
        self._held.hold(size)
        try:
            yield
        finally:
            self._held.let_go(size)

    def _counted(self, error: InferenceError) -> InferenceError:
        self._metrics.errors.labels(error.kind).inc()
        level = logging.WARNING if error.status >= 500 else logging.DEBUG
        log.log(level, "request failed", extra={"type": error.kind, "error": str(error)})
        return error

    def _unexpected(self, error: Exception) -> InferenceError:
        log.error("a method failed", exc_info=error)
        return InferenceError("an internal error; the container's log has it")

    async def _abort(self, error: InferenceError, context: Any) -> None:
        await context.abort(*_status(error))


def _status(error: InferenceError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Code, details and trailing metadata."""
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, OverloadedError):
        after = str(math.ceil(error.retry_after * 1000))
        trailing = ((RETRY_AFTER_MS, after), (PUSHBACK_MS, after))
    return STATUS[error.kind], str(error), trailing
