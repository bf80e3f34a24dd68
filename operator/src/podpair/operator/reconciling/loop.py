"""The workers: they take resources from the queue while this operator leads, and put back what failed.

A busy API server is given the time that it asks for; a conflict is looked at anew; nothing is tried in step with others.
"""

import asyncio
import logging
import time

import aiohttp

from podpair.operator.kube.caches import Key
from podpair.operator.kube.client import ApiError, NotLeading
from podpair.operator.logs import about
from podpair.operator.metrics import CONTROLLER, Metrics
from podpair.operator.reconciling.queue import WorkQueue
from podpair.operator.reconciling.step import Step

_log = logging.getLogger(__name__)
_LONGEST = 120.0  # seconds of one step; beyond it something hangs, and others wait


class Loop:
    """Works off the queue; `lead` lets it begin and stops it."""

    def __init__(self, queue: WorkQueue, step: Step, metrics: Metrics, workers: int) -> None:
        self._queue = queue
        self._step = step
        self._metrics = metrics
        self._workers = workers
        self._leading = asyncio.Event()
        metrics.most.labels(CONTROLLER).set(workers)
        metrics.active.labels(CONTROLLER).set(0)

    def lead(self, leading: bool) -> None:
        """Begin, or stop: what is under way ends at the fence."""
        (self._leading.set if leading else self._leading.clear)()

    async def run(self) -> None:
        """Work, for good."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"worker {number}")

    async def _work(self) -> None:
        while True:
            await self._leading.wait()
            key = await self._queue.get()
            try:
                if self._leading.is_set():
                    await self._one(key)
            finally:
                self._queue.done(key)

    async def _one(self, key: Key) -> None:
        began = time.monotonic()
        self._metrics.active.labels(CONTROLLER).inc()
        try:
            async with asyncio.timeout(_LONGEST):
                again = await self._step.reconcile(key)
            self._queue.succeeded(key)
            if again is not None:
                self._queue.add_after(key, again)
            result = "success" if again is None else "requeue_after"
        except NotLeading:
            result = "success"  # whoever leads now looks at it
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
            result = "error"
            seconds = self._queue.failed(key, getattr(error, "retry_after", None) or 0.0)
            faster = isinstance(error, ApiError) and error.status == 409  # another was: it is looked at anew
            text = "the API server: %s; again in %.1f s"
            level = logging.DEBUG if faster else logging.WARNING
            _log.log(level, text, error or type(error).__name__, seconds, extra=about(*key))
        except Exception:  # a resource that we stumble over must not keep others waiting
            result = "error"
            seconds = self._queue.failed(key)
            _log.exception("reconciling failed; again in %.1f s", seconds, extra=about(*key))
        finally:
            self._metrics.active.labels(CONTROLLER).dec()
        self._metrics.reconcile_seconds.labels(CONTROLLER).observe(time.monotonic() - began)
        self._metrics.reconciled.labels(CONTROLLER, result).inc()
        if result == "error":
            self._metrics.reconcile_errors.labels(CONTROLLER).inc()
