"""Reconciles a resource: reads it and what it depends on, applies what differs, and reports what was observed in its status.

Reconciling is level-triggered: the same whatever the cause, and interruptible anywhere, since it starts from what it finds.
"""

import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from podpair.operator.controller.applier import problem_from_error
from podpair.operator.controller.dependencies import Cluster, DependencyResolver
from podpair.operator.controller.finalizer import Finalizer
from podpair.operator.controller.gateway_store import GatewayStore
from podpair.operator.controller.topic_supervisor import TopicSupervisor
from podpair.operator.core import conditions
from podpair.operator.core.api.igw import PAUSED, InferenceGateway
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.conditions import Observed
from podpair.operator.core.config_faults import Place, config_faults
from podpair.operator.core.desired import desired
from podpair.operator.core.events import Event, change_events, status_events
from podpair.operator.core.external_api_state import ExternalApiState
from podpair.operator.core.load import LoadState
from podpair.operator.core.ownership import recorded_ownership
from podpair.operator.core.pod_diagnosis import Problem
from podpair.operator.kube.client import ApiError
from podpair.operator.kube.events import EventPoster
from podpair.operator.kube.informer import Key
from podpair.operator.kube.kinds import AUTOSCALER, DEPLOYMENT, GATEWAY, POD, REPLICA_SET, SCALED_OBJECT
from podpair.operator.logs import about

_log = logging.getLogger(__name__)
_LASTING_FAILURES = 4  # in a row
_RETRY_SECONDS = 10.0  # until a fault that can't be watched, such as a permission, is retried


@dataclass(frozen=True, slots=True)
class Reporting:
    """What a status tells besides the objects, and who posts its events."""

    load: Callable[[Key], LoadState]
    external: Callable[[], ExternalApiState]
    events: EventPoster


class Reconciler:
    """Reconciles one resource per call; workers share it."""

    def __init__(
        self,
        cluster: Cluster,
        gateways: GatewayStore,
        resolver: DependencyResolver,
        supervisor: TopicSupervisor,
        finalizer: Finalizer,
        reporting: Reporting,
    ) -> None:
        self._client = cluster.client
        self._gateways = gateways
        self._applier = cluster.applier
        self._resolver = resolver
        self._supervisor = supervisor
        self._load = reporting.load
        self._external = reporting.external
        self._finalizer = finalizer
        self._events = reporting.events
        self._uids: dict[Key, str] = {}
        self._failed: dict[Key, int] = {}  # failures of the API server in a row

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile one resource once; returns in how many seconds it is due again, None: when something changes.

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
                self._supervisor.stop(key)
                await self._finalizer.release_invalid(manifest)
            else:
                await self._report_invalid(manifest, ((one["loc"], one["msg"]) for one in error.errors()))
            return None
        if "deletionTimestamp" in manifest["metadata"]:
            return await self._finalizer.finalize(gateway, manifest)
        if manifest["metadata"].get("annotations", {}).get(PAUSED) == "true":
            await self._observe_paused(key, gateway, manifest)
            return None
        if refused := list(config_faults(gateway)):
            await self._report_invalid(manifest, refused)
            return None
        try:
            again = await self._apply(key, gateway, manifest)
        except ApiError as error:
            await self._report_api_failure(error, key, gateway, manifest)
            raise
        self._failed.pop(key, None)
        return again

    async def _observe_paused(self, key: Key, gateway: InferenceGateway, manifest: Manifest) -> None:
        """Write nothing but the status of a paused resource."""
        self._supervisor.stop(key)
        await self._report(gateway, manifest, self._observe(key, gateway, [], paused=True), [])

    async def _apply(self, key: Key, gateway: InferenceGateway, manifest: Manifest) -> float | None:
        faults: list[Problem] = []
        try:
            guarded = await self._finalizer.ensure(gateway, manifest)
        except ApiError as error:
            guarded, faults = None, [problem_from_error(error, f"{GATEWAY.kind} {gateway.metadata.name}")]
        if guarded is not None:
            self._gateways.update(guarded)
            manifest = guarded
        found = await self._resolver.resolve(gateway)
        # Before any topic is created: without it they could not be deleted once the Secret is gone.
        faults += await self._finalizer.store_credentials(gateway, found.credentials)
        self._supervisor.supervise(key, gateway, found.credentials, recorded_ownership(manifest.get("status") or {}))
        if found.forbidden:
            # What was written while it was allowed stays as it is.
            await self._report(
                gateway, manifest, self._observe(key, gateway, [*found.forbidden, *found.faults, *faults]), []
            )
            return None
        outcome = await self._applier.apply_all(gateway, desired(gateway, found.dependencies))
        kafka = [Event("Normal", "TopicsChanged", one) for one in self._supervisor.drain_changes(key)]
        faults += outcome.faults
        seen = self._observe(key, gateway, [*found.faults, *faults])
        await self._report(gateway, manifest, seen, [*change_events(outcome.changes), *kafka])
        return _RETRY_SECONDS if faults else None

    async def _report_api_failure(
        self, error: ApiError, key: Key, gateway: InferenceGateway, manifest: Manifest
    ) -> None:
        """Put an API server that keeps failing into the status, if that can be written; a single failure is ignored."""
        self._failed[key] = self._failed.get(key, 0) + 1
        if self._failed[key] < _LASTING_FAILURES:
            return
        problem = Problem("ApiServerFailing", f"the API server fails to write: {error}; it is tried again")
        with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError):
            await self._report(gateway, manifest, self._observe(key, gateway, [problem]), [])

    def _observe(self, key: Key, gateway: InferenceGateway, faults: list[Problem], *, paused: bool = False) -> Observed:
        name = gateway.metadata.name
        deployments = self._applier.current(DEPLOYMENT, gateway)
        by = SCALED_OBJECT if gateway.spec.scaling.provider == "keda" else AUTOSCALER
        scalers = self._applier.current(by, gateway)
        return Observed(
            deployment=next((one for one in deployments if one["metadata"]["name"] == name), None),
            replica_sets=self._applier.current(REPLICA_SET, gateway),
            pods=self._applier.current(POD, gateway),
            autoscaler=next((one for one in scalers if one["metadata"]["name"] == name), None),
            faults=faults,
            kafka=self._supervisor.state(key),
            external=self._external(),
            load=self._load(key),
            paused=paused,
        )

    async def _report(
        self, gateway: InferenceGateway, manifest: Manifest, seen: Observed, happened: list[Event]
    ) -> None:
        """Write the status if it has changed, and post what happened."""
        before = manifest.get("status") or {}
        after = conditions.status(gateway, seen, before, _now())
        if after != before:
            happened = [*happened, *status_events(before, after, seen.deployment)]
            await self._write(manifest, after)
        await self._events.post(gateway, happened)

    async def _report_invalid(self, manifest: Manifest, found: Iterable[tuple[Place, str]]) -> None:
        """Report a resource that this version can't read, or whose gateway would refuse its configuration: the API server
        accepted it by the CRD of another version, or by one that lets too much pass.
        """
        faults = "; ".join(f"{'.'.join(map(str, place))}: {message}" for place, message in found)
        before = manifest.get("status") or {}
        after = conditions.invalid_spec(faults, manifest["metadata"].get("generation"), before, _now())
        if after != before:
            _log.error("invalid spec: %s", faults, extra=about(*_key(manifest)))
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
            self._gateways.update(await self._client.apply(GATEWAY.path(namespace, name, subresource="status"), said))
        except ApiError as error:
            if error.status != 404:  # it is gone
                raise

    async def _forget(self, key: Key) -> None:
        uid = self._uids.pop(key, None)
        self._failed.pop(key, None)
        self._supervisor.release(key)
        await self._finalizer.forget(key)
        self._applier.forget(*key)
        self._events.forget(uid or "")
        await self._resolver.forget(key, uid)


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(manifest: Manifest) -> Key:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]
