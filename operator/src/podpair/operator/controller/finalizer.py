"""Finalizes a deleted resource. Its objects go with it, by their owner references; only topics that are to go need more.

A finalizer is there only while `kafka.deletionPolicy` is Delete, and never holds a resource for ever: a broker that can't be
reached is retried for a while, then its topics are left, and an event says so. Only what this resource created or adopted
is deleted. The Secret with the broker's password may go first: a copy of it stays until the end.
"""

import datetime as dt
import logging
from typing import NamedTuple

from podpair.operator.controller.applier import Applier
from podpair.operator.controller.credential_copy import CredentialCopies
from podpair.operator.controller.dependencies import DependencyResolver
from podpair.operator.controller.topic_supervisor import TopicSupervisor
from podpair.operator.core.api.igw import InferenceGateway, Metadata
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.credentials import FINALIZER, Credentials, CredentialsRefused, MissingSecret
from podpair.operator.core.events import Event
from podpair.operator.core.ownership import DeletionResult, recorded_ownership
from podpair.operator.core.pod_diagnosis import Problem
from podpair.operator.core.wanted_topics import wanted_topics
from podpair.operator.kube.client import Client
from podpair.operator.kube.events import EventPoster
from podpair.operator.kube.informer import Key
from podpair.operator.kube.kinds import AUTOSCALER, DEPLOYMENT, GATEWAY, POD, SCALED_OBJECT
from podpair.operator.logs import about

_log = logging.getLogger(__name__)
GIVE_UP_SECONDS = 600.0
_AGAIN_SECONDS = 10.0


class _InvalidGateway(NamedTuple):
    metadata: Metadata


class Finalizer:
    """Runs the finalizer of deleted resources."""

    def __init__(
        self,
        client: Client,
        applier: Applier,
        supervisor: TopicSupervisor,
        resolver: DependencyResolver,
        copies: CredentialCopies,
        events: EventPoster,
    ) -> None:
        self._client = client
        self._applier = applier
        self._supervisor = supervisor
        self._resolver = resolver
        self._copies = copies
        self._events = events

    async def ensure(self, gateway: InferenceGateway, manifest: Manifest) -> Manifest | None:
        """Add the finalizer if it is needed, else remove it; returns the resource as it is then, None: unchanged.

        Raises ApiError, NotLeading.
        """
        needed = gateway.spec.kafka.deletion_policy == "Delete"
        if needed == (FINALIZER in _finalizers(manifest)):
            return None
        return await (self._add if needed else self._remove)(manifest)

    async def store_credentials(
        self, gateway: InferenceGateway, credentials: Credentials | MissingSecret
    ) -> list[Problem]:
        """Keep the broker's credentials if the deletion needs them; returns what prevented it. Raises ApiError, NotLeading."""
        accepted = (
            isinstance(credentials, Credentials) and self._supervisor.accepted_credentials(_key(gateway)) == credentials
        )
        return await self._copies.store(gateway, credentials, accepted=accepted)

    async def forget(self, key: Key) -> None:
        """Delete what was kept for the end of a resource that is gone. Raises ApiError, NotLeading."""
        await self._copies.remove(key)

    async def finalize(self, gateway: InferenceGateway, manifest: Manifest) -> float | None:
        """Do one step of the deletion; returns in how many seconds the next one is due, None: there is none.

        Raises ApiError, NotLeading.
        """
        if FINALIZER not in _finalizers(manifest):
            return None
        key = gateway.metadata.namespace, gateway.metadata.name
        self._supervisor.stop(key)
        if gateway.spec.kafka.deletion_policy == "Delete":
            done = await self._delete_topics(gateway, manifest)
            if isinstance(done, str) and _age(manifest) < GIVE_UP_SECONDS:
                await self._events.post(gateway, [Event("Warning", "TopicsNotDeleted", done)])
                return _AGAIN_SECONDS
            await self._events.post(gateway, _events_of(gateway, manifest, done))
        await self._copies.remove(key)
        await self._remove(manifest)
        return None

    async def release_invalid(self, manifest: Manifest) -> None:
        """Remove the finalizer from a resource that can't be read; its topics aren't known, so they stay.

        Raises ApiError, NotLeading.
        """
        if FINALIZER in _finalizers(manifest):
            left = _InvalidGateway(Metadata.model_validate(manifest["metadata"]))
            message = "this operator can't read the resource: its topics, if it has any, are left as they are"
            await self._events.post(left, [Event("Warning", "TopicsLeft", message)])
            await self._copies.remove((left.metadata.namespace, left.metadata.name))
            await self._remove(manifest)

    async def _delete_topics(self, gateway: InferenceGateway, manifest: Manifest) -> DeletionResult | str:
        """Delete this resource's topics and group; returns the reason, as a string, if they are still there."""
        # The pods first: a group with members can't be deleted, and they would ask for their topics again.
        await self._applier.remove(gateway, (AUTOSCALER, SCALED_OBJECT, DEPLOYMENT))
        if self._applier.current(POD, gateway):
            return "topics are deleted when the last pod has stopped"
        advice = (
            "it is retried for 10 minutes; kafka.deletionPolicy: Retain keeps the topics and ends the deletion at once"
        )
        current, copied = await self._resolver.credentials(gateway), self._copies.read(gateway)
        why = str(current)
        if isinstance(current, CredentialsRefused):
            copied = None  # credentials that may not be shown to the broker aren't shown at the end either
        for credentials in dict.fromkeys((current, copied)):
            if not isinstance(credentials, Credentials):
                continue
            try:
                return await self._supervisor.delete_topics(
                    gateway, credentials, recorded_ownership(manifest.get("status") or {})
                )
            except Exception as error:  # whatever the broker's client raises: it is reported, and retried
                _log.warning("topics could not be deleted: %s", error, extra=about(*_key(gateway)))
                # The answer to the resource's current credentials says more than the answer to old ones.
                why = why if credentials is copied and isinstance(current, Credentials) else str(error)
        return f"topics can't be deleted yet: {why}; {advice}"

    async def _add(self, manifest: Manifest) -> Manifest:
        return await self._set(manifest, [*_finalizers(manifest), FINALIZER])

    async def _remove(self, manifest: Manifest) -> Manifest:
        return await self._set(manifest, [one for one in _finalizers(manifest) if one != FINALIZER])

    async def _set(self, manifest: Manifest, finalizers: list[str]) -> Manifest:
        metadata = manifest["metadata"]
        # With the version, so that another's write in between is not lost: a conflict is retried.
        change = {"metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}}
        return await self._client.merge(GATEWAY.path(metadata["namespace"], metadata["name"]), change)


def _events_of(gateway: InferenceGateway, manifest: Manifest, done: DeletionResult | str) -> list[Event]:
    """Return the events that say what happened to the topics."""
    if isinstance(done, str):
        known = [one.name for one in recorded_ownership(manifest.get("status") or {}).topics if one.origin.owned]
        topics = ", ".join(known or [topic.name for topic in wanted_topics(gateway)])
        return [Event("Warning", "TopicsLeft", f"gave up, and left topics {topics}: {done}")]
    events = []
    if done.topics:
        events.append(Event("Normal", "TopicsDeleted", f"deleted topics {', '.join(done.topics)}"))
    if done.left:
        events.append(Event("Normal", "TopicsLeft", f"left {', '.join(done.left)}"))
    return events


def _finalizers(manifest: Manifest) -> list[str]:
    return list(manifest["metadata"].get("finalizers") or [])


def _age(manifest: Manifest) -> float:
    """Return the seconds since its deletion was requested."""
    since = dt.datetime.fromisoformat(manifest["metadata"]["deletionTimestamp"])
    return (dt.datetime.now(dt.UTC) - since).total_seconds()


def _key(gateway: InferenceGateway) -> tuple[str, str]:
    return gateway.metadata.namespace, gateway.metadata.name
