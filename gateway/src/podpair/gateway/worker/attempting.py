"""Asks the model for one queued request, again where that may help, until there is an answer or it is given up.

Invariant: a model that is not there costs no attempt, and one that is busy so much time at most; what it may have died of, or
has refused as busy, is asked alone. Nobody waits at shutdown, or with a partition, for a request that only waits for its next
attempt.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import cast

from podpair.gateway.config.model import Requests
from podpair.gateway.core.attempts import Attempts, Busy, Failed, Unavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.questions import Question
from podpair.gateway.core.records import Request
from podpair.gateway.metrics import Metrics
from podpair.gateway.upstream.asking import Asking
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.worker.parts import PartWriter


class Attempting:
    """Attempts at queued requests, as `requests.attempts`, `backoff_seconds` and `crashes` bound them."""

    def __init__(self, config: Requests, asking: Asking, readiness: Readiness, metrics: Metrics) -> None:
        self._config = config
        self._asking = asking
        self._readiness = readiness
        self._metrics = metrics
        self._closed = False
        self._waiting: set[asyncio.Task[None]] = set()  # those that only wait for their next attempt
        self._suspects = asyncio.Lock()  # one at a time: the one that the model dies of next is the one that had it

    def begin(self) -> Attempts:
        """None has been made yet."""
        config = self._config
        return Attempts(config.attempts, config.backoff_seconds, config.crashes, config.busy_seconds)

    async def answer(
        self,
        request: Request,
        question: Question,
        parts: PartWriter | None,
        attempts: Attempts,
        failed: Exception | None = None,
    ) -> bytes:
        """The answer's body; `failed`: the model was asked already, and that came of it. Raises Fault, the terminal error."""
        if failed is not None:
            if not isinstance(failed, Unavailable | Busy | Failed):
                raise failed
            await self._wait_after(failed, attempts, request)
        while True:
            try:
                if attempts.suspect:
                    async with self._suspects:
                        body = await self._ask(request, question, parts, alone=True)
                else:
                    body = await self._ask(request, question, parts, alone=attempts.refused > 0)
            except (Unavailable, Busy, Failed) as error:
                await self._wait_after(error, attempts, request)
            else:
                if parts is not None:
                    await parts.settled()
                return body

    async def _ask(self, request: Request, question: Question, parts: PartWriter | None, *, alone: bool) -> bytes:
        queue_ms = max(0.0, (time.time() - request.written) * 1000) if request.written is not None else None
        if not self._readiness.ready:
            await self._until_ready(request.deadline)
        on_part = None if parts is None else parts.part
        return await self._asking.ask(question, queue_ms=queue_ms, alone=alone, retried=True, on_part=on_part)

    async def _until_ready(self, deadline: float | None) -> None:
        try:
            async with asyncio.timeout(_until(deadline)):
                await self._readiness.wait()
        except TimeoutError:
            raise Fault(Code.DEADLINE_EXCEEDED, "the deadline passed while the model was not ready") from None

    async def _wait_after(self, error: Unavailable | Busy | Failed, attempts: Attempts, request: Request) -> None:
        self._metrics.attempts.labels(error.reason).inc()
        self._readiness.after(error)
        doubt = isinstance(error, Unavailable) and not error.down
        step, seconds = attempts.after(error, ready=doubt and await self._readiness.confirmed())
        if step == "give_up":
            raise attempts.verdict(error)
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

    def let_go(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Cancel those of the tasks that only wait for their next attempt: another gateway makes it."""
        for task in self._waiting.intersection(tasks):
            task.cancel()

    def close(self) -> None:
        """Wait for no further attempt."""
        self._closed = True
        self.let_go(self._waiting.copy())


def _until(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.time())
