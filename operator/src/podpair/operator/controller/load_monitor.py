"""The load of every resource's gateways, scraped from their pods: for status, and for autoscalers.

Every operator scrapes, whether it leads or not: an autoscaler's request may come to any of them.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from podpair.operator.controller.gateway_store import GatewayStore
from podpair.operator.core.api.scalars import OPERATIONS_PORT
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.core.kafka_state import KafkaState
from podpair.operator.core.load import LoadState
from podpair.operator.kube.informer import Informers, Key
from podpair.operator.kube.kinds import POD
from podpair.operator.scraping.scraper import Scraper

_log = logging.getLogger(__name__)


class LoadMonitor:
    """The load of all resources' pods; `run` it."""

    def __init__(
        self,
        scraper: Scraper,
        gateways: GatewayStore,
        informers: Informers,
        kafka: Callable[[Key], KafkaState | None],
        seconds: float,
        on_change: Callable[[Key], None],
    ) -> None:
        self._scraper = scraper
        self._gateways = gateways
        self._informers = informers
        self._kafka = kafka
        self._seconds = seconds
        self._on_change = on_change
        self._values: dict[Key, MetricValues] = {}

    def state(self, key: Key) -> LoadState:
        """Return the load that the resource's conditions are computed from."""
        return LoadState(self._values.get(key, MetricValues()).sessions, self._scraper.without_latency(key))

    async def values(self, namespace: str, name: str, metric: str) -> MetricValues | None:
        """Return what is known of a resource, for a request for `metric`; None: there is no such resource."""
        key = namespace, name
        manifest = self._gateways.get(key)
        if manifest is None:
            return None
        amqp = (manifest.get("spec") or {}).get("amqp")
        source = amqp.get("source", "both") if isinstance(amqp, dict) else None
        return self._values.get(key, MetricValues()).with_lag(self._lag(key, manifest), source)

    def _lag(self, key: Key, manifest: Manifest) -> int | None:
        """Return the lag. An operator that does not lead asks no broker: it reads what the leader wrote to the status."""
        seen = self._kafka(key)
        if seen is not None:
            return seen.lag
        lag = (manifest.get("status") or {}).get("lag")
        return lag if isinstance(lag, int) else None

    async def run(self) -> None:
        """Ask again and again, all resources at once."""
        try:
            while True:
                for key in self._values.keys() - set(self._gateways.all_keys()):
                    del self._values[key]
                    self._scraper.forget(key)
                try:
                    async with asyncio.TaskGroup() as group:
                        for key in self._gateways.all_keys():
                            group.create_task(self._scrape(key))
                except* Exception:  # an error with one resource must not end the loop for all
                    _log.exception("pods could not be scraped")
                await asyncio.sleep(self._seconds)
        finally:
            await self._scraper.close()

    async def _scrape(self, key: Key) -> None:
        pods = addresses(self._informers.list(POD, *key))
        before = self.state(key)
        self._values[key] = await self._scraper.scrape(key, pods) if pods else MetricValues()
        if self.state(key) != before:
            self._on_change(key)


def addresses(pods: list[Manifest]) -> Mapping[str, str]:
    """Return the operations URLs of ready pods, by the pod's name."""
    return {
        pod["metadata"]["name"]: f"http://{_host(pod['status']['podIP'])}:{OPERATIONS_PORT}"
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and pod.get("status", {}).get("podIP")
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or [])
    }


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
