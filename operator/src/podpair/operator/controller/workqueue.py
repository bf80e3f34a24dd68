"""The work queue, as client-go's: a key is in it once however often it is added, and one worker at a time processes it."""

import asyncio
import random
import time

from podpair.operator.kube.informer import Key
from podpair.operator.metrics import CONTROLLER, Metrics

_FIRST = 0.2  # seconds until the first retry, doubled each time up to
_MOST = 60.0
_JITTER = 0.25


class WorkQueue:
    """Keys that wait; `get` gives one out, which is being processed until `done`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: dict[Key, float] = {}  # since when
        self._processing: dict[Key, float] = {}
        self._dirty: set[Key] = set()  # added while they were being processed
        self._delayed: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}

    def add(self, key: Key) -> None:
        """Queue a key for the next free worker."""
        if handle := self._delayed.pop(key, None):
            handle.cancel()
        if key in self._processing:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._metrics.adds.labels(CONTROLLER).inc()
            self._metrics.depth.labels(CONTROLLER).set(len(self._waiting))
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Queue a key in `seconds`, unless it is queued before."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if key in self._waiting or key in self._dirty:
            return
        if handle := self._delayed.get(key):
            if handle.when() <= due:
                return
            handle.cancel()
        self._delayed[key] = loop.call_at(due, self._due, key)

    def _due(self, key: Key) -> None:
        self._delayed.pop(key, None)
        self.add(key)

    def add_rate_limited(self, key: Key, at_least: float = 0.0) -> float:
        """Queue a key after a growing back-off; returns its seconds. `at_least`: what the server asked for."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        seconds: float = max(min(_FIRST * 2 ** (failures - 1), _MOST), at_least)
        seconds *= 1 + random.uniform(0, _JITTER)  # noqa: S311 - spreads load, guards nothing
        self._metrics.retries.labels(CONTROLLER).inc()
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        """Reset the key's back-off."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """Return the next key."""
        key = await self._ready.get()
        now = time.monotonic()
        self._metrics.waited.labels(CONTROLLER).observe(now - self._waiting.pop(key))
        self._metrics.depth.labels(CONTROLLER).set(len(self._waiting))
        self._processing[key] = now
        return key

    def done(self, key: Key) -> None:
        """Release a key: it may be given out again."""
        self._metrics.worked.labels(CONTROLLER).observe(time.monotonic() - self._processing.pop(key))
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)
