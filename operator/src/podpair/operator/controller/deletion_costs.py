"""Keeps the deletion costs of pods, so that a resource that is scaled down loses its emptiest pods.

Only the operator that leads writes. A resource whose template sets costs of its own keeps them, a paused one and one that is
being deleted are left alone.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

import aiohttp

from podpair.operator.controller.gateway_store import GatewayStore
from podpair.operator.core.api.igw import PAUSED
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.deletion_cost import ANNOTATION, changed_costs, read_cost
from podpair.operator.core.load import PodLoad
from podpair.operator.kube.client import ApiError, Client, NotLeading
from podpair.operator.kube.informer import Informers, Key
from podpair.operator.kube.kinds import POD
from podpair.operator.logs import about
from podpair.operator.metrics import Metrics

_log = logging.getLogger(__name__)


class DeletionCosts:
    """The annotations of all resources' pods; `run` it."""

    def __init__(
        self,
        client: Client,
        gateways: GatewayStore,
        informers: Informers,
        loads: Callable[[Key], Mapping[str, PodLoad]],
        seconds: float,
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._gateways = gateways
        self._informers = informers
        self._loads = loads
        self._seconds = seconds
        self._written_total = metrics.applied
        self._failing: dict[Key, str] = {}  # resources whose last write was refused, and how

    async def run(self) -> None:
        """Compare again and again. No error ends it."""
        while True:
            keys = self._gateways.all_keys()
            self._failing = {key: why for key, why in self._failing.items() if key in keys}
            for key in keys:
                try:
                    await self._update(key)
                except NotLeading:
                    break
                except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                    self._report(key, str(error) or type(error).__name__)
            await asyncio.sleep(self._seconds)

    async def _update(self, key: Key) -> None:
        gateway = self._gateways.get(key)
        if gateway is None or not _wants_costs(gateway):
            return
        pods = {
            one["metadata"]["name"]: one["metadata"]
            for one in self._informers.list(POD, *key)
            if "deletionTimestamp" not in one["metadata"]
        }
        loads = {name: load for name, load in self._loads(key).items() if name in pods}
        before = {name: read_cost(metadata.get("annotations") or {}) for name, metadata in pods.items()}
        for name, cost in changed_costs(loads, before).items():
            # With its uid: a pod that was made under this name since is another.
            change = {"metadata": {"uid": pods[name]["uid"], "annotations": {ANNOTATION: str(cost)}}}
            try:
                await self._client.merge(POD.path(key[0], name), change)
            except ApiError as error:
                if error.status not in (404, 409) and not _is_replaced(error):
                    raise
            else:
                self._written_total.labels(POD.kind, "changed").inc()
                self._failing.pop(key, None)

    def _report(self, key: Key, why: str) -> None:
        self._written_total.labels(POD.kind, "refused").inc()
        if self._failing.get(key) != why:
            self._failing[key] = why
            _log.warning("deletion costs of pods can't be written: %s", why, extra=about(*key))


def _is_replaced(error: ApiError) -> bool:
    """Return whether the pod has another uid now: a patch that names the former one is Invalid, and no Conflict."""
    return error.status == 422 and "metadata.uid" in str(error)


def _wants_costs(gateway: Manifest) -> bool:
    metadata = gateway["metadata"]
    if "deletionTimestamp" in metadata or (metadata.get("annotations") or {}).get(PAUSED) == "true":
        return False
    below: object = gateway.get("spec")
    for name in ("inference", "podTemplate", "metadata", "annotations"):
        below = below.get(name) if isinstance(below, Mapping) else None
    return not (isinstance(below, Mapping) and ANNOTATION in below)
