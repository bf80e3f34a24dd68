"""The queue of resources to look at. A resource is in it once however often it is added, and is worked on by one at a time."""

import asyncio
import random
import time

from podpair.operator.kube.caches import Key
from podpair.operator.metrics import CONTROLLER, Metrics

_FIRST = 0.2  # seconds until a failed one is tried again, doubled each time up to
_MOST = 60.0
_JITTER = 0.25


class WorkQueue:
    """Keys that wait; `get` gives one out, which stays out until `done`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: dict[Key, float] = {}  # since when
        self._out: dict[Key, float] = {}
        self._again: set[Key] = set()  # added while they were out
        self._later: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}

    def add(self, key: Key) -> None:
        """As soon as a worker is free."""
        if handle := self._later.pop(key, None):
            handle.cancel()
        if key in self._out:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._metrics.adds.labels(CONTROLLER).inc()
            self._metrics.depth.labels(CONTROLLER).set(len(self._waiting))
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """In `seconds`, unless it is looked at before."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if key in self._waiting or key in self._again:
            return
        if handle := self._later.get(key):
            if handle.when() <= due:
                return
            handle.cancel()
        self._later[key] = loop.call_at(due, self._due, key)

    def _due(self, key: Key) -> None:
        self._later.pop(key, None)
        self.add(key)

    def failed(self, key: Key, at_least: float = 0.0) -> float:
        """Again later, and later each time; returns in how many seconds. `at_least` is what the server asked for."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        seconds: float = max(min(_FIRST * 2 ** (failures - 1), _MOST), at_least)
        seconds *= 1 + random.uniform(0, _JITTER)  # noqa: S311 - spreads load, guards nothing
        self._metrics.retries.labels(CONTROLLER).inc()
        self.add_after(key, seconds)
        return seconds

    def succeeded(self, key: Key) -> None:
        """The next failure is the first again."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next one."""
        key = await self._ready.get()
        now = time.monotonic()
        self._metrics.waited.labels(CONTROLLER).observe(now - self._waiting.pop(key))
        self._metrics.depth.labels(CONTROLLER).set(len(self._waiting))
        self._out[key] = now
        return key

    def done(self, key: Key) -> None:
        """It may be given out again."""
        self._metrics.worked.labels(CONTROLLER).observe(time.monotonic() - self._out.pop(key))
        if key in self._again:
            self._again.discard(key)
            self.add(key)
