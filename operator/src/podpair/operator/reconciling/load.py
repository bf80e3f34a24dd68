"""What the gateways of every resource tell of their load: for status, and for autoscalers.

Every operator asks, whether it leads or not: an autoscaler's question may come to any of them.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from podpair.operator.core.kafka_state import KafkaSeen
from podpair.operator.core.load import LoadSeen
from podpair.operator.core.measures import Measures
from podpair.operator.core.objects.naming import Manifest
from podpair.operator.core.resource.kinds import OPERATIONS_PORT
from podpair.operator.kube.caches import Caches, Key
from podpair.operator.kube.kinds import POD
from podpair.operator.reconciling.gateways import Gateways
from podpair.operator.scraping.scraper import Scraper

_log = logging.getLogger(__name__)


class Load:
    """The load of all resources' pods; `run` it."""

    def __init__(
        self,
        scraper: Scraper,
        gateways: Gateways,
        caches: Caches,
        kafka: Callable[[Key], KafkaSeen | None],
        seconds: float,
        on_change: Callable[[Key], None],
    ) -> None:
        self._scraper = scraper
        self._gateways = gateways
        self._caches = caches
        self._kafka = kafka
        self._seconds = seconds
        self._on_change = on_change
        self._measures: dict[Key, Measures] = {}

    def seen(self, key: Key) -> LoadSeen:
        """What the resource's conditions go by."""
        return LoadSeen(self._measures.get(key, Measures()).sessions, self._scraper.without_latency(key))

    async def source(self, namespace: str, name: str, metric: str) -> Measures | None:
        """What is known of a resource, for whoever asks for `metric`; None: there is no such resource."""
        key = namespace, name
        manifest = self._gateways.get(key)
        if manifest is None:
            return None
        return replace(self._measures.get(key, Measures()), lag=self._lag(key, manifest))

    def _lag(self, key: Key, manifest: Manifest) -> int | None:
        """An operator that does not lead asks no broker: it knows what the one that leads has written."""
        seen = self._kafka(key)
        if seen is not None:
            return seen.lag
        lag = (manifest.get("status") or {}).get("lag")
        return lag if isinstance(lag, int) else None

    async def run(self) -> None:
        """Ask again and again, all resources at once."""
        try:
            while True:
                for key in self._measures.keys() - set(self._gateways.all()):
                    del self._measures[key]
                    self._scraper.forget(key)
                try:
                    async with asyncio.TaskGroup() as group:
                        for key in self._gateways.all():
                            group.create_task(self._ask(key))
                except* Exception:  # one resource's trouble must not end what looks after all of them
                    _log.exception("load could not be asked for")
                await asyncio.sleep(self._seconds)
        finally:
            await self._scraper.close()

    async def _ask(self, key: Key) -> None:
        pods = addresses(self._caches.of(POD, *key))
        before = self.seen(key)
        self._measures[key] = await self._scraper.measure(key, pods) if pods else Measures()
        if self.seen(key) != before:
            self._on_change(key)


def addresses(pods: list[Manifest]) -> Mapping[str, str]:
    """Where the gateways of ready pods tell of themselves, by the pod's name."""
    return {
        pod["metadata"]["name"]: f"http://{_host(pod['status']['podIP'])}:{OPERATIONS_PORT}"
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and pod.get("status", {}).get("podIP")
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or [])
    }


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
