"""The open streams of one model version: their limit, their deadlines and their end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from podpair.inference.core.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    OverloadedError,
    to_client_error,
)
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.core.trace import Trace
from podpair.inference.runtime.protocol import Streaming

# How long streams last isn't known: a guess for `Retry-After`, in seconds.
_RETRY_AFTER = 1.0


class Streams:
    """Streams of `runtime`, at most `limit` at the same time."""

    def __init__(self, name: str, runtime: Streaming, signature: Signature, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.open = 0
        self._runtime = runtime
        self._signature = signature

    async def stream(
        self,
        arrays: Sequence[Array],
        parameters: Mapping[str, Any],
        deadline: float | None = None,
        trace: Trace | None = None,
    ) -> AsyncGenerator[list[Array], None]:
        """Yield the chunks of one request's answer; `aclose` the generator to stop the model.

        deadline: on `time.monotonic()`, for the whole stream. Raises OverloadedError, DeadlineExceededError,
        InvalidRequestError or ModelError.
        """
        if self._signature.has_rows and any(array.shape[0] != 1 for array in arrays):
            raise InvalidRequestError("a stream answers one request: send one row")
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceededError("the deadline had passed when the request arrived")
        if self.open >= self.limit:
            message = f"model {self.name} has {self.limit} streams open (runtime.max_streams)"
            raise OverloadedError(message, _RETRY_AFTER)
        self.open += 1
        begun, count = time.monotonic(), 0
        try:
            async with aclosing(self._runtime.stream(arrays, parameters)) as chunks:
                while True:
                    async with _until(deadline):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        return
                    count += 1
                    if trace is not None and count == 1:
                        trace.stage("first part", begun, time.monotonic())
                    yield chunk
        except InferenceError:
            raise
        except Exception as error:
            raise to_client_error(self.name, error) from None
        finally:
            self.open -= 1
            if trace is not None:
                trace.annotate(parts=count)
                trace.stage("runtime", begun, time.monotonic())


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
