"""What all calls have in common: deadline and key, errors as statuses, and streams whose requests run concurrently."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from functools import partial
from typing import Any

from podpair.inference.core.batching import parse_priority
from podpair.inference.core.errors import InferenceError, OverloadedError
from podpair.inference.core.memory_budget import MIN_COUNTED_BYTES, MemoryBudget
from podpair.inference.grpc.call import Call, CallEnded, DirectMethod
from podpair.inference.grpc.status import Status
from podpair.inference.metrics import Metrics
from podpair.inference.tracing import NOTHING, RecordedTrace, Tracing

log = logging.getLogger(__name__)

KEY = "podpair-key"
PRIORITY = "podpair-priority"
TRACE = "traceparent"
RETRY_AFTER_MS = "podpair-retry-after-ms"
# The one that gRPC's own clients heed if a retry policy is configured.
PUSHBACK_MS = "grpc-retry-pushback-ms"
# Requests of one stream that are processed at the same time; past it the stream isn't read, and its sender waits.
STREAM_REQUESTS = 64

STATUS = {
    "invalid": Status.INVALID_ARGUMENT,
    "not_found": Status.NOT_FOUND,
    "too_large": Status.INVALID_ARGUMENT,
    "overloaded": Status.RESOURCE_EXHAUSTED,
    "unavailable": Status.UNAVAILABLE,
    "deadline_exceeded": Status.DEADLINE_EXCEEDED,
    "model": Status.INTERNAL,
    "load": Status.FAILED_PRECONDITION,
    "internal": Status.INTERNAL,
}

Unary = Callable[[Any, Any], Awaitable[Any]]
# One request of a stream, and its encoded answers.
Answers = Callable[[Any, Any], AsyncGenerator[bytes, None]]
EncodeError = Callable[[Any, InferenceError], bytes]


def deadline(context: Any) -> float | None:
    """Return the call's deadline on the monotonic clock."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + float(left)


def key(context: Any) -> str | None:
    """Return the key, which keeps a caller at one version of a model."""
    return _stated(context, KEY)


def priority(context: Any) -> int:
    """Return the call's priority. Raises InvalidRequestError."""
    return parse_priority(_stated(context, PRIORITY))


def trace_call(tracing: Tracing, context: Any) -> "RecordedTrace | AbstractContextManager[None]":
    """Start a span of the call, if it is recorded, as a context manager."""
    return start_trace(tracing, context, time.monotonic()) or NOTHING


def start_trace(tracing: Tracing, context: Any, now: float) -> RecordedTrace | None:
    """Start the trace of a call that came `now`, if it is recorded; the caller ends it."""
    tracer = tracing.tracer
    if tracer is None:
        return None
    return tracer.begin(_stated(context, TRACE), now)


def _stated(context: Any, name: str) -> str | None:
    """Return what a call's metadata says under a name, the first time."""
    return next((str(value) for stated, value in context.invocation_metadata() or () if stated == name), None)


class Calls:
    """Wraps methods: an error becomes a status, and is counted. A client that goes away cancels the method."""

    def __init__(self, metrics: Metrics, budget: MemoryBudget) -> None:
        self._metrics = metrics
        self.budget = budget

    def direct(self, method: DirectMethod) -> DirectMethod:
        """Wrap a method that begins in the loop turn in which its message came, and answers without a task, now or later."""

        def begin(message: bytes, call: Call) -> None:
            try:
                self._acquire_budget(len(message), call)
                method(message, call)
            except Exception as error:
                self.fail(call, error)

        return begin

    def fail(self, call: Call, error: Exception) -> None:
        """End a call that was begun directly."""
        call.fail(*_status(self._counted(error if isinstance(error, InferenceError) else self._unexpected(error))))

    def _acquire_budget(self, size: int, call: Call) -> None:
        """Count a large request until its call ends. Raises OverloadedError."""
        if size < MIN_COUNTED_BYTES:
            return
        self.budget.acquire(size)
        call.on_done = partial(self.budget.release, size)

    def unary(self, method: Unary) -> Unary:
        """Wrap a method of one request and one answer."""

        async def call(request: Any, context: Any) -> Any:
            try:
                with self._budgeted(request):
                    return await method(request, context)
            except InferenceError as error:
                await self._abort(self._counted(error), context)
            except CallEnded:
                raise
            except Exception as error:
                await self._abort(self._counted(self._unexpected(error)), context)

        return call

    def stream(
        self, answers: Answers, encode_error: EncodeError
    ) -> Callable[[AsyncIterator[Any], Any], Awaitable[None]]:
        """Wrap a method of concurrent requests, each answered when it is done; a failed one is answered by `encode_error`."""

        async def call(requests: AsyncIterator[Any], context: Any) -> None:
            room, writing = asyncio.Semaphore(STREAM_REQUESTS), asyncio.Lock()

            async def write(message: bytes) -> None:
                async with writing:
                    await context.write(message)

            async def answer(request: Any) -> None:
                try:
                    with self._budgeted(request):
                        async with aclosing(answers(request, context)) as parts:
                            async for part in parts:
                                await write(part)
                except InferenceError as error:
                    await write(encode_error(request, self._counted(error)))
                except CallEnded:
                    raise
                except Exception as error:
                    await write(encode_error(request, self._counted(self._unexpected(error))))
                finally:
                    room.release()

            async with asyncio.TaskGroup() as tasks:
                async for request in requests:
                    await room.acquire()
                    tasks.create_task(answer(request))

        return call

    @contextmanager
    def _budgeted(self, request: Any) -> Iterator[None]:
        """Count a large request, encoded or not, while it is processed. Raises OverloadedError."""
        size = len(request) if isinstance(request, bytes) else request.ByteSize()
        if size < MIN_COUNTED_BYTES:
            yield
            return
        self.budget.acquire(size)
        try:
            yield
        finally:
            self.budget.release(size)

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


def _status(error: InferenceError) -> tuple[Status, str, tuple[tuple[str, str], ...]]:
    """Return code, details and trailing metadata."""
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, OverloadedError):
        after = str(math.ceil(error.retry_after * 1000))
        trailing = ((RETRY_AFTER_MS, after), (PUSHBACK_MS, after))
    return STATUS[error.kind], str(error), trailing
