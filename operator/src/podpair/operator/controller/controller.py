"""The controller's workers: they reconcile resources from the queue while this operator leads, and requeue failures.

A busy API server gets the time that it asks for (Retry-After); a conflict is reconciled anew; retries have jitter.
"""

import asyncio
import logging
import time

import aiohttp

from podpair.operator.controller.reconciler import Reconciler
from podpair.operator.controller.workqueue import WorkQueue
from podpair.operator.kube.client import ApiError, NotLeading
from podpair.operator.kube.informer import Key
from podpair.operator.logs import about
from podpair.operator.metrics import CONTROLLER, Metrics

_log = logging.getLogger(__name__)
_RECONCILE_TIMEOUT = 120.0  # seconds; a reconciliation that takes longer hangs, and others wait for it


class Controller:
    """Runs the workers; `set_leading` starts and stops them."""

    def __init__(self, queue: WorkQueue, reconciler: Reconciler, metrics: Metrics, workers: int) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._metrics = metrics
        self._workers = workers
        self._leading = asyncio.Event()
        metrics.most.labels(CONTROLLER).set(workers)
        metrics.active.labels(CONTROLLER).set(0)

    def set_leading(self, leading: bool) -> None:
        """Begin, or stop: what is under way ends at the fence."""
        (self._leading.set if leading else self._leading.clear)()

    async def run(self) -> None:
        """Work, for good."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._run_worker(), name=f"worker {number}")

    async def _run_worker(self) -> None:
        while True:
            await self._leading.wait()
            key = await self._queue.get()
            try:
                if self._leading.is_set():
                    await self._reconcile_one(key)
            finally:
                self._queue.done(key)

    async def _reconcile_one(self, key: Key) -> None:
        began = time.monotonic()
        self._metrics.active.labels(CONTROLLER).inc()
        try:
            async with asyncio.timeout(_RECONCILE_TIMEOUT):
                again = await self._reconciler.reconcile(key)
            self._queue.forget(key)
            if again is not None:
                self._queue.add_after(key, again)
            result = "success" if again is None else "requeue_after"
        except NotLeading:
            result = "success"  # the new leader reconciles it
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
            result = "error"
            seconds = self._queue.add_rate_limited(key, getattr(error, "retry_after", None) or 0.0)
            faster = isinstance(error, ApiError) and error.status == 409  # another write came first: reconciled anew
            text = "the API server: %s; again in %.1f s"
            level = logging.DEBUG if faster else logging.WARNING
            _log.log(level, text, error or type(error).__name__, seconds, extra=about(*key))
        except Exception:  # a resource that raises must not keep others waiting
            result = "error"
            seconds = self._queue.add_rate_limited(key)
            _log.exception("reconciling failed; again in %.1f s", seconds, extra=about(*key))
        finally:
            self._metrics.active.labels(CONTROLLER).dec()
        self._metrics.reconcile_seconds.labels(CONTROLLER).observe(time.monotonic() - began)
        self._metrics.reconciled.labels(CONTROLLER, result).inc()
        if result == "error":
            self._metrics.reconcile_errors.labels(CONTROLLER).inc()
