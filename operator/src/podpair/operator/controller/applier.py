"""Applies a resource's objects: writes those that differ, deletes those that are no longer wanted, touches nothing else.

`replicas` is never written while an autoscaler decides, and when one takes over, the number of pods stays as it is.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.drift import DIGEST, applied_by, changed_by, in_sync, owns_replicas, project, with_hash
from podpair.operator.core.events import Change
from podpair.operator.core.manifest_loader import path_of
from podpair.operator.core.pod_diagnosis import Problem
from podpair.operator.kube.client import FIELD_MANAGER, ApiError, Client
from podpair.operator.kube.informer import Informers
from podpair.operator.kube.kinds import (
    AUTOSCALER,
    DEPLOYMENT,
    GATEWAY,
    SCALED_OBJECT,
    WATCHED,
    Resource,
    resource_of,
)
from podpair.operator.kube.pod_schema import pod_faults
from podpair.operator.logs import about
from podpair.operator.metrics import Metrics

_log = logging.getLogger(__name__)
_HANDOVER = f"{FIELD_MANAGER}-handover"
_ObjectKey = tuple[str, str, str]  # kind, namespace, name
_ADVICE = {
    "HTTPRoute": "install the Gateway API, or use network.ingress",
    "ScaledObject": "install KEDA, or set scaling.provider: hpa",
    "TriggerAuthentication": "install KEDA, or set scaling.provider: hpa",
}
_NOT_GRANTED = re.compile(r"User \".*\" cannot ")
_MOST_FAULTS = 3  # of a pod that are listed beside the API server's message


@dataclass
class ApplyOutcome:
    """What was done, and what could not be."""

    changes: list[Change] = field(default_factory=list)
    faults: list[Problem] = field(default_factory=list)


class Applier:
    """Writes the objects of all resources."""

    def __init__(self, client: Client, informers: Informers, metrics: Metrics) -> None:
        self._client = client
        self._informers = informers
        self._written_total = metrics.applied
        self._applied: dict[_ObjectKey, tuple[str, Any]] = {}  # digest, and what the server made of it
        self._written: dict[_ObjectKey, Manifest] = {}  # until the watch shows it

    def observe(self, one: Manifest) -> None:
        """Note that a watch showed an object: what was written before it is outdated."""
        place = _place(one)
        written = self._written.get(place)
        if written is not None and _version(one) >= _version(written):
            del self._written[place]

    def current(self, resource: Resource, gateway: InferenceGateway) -> list[Manifest]:
        """Return the objects of a kind as they are, including what was written but not yet watched."""
        metadata = gateway.metadata
        found = {_place(one): one for one in self._informers.list(resource, metadata.namespace, metadata.name)}
        kind = resource.kind, metadata.namespace
        found |= {place: one for place, one in self._written.items() if place[:2] == kind and _owned(one, gateway)}
        return list(found.values())

    async def apply_all(self, gateway: InferenceGateway, wanted: Sequence[Manifest]) -> ApplyOutcome:
        """Apply `wanted`, and delete owned objects not in it. Raises ApiError if the server is busy or fails, NotLeading."""
        outcome = ApplyOutcome()
        places = {_place(one) for one in wanted}
        # An autoscaler that is no longer wanted goes first: it would overwrite the number that is applied next.
        await self._remove(gateway, places, (AUTOSCALER, SCALED_OBJECT), outcome)
        for manifest in wanted:
            await self.apply_one(gateway, manifest, outcome)
        if not outcome.faults:
            rest = tuple(one for one in WATCHED if one.owned)
            await self._remove(gateway, places, rest, outcome)
        return outcome

    async def remove(self, gateway: InferenceGateway, resources: Sequence[Resource]) -> ApplyOutcome:
        """Delete the resource's own objects of these kinds."""
        outcome = ApplyOutcome()
        await self._remove(gateway, set(), resources, outcome)
        return outcome

    def forget(self, namespace: str, name: str) -> None:
        """Drop what is known of a resource that is gone."""
        for places in (self._applied, self._written):
            for place in [one for one in places if one[1] == namespace and _belongs(one[2], name)]:
                places.pop(place)

    async def apply_one(self, gateway: InferenceGateway, manifest: Manifest, outcome: ApplyOutcome) -> None:
        resource, place = resource_of(manifest), _place(manifest)
        named = f"{place[0]} {place[2]}"
        if resource.optional and not self._informers.is_served(resource):
            advice = _ADVICE.get(resource.kind, "install its CRD")
            outcome.faults.append(Problem("CRDNotInstalled", f"the cluster does not know {resource.kind}: {advice}"))
            return
        wanted = with_hash(manifest)
        try:
            live = await self._find(resource, place, gateway)
            if live is not None and not (_owned(live, gateway) or applied_by(live, FIELD_MANAGER)):
                message = f"there is a {named} that is not this resource's: rename one of the two"
                outcome.faults.append(Problem("NameConflict", message))
                return
            if live is not None and in_sync(live, wanted, self._applied_projection(place, wanted)):
                return
            if live is not None and not _owned(live, gateway) and await self._is_being_deleted(gateway):
                return
            if live is not None and resource == DEPLOYMENT and "replicas" not in wanted["spec"]:
                live = await self._hand_over_replicas(live)
            made = await self._apply(resource, wanted, live)
        except ApiError as error:
            self._written_total.labels(place[0], "refused").inc()
            problem = problem_from_error(error, named)
            outcome.faults.append(_with_advice(problem, gateway, resource))
            return
        change = _change(named, live, wanted, was_there=place in self._applied)
        self._applied[place] = _digest(wanted), project(made, wanted)
        self._written[place] = made
        if live is None or _version(made) != _version(live):
            outcome.changes.append(change)
            self._written_total.labels(place[0], change.verb).inc()

    async def _apply(self, resource: Resource, wanted: Manifest, live: Manifest | None) -> Manifest:
        """Apply an object. What others have added to a list stays, unless it makes the whole invalid: then it is replaced.

        Only the version that was read is changed: an object orphaned in the meantime must not get its owner back.
        """
        path = resource.path(wanted["metadata"]["namespace"], wanted["metadata"]["name"])
        try:
            return await self._client.apply(path, _with_resource_version(wanted, live))
        except ApiError as error:
            if live is None or error.reason != "Invalid" or "spec" not in wanted:
                raise
        changed = await self._client.merge(path, _with_resource_version({"spec": wanted["spec"]}, live))
        return await self._client.apply(path, _with_resource_version(wanted, changed))

    async def _is_being_deleted(self, gateway: InferenceGateway) -> bool:
        """Return whether the API server has the resource as deleted, or being deleted.

        With `--cascade=orphan` its objects lose their owner before a watch may show why: if they were owned again they would be
        deleted with it.
        """
        now = await self._client.get(GATEWAY.path(gateway.metadata.namespace, gateway.metadata.name))
        return now is None or now["metadata"]["uid"] != gateway.metadata.uid or "deletionTimestamp" in now["metadata"]

    async def _find(self, resource: Resource, place: _ObjectKey, gateway: InferenceGateway) -> Manifest | None:
        """Return the object as it is. One that no watch shows may still exist: without podpair's label, or not podpair's."""
        live = next((one for one in self.current(resource, gateway) if _place(one) == place), None)
        return live if live is not None else await self._client.get(resource.path(place[1], place[2]))

    def _applied_projection(self, place: _ObjectKey, wanted: Manifest) -> Any:
        digest, kept = self._applied.get(place, ("", None))
        return kept if digest == _digest(wanted) else None

    async def _hand_over_replicas(self, live: Manifest) -> Manifest:
        """Let another field manager own the current number of pods: else the server would reset it to 1 once ours doesn't.

        Returns the object as it is then.
        """
        if owns_replicas(live, FIELD_MANAGER):
            metadata = {name: live["metadata"][name] for name in ("name", "namespace")}
            stays = {
                "apiVersion": live["apiVersion"],
                "kind": live["kind"],
                "metadata": metadata,
                "spec": {"replicas": live["spec"]["replicas"]},
            }
            path = DEPLOYMENT.path(metadata["namespace"], metadata["name"])
            return await self._client.apply(path, _with_resource_version(stays, live), manager=_HANDOVER)
        return live

    async def _remove(
        self, gateway: InferenceGateway, wanted: set[_ObjectKey], resources: Sequence[Resource], outcome: ApplyOutcome
    ) -> None:
        for resource in resources:
            for one in self.current(resource, gateway):
                place = _place(one)
                if place in wanted or not _owned(one, gateway) or "deletionTimestamp" in one["metadata"]:
                    continue
                try:
                    await self._client.delete(resource, one)
                except ApiError as error:
                    outcome.faults.append(problem_from_error(error, f"{place[0]} {place[2]}"))
                    continue
                self._applied.pop(place, None)
                self._written.pop(place, None)
                outcome.changes.append(Change("removed", f"{place[0]} {place[2]}"))
                self._written_total.labels(place[0], "removed").inc()
                _log.info("removed %s", place[0], extra=about(place[1], gateway.metadata.name))


def _change(named: str, live: Manifest | None, wanted: Manifest, *, was_there: bool) -> Change:
    if live is None and was_there:
        return Change("remade", named)
    if live is None or not applied_by(live, FIELD_MANAGER):
        return Change("made", named)
    if (live["metadata"].get("annotations") or {}).get(DIGEST) == _digest(wanted):
        return Change("restored", named, changed_by(live, FIELD_MANAGER))
    return Change("changed", named)


def problem_from_error(error: ApiError, named: str) -> Problem:
    """Translate the server's refusal into a problem. Raises it again if it is temporary."""
    if error.passing:
        raise error
    said = str(error)
    if "exceeded quota" in said:
        return Problem("QuotaExceeded", f"{named} can't be made: {said}: raise the quota")
    if "is being terminated" in said:
        return Problem("NamespaceTerminating", f"{named} can't be made: {said}")
    if "failed calling webhook" in said:
        return Problem("WebhookFailed", f"{named} can't be written: {said}: fix that webhook")
    if error.status == 401 or (error.status == 403 and _NOT_GRANTED.search(said)):
        return Problem("NotPermitted", f"the operator may not write {named}: {said}: grant it (chart podpair-operator)")
    return Problem("Refused", f"the API server refuses {named}: {said}")


def _with_advice(problem: Problem, gateway: InferenceGateway, resource: Resource) -> Problem:
    if resource == DEPLOYMENT:
        return _with_field_faults(problem, gateway)
    if resource == AUTOSCALER and problem.reason == "Refused" and gateway.spec.scaling.min == 0:
        advice = "turn on its feature gate HPAScaleToZero, set scaling.provider: keda, or scaling.min: 1"
        return problem._replace(message=f"{problem.message}: {advice}")
    return problem


def _with_field_faults(problem: Problem, gateway: InferenceGateway) -> Problem:
    """Add the fields of the resource that the problem is about, as far as they can be found."""
    if problem.reason != "Refused":
        return problem
    found = [f"{path_of(one.place)}: {one.message}" for one in pod_faults(gateway)]
    return problem._replace(message="; ".join([problem.message, *found[:_MOST_FAULTS]]))


def _with_resource_version(change: Manifest, live: Manifest | None) -> Manifest:
    """Pin the change to the object's version: the server refuses it (Conflict) if another write came first."""
    if live is None:
        return change
    metadata = {**change.get("metadata", {}), "resourceVersion": live["metadata"]["resourceVersion"]}
    return {**change, "metadata": metadata}


def _owned(one: Manifest, gateway: InferenceGateway) -> bool:
    owners = one["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == gateway.metadata.uid for owner in owners)


def _belongs(object_name: str, gateway_name: str) -> bool:
    return object_name == gateway_name or object_name in {
        f"{gateway_name}-{suffix}" for suffix in ("gateway", "models", "resume", "kafka", "dashboard")
    }


def _digest(wanted: Mapping[str, Any]) -> str:
    return str(wanted["metadata"]["annotations"][DIGEST])


def _place(one: Mapping[str, Any]) -> _ObjectKey:
    return one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]


def _version(one: Manifest) -> int:
    """Return etcd's revision: it grows, and may be compared within one kind."""
    return int(one["metadata"].get("resourceVersion") or 0)
