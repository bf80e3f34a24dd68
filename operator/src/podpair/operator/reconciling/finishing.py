"""The end of a resource. Its objects go with it, by their owner references; only topics need more, where they are to go too.

A finalizer is there only while `kafka.deletionPolicy` is Delete, and never holds a resource for ever: a broker that can't be
reached is asked again for a while, then its topics are left, and an event says so.
"""

import datetime as dt
import logging
from typing import NamedTuple

from podpair.operator.core.credentials import MissingSecret
from podpair.operator.core.events import Event
from podpair.operator.core.objects.naming import Manifest, requests_topic, results_topic
from podpair.operator.core.resource.igw import InferenceGateway, Metadata
from podpair.operator.kube.client import Client
from podpair.operator.kube.events import EventPoster
from podpair.operator.kube.kinds import AUTOSCALER, DEPLOYMENT, GATEWAY, POD, SCALED_OBJECT
from podpair.operator.logs import about
from podpair.operator.reconciling.applying import Applier
from podpair.operator.reconciling.brokers import Brokers
from podpair.operator.reconciling.surroundings import SurroundingsReader

_log = logging.getLogger(__name__)
FINALIZER = "podpair.dev/topics"
GIVE_UP_SECONDS = 600.0
_AGAIN_SECONDS = 10.0


class _NotUnderstood(NamedTuple):
    metadata: Metadata


class Finisher:
    """Sees resources out."""

    def __init__(
        self, client: Client, applier: Applier, brokers: Brokers, reader: SurroundingsReader, events: EventPoster
    ) -> None:
        self._client = client
        self._applier = applier
        self._brokers = brokers
        self._reader = reader
        self._events = events

    async def guard(self, gateway: InferenceGateway, manifest: Manifest) -> Manifest | None:
        """Put the finalizer where it is needed, take it from where it isn't; the resource as it is then, None: unchanged.

        Raises ApiError, NotLeading.
        """
        needed = gateway.spec.kafka.deletion_policy == "Delete"
        if needed == (FINALIZER in _finalizers(manifest)):
            return None
        return await (self._add if needed else self._take_off)(manifest)

    async def finish(self, gateway: InferenceGateway, manifest: Manifest) -> float | None:
        """One step of the way out; returns in how many seconds the next one is due, None: there is none.

        Raises ApiError, NotLeading.
        """
        if FINALIZER not in _finalizers(manifest):
            return None
        key = gateway.metadata.namespace, gateway.metadata.name
        self._brokers.stop(key)
        if gateway.spec.kafka.deletion_policy == "Delete":
            trouble = await self._forget(gateway)
            if trouble is not None and _age(manifest) < GIVE_UP_SECONDS:
                await self._events.post(gateway, [Event("Warning", "TopicsNotDeleted", trouble).cut()])
                return _AGAIN_SECONDS
            topics = f"{requests_topic(gateway)}, {results_topic(gateway)}"
            if trouble is None:
                told = Event("Normal", "TopicsDeleted", f"deleted topics {topics}")
            else:
                told = Event("Warning", "TopicsLeft", f"gave up, and left topics {topics}: {trouble}").cut()
            await self._events.post(gateway, [told])
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
            await self._take_off(manifest)

    async def _forget(self, gateway: InferenceGateway) -> str | None:
        """Delete the topics; None where they are gone, else why they aren't."""
        # The pods first: a group whose members live can't go, and they would ask for their topics again.
        await self._applier.remove(gateway, (AUTOSCALER, SCALED_OBJECT, DEPLOYMENT))
        if pods := self._applier.live(POD, gateway):
            return f"topics are deleted when the last of {len(pods)} pods has stopped"
        advice = "it is tried again for 10 minutes; kafka.deletionPolicy: Retain lets go at once"
        credentials = await self._reader.credentials(gateway)
        if isinstance(credentials, MissingSecret):
            return f"topics can't be deleted yet: {credentials}; {advice}"
        try:
            await self._brokers.forget(gateway, credentials)
        except Exception as error:  # whatever the broker's client says: it is told, and tried again
            _log.warning("topics could not be deleted: %s", error, extra=about(*_key(gateway)))
            return f"topics can't be deleted yet: {error}; {advice}"
        return None

    async def _add(self, manifest: Manifest) -> Manifest:
        return await self._set(manifest, [*_finalizers(manifest), FINALIZER])

    async def _take_off(self, manifest: Manifest) -> Manifest:
        return await self._set(manifest, [one for one in _finalizers(manifest) if one != FINALIZER])

    async def _set(self, manifest: Manifest, finalizers: list[str]) -> Manifest:
        metadata = manifest["metadata"]
        # With the version, so that what another wrote meanwhile is not lost: a conflict is tried again.
        change = {"metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}}
        return await self._client.merge(GATEWAY.path(metadata["namespace"], metadata["name"]), change)


def _finalizers(manifest: Manifest) -> list[str]:
    return list(manifest["metadata"].get("finalizers") or [])


def _age(manifest: Manifest) -> float:
    """Seconds since it was to be deleted."""
    since = dt.datetime.fromisoformat(manifest["metadata"]["deletionTimestamp"])
    return (dt.datetime.now(dt.UTC) - since).total_seconds()


def _key(gateway: InferenceGateway) -> tuple[str, str]:
    return gateway.metadata.namespace, gateway.metadata.name
