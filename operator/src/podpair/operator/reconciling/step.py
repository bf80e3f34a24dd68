"""The reconcile step: look at one resource and everything round it, make what differs as it should be, say what is seen.

It is always the same step, whatever the cause, and it can be cut off anywhere: what it finds next time is all it needs.
"""

import contextlib
import datetime as dt
import logging
from collections.abc import Callable

import aiohttp
from pydantic import ValidationError

from podpair.operator.core import conditions
from podpair.operator.core.conditions import Seen
from podpair.operator.core.desired import desired
from podpair.operator.core.events import Event, of_changes, of_status
from podpair.operator.core.external_api_state import ExternalApiSeen
from podpair.operator.core.load import LoadSeen
from podpair.operator.core.objects.naming import Manifest
from podpair.operator.core.ownership import remembered
from podpair.operator.core.problems import Problem
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.kube.caches import Key
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.events import EventPoster
from podpair.operator.kube.kinds import AUTOSCALER, DEPLOYMENT, GATEWAY, POD, REPLICA_SET, SCALED_OBJECT
from podpair.operator.logs import about
from podpair.operator.reconciling.applying import Applier, fault
from podpair.operator.reconciling.brokers import Brokers
from podpair.operator.reconciling.finishing import Finisher
from podpair.operator.reconciling.gateways import Gateways
from podpair.operator.reconciling.surroundings import SurroundingsReader

_log = logging.getLogger(__name__)
PAUSED = "podpair.dev/paused"
_LASTING = 4  # failures after one another
_MENDING_SECONDS = 10.0  # until what can't be watched, such as a permission, is tried again


class Step:
    """Reconciles one resource at a time; workers share it."""

    def __init__(
        self,
        client: Client,
        gateways: Gateways,
        applier: Applier,
        reader: SurroundingsReader,
        brokers: Brokers,
        load: Callable[[Key], LoadSeen],
        external: Callable[[], ExternalApiSeen],
        finisher: Finisher,
        events: EventPoster,
    ) -> None:
        self._client = client
        self._gateways = gateways
        self._applier = applier
        self._reader = reader
        self._brokers = brokers
        self._load = load
        self._external = external
        self._finisher = finisher
        self._events = events
        self._uids: dict[Key, str] = {}
        self._failed: dict[Key, int] = {}  # times, one after the other, that the API server gave no answer

    async def reconcile(self, key: Key) -> float | None:
        """One look at a resource; returns in how many seconds the next one is due, None: when something changes.

        Raises ApiError, NotLeading.
        """
        manifest = self._gateways.get(key)
        if manifest is None or self._uids.get(key, manifest["metadata"]["uid"]) != manifest["metadata"]["uid"]:
            await self._forget(key)
        if manifest is None:
            return None
        self._uids[key] = manifest["metadata"]["uid"]
        try:
            gateway = InferenceGateway.model_validate({**manifest, "status": None})
        except ValidationError as error:
            if "deletionTimestamp" in manifest["metadata"]:
                self._brokers.stop(key)
                await self._finisher.let_go(manifest)
            else:
                await self._not_understood(manifest, error)
            return None
        if "deletionTimestamp" in manifest["metadata"]:
            return await self._finisher.finish(gateway, manifest)
        if manifest["metadata"].get("annotations", {}).get(PAUSED) == "true":
            await self._look(key, gateway, manifest)
            return None
        try:
            again = await self._keep(key, gateway, manifest)
        except ApiError as error:
            await self._tell_of(error, key, gateway, manifest)
            raise
        self._failed.pop(key, None)
        return again

    async def _look(self, key: Key, gateway: InferenceGateway, manifest: Manifest) -> None:
        """Paused: see, and write nothing but what is seen."""
        self._brokers.stop(key)
        await self._report(gateway, manifest, self._seen(key, gateway, [], paused=True), [])

    async def _keep(self, key: Key, gateway: InferenceGateway, manifest: Manifest) -> float | None:
        faults: list[Problem] = []
        try:
            guarded = await self._finisher.guard(gateway, manifest)
        except ApiError as error:
            guarded, faults = None, [fault(error, f"{GATEWAY.kind} {gateway.metadata.name}")]
        if guarded is not None:
            self._gateways.take(guarded)
            manifest = guarded
        around = await self._reader.read(gateway)
        # Before any topic is created: without it they could not be deleted once the Secret is gone.
        faults += await self._finisher.store(gateway, around.credentials)
        self._brokers.keep(key, gateway, around.credentials, remembered(manifest.get("status") or {}))
        if around.forbidden:
            # What was written while it was allowed stays as it is.
            await self._report(
                gateway, manifest, self._seen(key, gateway, [*around.forbidden, *around.faults, *faults]), []
            )
            return None
        outcome = await self._applier.bring(gateway, desired(gateway, around.surroundings))
        kafka = [Event("Normal", "TopicsChanged", one) for one in self._brokers.take_changes(key)]
        faults += outcome.faults
        seen = self._seen(key, gateway, [*around.faults, *faults])
        await self._report(gateway, manifest, seen, [*of_changes(outcome.changes), *kafka])
        return _MENDING_SECONDS if faults else None

    async def _tell_of(self, error: ApiError, key: Key, gateway: InferenceGateway, manifest: Manifest) -> None:
        """The API server gives no answer: once is nothing, but what lasts stands in the status, if that can be written."""
        self._failed[key] = self._failed.get(key, 0) + 1
        if self._failed[key] < _LASTING:
            return
        told = Problem(
            "ApiServerFailing", f"the API server does not take what is to be written: {error}; it is tried again"
        )
        with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError):
            await self._report(gateway, manifest, self._seen(key, gateway, [told]), [])

    def _seen(self, key: Key, gateway: InferenceGateway, faults: list[Problem], *, paused: bool = False) -> Seen:
        name = gateway.metadata.name
        deployments = self._applier.live(DEPLOYMENT, gateway)
        by = SCALED_OBJECT if gateway.spec.scaling.provider == "keda" else AUTOSCALER
        scalers = self._applier.live(by, gateway)
        return Seen(
            deployment=next((one for one in deployments if one["metadata"]["name"] == name), None),
            replica_sets=self._applier.live(REPLICA_SET, gateway),
            pods=self._applier.live(POD, gateway),
            autoscaler=next((one for one in scalers if one["metadata"]["name"] == name), None),
            faults=faults,
            kafka=self._brokers.seen(key),
            external=self._external(),
            load=self._load(key),
            paused=paused,
        )

    async def _report(self, gateway: InferenceGateway, manifest: Manifest, seen: Seen, happened: list[Event]) -> None:
        """Write the status where it has changed, and post what happened."""
        before = manifest.get("status") or {}
        after = conditions.status(gateway, seen, before, _now())
        if after != before:
            happened = [*happened, *of_status(before, after, seen.deployment)]
            await self._write(manifest, after)
        await self._events.post(gateway, happened)

    async def _not_understood(self, manifest: Manifest, error: ValidationError) -> None:
        """The API server took it by the CRD of another version."""
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        before = manifest.get("status") or {}
        after = conditions.not_understood(faults, manifest["metadata"].get("generation"), before, _now())
        if after != before:
            _log.error("not understood: %s", faults, extra=about(*_key(manifest)))
            await self._write(manifest, after)

    async def _write(self, manifest: Manifest, status: Manifest) -> None:
        namespace, name = _key(manifest)
        said = {
            "apiVersion": GATEWAY.api_version,
            "kind": GATEWAY.kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        try:
            self._gateways.take(await self._client.apply(GATEWAY.path(namespace, name, part="status"), said))
        except ApiError as error:
            if error.status != 404:  # it has gone meanwhile
                raise

    async def _forget(self, key: Key) -> None:
        uid = self._uids.pop(key, None)
        self._failed.pop(key, None)
        self._brokers.leave(key)
        await self._finisher.gone(key)
        self._applier.forget(*key)
        self._events.forget(uid or "")
        await self._reader.forget(key, uid)


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(manifest: Manifest) -> Key:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]
