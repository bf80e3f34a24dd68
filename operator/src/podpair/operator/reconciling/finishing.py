"""The end of a resource. Its objects go with it, by their owner references; only topics need more, where they are to go too.

A finalizer is there only while `kafka.deletionPolicy` is Delete, and never holds a resource for ever: a broker that can't be
reached is asked again for a while, then its topics are left, and an event says so. Only what this resource created or adopted
is deleted. The Secret with the broker's password may go first: a copy of it stays until the end.
"""

import datetime as dt
import logging
from typing import NamedTuple

from podpair.operator.core.credentials import FINALIZER, Credentials, CredentialsRefused, MissingSecret
from podpair.operator.core.events import Event
from podpair.operator.core.objects.naming import Manifest
from podpair.operator.core.ownership import Forgotten, remembered
from podpair.operator.core.problems import Problem
from podpair.operator.core.resource.igw import InferenceGateway, Metadata
from podpair.operator.core.topics import wanted_topics
from podpair.operator.kube.caches import Key
from podpair.operator.kube.client import Client
from podpair.operator.kube.events import EventPoster
from podpair.operator.kube.kinds import AUTOSCALER, DEPLOYMENT, GATEWAY, POD, SCALED_OBJECT
from podpair.operator.logs import about
from podpair.operator.reconciling.applying import Applier
from podpair.operator.reconciling.brokers import Brokers
from podpair.operator.reconciling.credential_copy import CredentialCopies
from podpair.operator.reconciling.surroundings import SurroundingsReader

_log = logging.getLogger(__name__)
GIVE_UP_SECONDS = 600.0
_AGAIN_SECONDS = 10.0


class _NotUnderstood(NamedTuple):
    metadata: Metadata


class Finisher:
    """Sees resources out."""

    def __init__(
        self,
        client: Client,
        applier: Applier,
        brokers: Brokers,
        reader: SurroundingsReader,
        copies: CredentialCopies,
        events: EventPoster,
    ) -> None:
        self._client = client
        self._applier = applier
        self._brokers = brokers
        self._reader = reader
        self._copies = copies
        self._events = events

    async def guard(self, gateway: InferenceGateway, manifest: Manifest) -> Manifest | None:
        """Put the finalizer where it is needed, take it from where it isn't; the resource as it is then, None: unchanged.

        Raises ApiError, NotLeading.
        """
        needed = gateway.spec.kafka.deletion_policy == "Delete"
        if needed == (FINALIZER in _finalizers(manifest)):
            return None
        return await (self._add if needed else self._take_off)(manifest)

    async def store(self, gateway: InferenceGateway, credentials: Credentials | MissingSecret) -> list[Problem]:
        """Keep the broker's credentials as far as the end will need them; what hindered that. Raises ApiError, NotLeading."""
        accepted = isinstance(credentials, Credentials) and self._brokers.accepted(_key(gateway)) == credentials
        return await self._copies.store(gateway, credentials, accepted=accepted)

    async def gone(self, key: Key) -> None:
        """A resource is gone: what was kept for its end goes, too. Raises ApiError, NotLeading."""
        await self._copies.remove(key)

    async def finish(self, gateway: InferenceGateway, manifest: Manifest) -> float | None:
        """One step of the way out; returns in how many seconds the next one is due, None: there is none.

        Raises ApiError, NotLeading.
        """
        if FINALIZER not in _finalizers(manifest):
            return None
        key = gateway.metadata.namespace, gateway.metadata.name
        self._brokers.stop(key)
        if gateway.spec.kafka.deletion_policy == "Delete":
            done = await self._forget(gateway, manifest)
            if isinstance(done, str) and _age(manifest) < GIVE_UP_SECONDS:
                await self._events.post(gateway, [Event("Warning", "TopicsNotDeleted", done)])
                return _AGAIN_SECONDS
            await self._events.post(gateway, _told(gateway, manifest, done))
        await self._copies.remove(key)
        await self._take_off(manifest)
        return None

    async def let_go(self, manifest: Manifest) -> None:
        """A resource that isn't understood goes, too; which topics are its own can't be told, so they stay.

        Raises ApiError, NotLeading.
        """
        if FINALIZER in _finalizers(manifest):
            left = _NotUnderstood(Metadata.model_validate(manifest["metadata"]))
            message = "this operator can't read the resource: its topics, if it has any, are left as they are"
            await self._events.post(left, [Event("Warning", "TopicsLeft", message)])
            await self._copies.remove((left.metadata.namespace, left.metadata.name))
            await self._take_off(manifest)

    async def _forget(self, gateway: InferenceGateway, manifest: Manifest) -> Forgotten | str:
        """Delete what is this resource's at the broker; why it is still there, as a string."""
        # The pods first: a group whose members live can't go, and they would ask for their topics again.
        await self._applier.remove(gateway, (AUTOSCALER, SCALED_OBJECT, DEPLOYMENT))
        if self._applier.live(POD, gateway):
            return "topics are deleted when the last pod has stopped"
        advice = "it is tried again for 10 minutes; kafka.deletionPolicy: Retain lets go at once"
        current, copied = await self._reader.credentials(gateway), self._copies.read(gateway)
        why = str(current)
        if isinstance(current, CredentialsRefused):
            copied = None  # what may not be shown to the broker isn't shown at the end either
        for credentials in dict.fromkeys((current, copied)):
            if not isinstance(credentials, Credentials):
                continue
            try:
                return await self._brokers.forget(gateway, credentials, remembered(manifest.get("status") or {}))
            except Exception as error:  # whatever the broker's client says: it is told, and tried again
                _log.warning("topics could not be deleted: %s", error, extra=about(*_key(gateway)))
                # What the credentials that the resource names now are answered tells more than what old ones are.
                why = why if credentials is copied and isinstance(current, Credentials) else str(error)
        return f"topics can't be deleted yet: {why}; {advice}"

    async def _add(self, manifest: Manifest) -> Manifest:
        return await self._set(manifest, [*_finalizers(manifest), FINALIZER])

    async def _take_off(self, manifest: Manifest) -> Manifest:
        return await self._set(manifest, [one for one in _finalizers(manifest) if one != FINALIZER])

    async def _set(self, manifest: Manifest, finalizers: list[str]) -> Manifest:
        metadata = manifest["metadata"]
        # With the version, so that what another wrote meanwhile is not lost: a conflict is tried again.
        change = {"metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}}
        return await self._client.merge(GATEWAY.path(metadata["namespace"], metadata["name"]), change)


def _told(gateway: InferenceGateway, manifest: Manifest, done: Forgotten | str) -> list[Event]:
    """What became of the topics."""
    if isinstance(done, str):
        known = [one.name for one in remembered(manifest.get("status") or {}).topics if one.origin.owned]
        topics = ", ".join(known or [topic.name for topic in wanted_topics(gateway)])
        return [Event("Warning", "TopicsLeft", f"gave up, and left topics {topics}: {done}")]
    told = []
    if done.topics:
        told.append(Event("Normal", "TopicsDeleted", f"deleted topics {', '.join(done.topics)}"))
    if done.left:
        told.append(Event("Normal", "TopicsLeft", f"left {', '.join(done.left)}"))
    return told


def _finalizers(manifest: Manifest) -> list[str]:
    return list(manifest["metadata"].get("finalizers") or [])


def _age(manifest: Manifest) -> float:
    """Seconds since it was to be deleted."""
    since = dt.datetime.fromisoformat(manifest["metadata"]["deletionTimestamp"])
    return (dt.datetime.now(dt.UTC) - since).total_seconds()


def _key(gateway: InferenceGateway) -> tuple[str, str]:
    return gateway.metadata.namespace, gateway.metadata.name
