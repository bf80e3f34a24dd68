"""Calls from a Python model to the other models of its server.

    from podpair.inference import models

    vectors = models.infer("embedding", {"input_ids": ids})["sentence_embedding"]
    vectors = (await models.infer_async("embedding", {"input_ids": ids}))["sentence_embedding"]

A call waits in the called model's queue and shares its runs, with whoever else calls it. It has the deadline, the priority and
the trace of the request for which the class is at work.
"""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from podpair.inference.core.errors import DeadlineExceededError, UnavailableError
from podpair.inference.core.model_call import ModelAnswer, ModelCall, answered_values, given_arrays
from podpair.inference.core.request_context import current

__all__ = ["infer", "infer_async"]

# The longest that a call takes which has no other limit, in seconds: models that call each other in a circle wait for ever.
_LONGEST = 60.0


class ModelClient(Protocol):
    """The way to the server's models."""

    def begin(self, call: ModelCall) -> "Future[ModelAnswer]":
        """Begin a call, in any thread; cancelling the future cancels it. Raises UnavailableError if the server has gone."""
        ...


class _Connection:
    client: ModelClient | None = None


def connect(client: ModelClient | None) -> None:
    """Have the calls of this process go to `client` from now on; None: to nobody."""
    _Connection.client = client


def infer(
    model: str,
    inputs: Any,
    *,
    version: str | int | None = None,
    parameters: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    text: bool = True,
) -> dict[str, Any]:
    """Call a model, and wait for its answer: from sync methods. Returns the outputs by name.

    inputs: name → array, list or text, with a first dimension for the rows; or the only input's value. Outputs are arrays,
    BYTES lists of `str`, without `text` of `bytes`. timeout: in seconds; default: the request's deadline, or 60 s.

    Raises InvalidRequestError, NotFoundError, OverloadedError, UnavailableError, DeadlineExceededError or ModelError as the
    called model answers; RuntimeError on an event loop, which it would block.
    """
    if _has_loop():
        raise RuntimeError("models.infer blocks the event loop: await models.infer_async")
    call, seconds = _prepare(model, inputs, version, parameters, timeout)
    future = _client().begin(call)
    try:
        answer = future.result(seconds)
    except TimeoutError:
        raise _late(model, seconds) from None
    finally:
        future.cancel()
    return answered_values(answer, text)


async def infer_async(
    model: str,
    inputs: Any,
    *,
    version: str | int | None = None,
    parameters: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    text: bool = True,
) -> dict[str, Any]:
    """Call a model, as `infer` does, from async methods; several at once with `asyncio.gather`.

    Cancelling it cancels the call.
    """
    call, seconds = _prepare(model, inputs, version, parameters, timeout)
    future = _client().begin(call)
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            answer = await asyncio.wrap_future(future)
    except TimeoutError:
        raise _late(model, seconds) from None
    finally:
        future.cancel()
    return answered_values(answer, text)


def _prepare(
    model: str, inputs: Any, version: str | int | None, parameters: Mapping[str, Any] | None, timeout: float | None
) -> tuple[ModelCall, float | None]:
    """Return the call, and the seconds that it may take."""
    names, arrays = given_arrays(inputs)
    context, now = current(), time.monotonic()
    if timeout is None and context.deadline is None and not context.loading:
        timeout = _LONGEST
    limits = [limit for limit in (context.deadline, None if timeout is None else now + timeout) if limit is not None]
    deadline = min(limits, default=None)
    context = msgspec.structs.replace(context, deadline=deadline)
    call = ModelCall(model, None if version is None else str(version), names, arrays, dict(parameters or {}), context)
    return call, None if deadline is None else max(0.0, deadline - now)


def _client() -> ModelClient:
    client = _Connection.client
    if client is None:
        raise UnavailableError(
            "no other models are served here: they can be called where podpair-inference serves this one"
        )
    return client


def _late(model: str, seconds: float | None) -> DeadlineExceededError:
    return DeadlineExceededError(f"model {model} has not answered a call in {seconds or 0:.3g} s")


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
