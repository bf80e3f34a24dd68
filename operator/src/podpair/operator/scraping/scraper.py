"""Scrapes the gateways of a resource for their load, concurrently and within bounds.

A pod that doesn't answer in time delays nothing: it counts as the window says. A pod's owner decides what it answers, so
everything is bounded: one pod's answer in time and bytes, one resource's pods in connections and time, all pods
in connections. Pods that answered last time have connections of their own, and one that didn't is asked less often.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp

from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.core.load import PodLoad, Window
from podpair.operator.scraping.metrics_parser import read_load

_log = logging.getLogger(__name__)


class ScrapeLimits(NamedTuple):
    """The bounds of scraping."""

    pod_seconds: float = 3.0
    """One pod's answer, from the connection on."""
    pod_bytes: int = 2 << 20
    """One pod's answer."""
    resource_seconds: float = 10.0
    """All pods of a resource, with the wait for connections; those that are not through by then are unknown."""
    resource_connections: int = 8
    """Connections to pods of one resource that didn't answer last time."""
    connections: int = 32
    """Connections to all pods that answered last time, and half as many to all others."""
    skipped: int = 4
    """Rounds in which a pod that doesn't answer is left out, at most."""


@dataclass
class _Pods:
    """What is known of one resource's pods."""

    window: Window = field(default_factory=Window)
    round: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """Times after one another that a pod gave no answer; 0: it did."""
    due: dict[str, int] = field(default_factory=dict)
    """The round in which a pod is scraped next."""


class Scraper:
    """The load of all resources' pods. Used on one event loop; `close` it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, limits: ScrapeLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or ScrapeLimits()
        self._resources: dict[tuple[str, str], _Pods] = {}
        self._session: aiohttp.ClientSession | None = None
        self._good = asyncio.Semaphore(self._limits.connections)
        self._others = asyncio.Semaphore(max(1, self._limits.connections // 2))

    async def scrape(self, key: tuple[str, str], pods: Mapping[str, str]) -> MetricValues:
        """Scrape the pods of a resource (namespace, name), and return what is known of them; lag isn't.

        `pods` are the ready ones: name → URL, such as http://10.0.0.7:8083. Raises nothing.
        """
        known = self._resources.setdefault(key, _Pods())
        known.round += 1
        known.failures = {name: known.failures.get(name, 0) for name in pods if name in known.failures}
        known.due = {name: known.due[name] for name in pods if name in known.due}
        some = asyncio.Semaphore(self._limits.resource_connections)
        due = [name for name in pods if known.due.get(name, 0) <= known.round]
        asking = {
            name: asyncio.create_task(self._scrape_pod(pods[name], some, good=known.failures.get(name) == 0))
            for name in due
        }
        found: dict[str, PodLoad | None] = dict.fromkeys(pods)
        if asking:
            try:
                await asyncio.wait(asking.values(), timeout=self._limits.resource_seconds)
            finally:
                for task in asking.values():
                    task.cancel()
            for name, task in asking.items():
                found[name] = task.result() if task.done() and not task.cancelled() else None
                failures = known.failures.get(name, 0) + 1 if found[name] is None else 0
                known.failures[name] = failures
                known.due[name] = known.round + max(1, min(failures, self._limits.skipped + 1))
        now = self._clock()
        known.window.add(now, found)
        return known.window.values(now)

    def loads(self, key: tuple[str, str]) -> dict[str, PodLoad]:
        """Return what each pod of a resource exported last, by its name; pods that haven't answered lately are left out."""
        known = self._resources.get(key)
        return known.window.loads(self._clock()) if known is not None else {}

    def without_latency(self, key: tuple[str, str]) -> bool:
        """Return whether there is a pod whose model has never exported its latency."""
        known = self._resources.get(key)
        return known is not None and known.window.without_latency

    def forget(self, key: tuple[str, str]) -> None:
        """Drop what is known of a resource that is gone."""
        self._resources.pop(key, None)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Pods come and go: nothing is gained by connections that stay. How many there are is said here already.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            # What is compressed can be a thousand times as long as what comes.
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, headers={"Accept-Encoding": "identity"}
            )
        return self._session

    async def _scrape_pod(self, url: str, some: asyncio.Semaphore, *, good: bool) -> PodLoad | None:
        async with self._connection(some, good):
            timeout = aiohttp.ClientTimeout(total=self._limits.pod_seconds)
            try:
                async with self._opened().get(f"{url}/metrics", timeout=timeout, allow_redirects=False) as response:
                    response.raise_for_status()
                    body = bytearray()
                    async for chunk in response.content.iter_any():
                        body += chunk
                        if len(body) > self._limits.pod_bytes:
                            raise ValueError(f"more than {self._limits.pod_bytes} bytes of metrics")
                # Not on the loop: the pod's owner decides how long that takes.
                return await asyncio.to_thread(read_load, body.decode())
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                _log.debug("%s exports no load: %s", url, error or type(error).__name__)
                return None

    @asynccontextmanager
    async def _connection(self, some: asyncio.Semaphore, good: bool) -> AsyncIterator[None]:
        if good:
            async with self._good:
                yield
        else:
            async with some, self._others:
                yield
