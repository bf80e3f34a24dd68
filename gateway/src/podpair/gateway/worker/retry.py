"""Sends one queued request to the model, with retries, until there is a result or the request is abandoned.

Invariant: an unavailable model costs no attempt, and a busy one a bounded time; a request that the model may have crashed on,
or has rejected as busy, is sent alone. Neither shutdown nor a rebalance waits for a request that only waits for its next attempt.
"""

import asyncio
import time
from typing import cast

from podpair.common.gateway_config.kafka import Requests
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import Request
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.retry_policy import RetryPolicy
from podpair.gateway.metrics import Metrics
from podpair.gateway.results.chunks import ChunkWriter
from podpair.gateway.upstream.factory import ModelAccess


class Retrier:
    """Retries queued requests, within the bounds of `requests` or, of one model, of `requests.models`."""

    def __init__(self, config: Requests, model: ModelAccess, metrics: Metrics) -> None:
        self._config = config
        self._models = {retries.model: retries for retries in config.models}
        self._client = model.client
        self._readiness = model.readiness
        self._metrics = metrics
        self._closed = False
        self._waiting: set[asyncio.Task[None]] = set()  # tasks that only wait for their next attempt
        self._suspects = asyncio.Lock()  # one at a time: the next crash is then due to the request that was running

    def new_policy(self, model: str) -> RetryPolicy:
        """Make the policy of a request to a model for which no attempt was made yet."""
        config, own = self._config, self._models.get(model)
        attempts = (own and own.max_attempts) or config.max_attempts
        busy_seconds = (own and own.busy_seconds) or config.busy_seconds
        return RetryPolicy(attempts, config.backoff_seconds, config.max_model_crashes, busy_seconds)

    async def run(
        self,
        request: Request,
        inference_request: InferenceRequest,
        chunks: ChunkWriter | None,
        attempts: RetryPolicy,
        failed: Exception | None = None,
    ) -> bytes:
        """Return the body of the result; `failed` is the error of an earlier attempt. Raises Fault, the terminal error."""
        if failed is not None:
            if not isinstance(failed, Unavailable | Busy | Failed):
                raise failed
            await self._wait_after(failed, attempts, request)
        while True:
            try:
                if attempts.poison_suspect:
                    async with self._suspects:
                        body = await self._infer(request, inference_request, chunks, alone=True)
                else:
                    body = await self._infer(request, inference_request, chunks, alone=attempts.refusals > 0)
            except (Unavailable, Busy, Failed) as error:
                await self._wait_after(error, attempts, request)
            else:
                if chunks is not None:
                    await chunks.flush()
                return body

    async def describe(self, request: Request, inference_request: InferenceRequest, attempts: RetryPolicy) -> bool:
        """Have the model described; that may have as many attempts as an answer. Returns False if nothing describes it, and
        nothing has to. Raises Fault.
        """
        while True:
            if not self._readiness.ready:
                await self._until_ready(request.deadline)
            try:
                await self._client.describe(inference_request.model)
            except Fault as fault:
                if fault.code is Code.NOT_FOUND and inference_request.inputs:
                    return False  # tensors mean the same at a server that describes nothing
                raise
            except (Unavailable, Busy, Failed) as error:
                await self._wait_after(error, attempts, request)
            else:
                return True

    async def _infer(
        self, request: Request, inference_request: InferenceRequest, chunks: ChunkWriter | None, *, alone: bool
    ) -> bytes:
        queue_ms = max(0.0, (time.time() - request.written) * 1000) if request.written is not None else None
        if not self._readiness.ready:
            await self._until_ready(request.deadline)
        on_chunk = None if chunks is None else chunks.write
        return await self._client.infer(
            inference_request, queue_ms=queue_ms, alone=alone, retried=True, on_chunk=on_chunk
        )

    async def _until_ready(self, deadline: float | None) -> None:
        try:
            async with asyncio.timeout(_until(deadline)):
                await self._readiness.wait()
        except TimeoutError:
            raise Fault(Code.DEADLINE_EXCEEDED, "the deadline passed while the model was not ready") from None

    async def _wait_after(self, error: Unavailable | Busy | Failed, attempts: RetryPolicy, request: Request) -> None:
        self._metrics.attempts.labels(error.reason).inc()
        self._readiness.on_error(error)
        doubt = isinstance(error, Unavailable) and not error.down
        step, seconds = attempts.next(error, ready=doubt and await self._readiness.confirmed())
        if step == "give_up":
            raise attempts.terminal_error(error)
        if step == "wait_ready":
            return
        remaining = _until(request.deadline)
        if remaining is not None and remaining <= seconds:
            raise Fault(Code.DEADLINE_EXCEEDED, f"the deadline passed before another attempt: {error}")
        await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        if self._closed:
            task.cancel()
        self._waiting.add(task)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting.discard(task)

    def is_waiting(self, work: object) -> bool:
        """Return whether a task only waits for its next attempt."""
        return work in self._waiting

    def close(self) -> None:
        """Make no further attempt: cancel tasks that wait for one, and those that would."""
        self._closed = True
        for task in self._waiting.copy():
            task.cancel()


def _until(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.time())
