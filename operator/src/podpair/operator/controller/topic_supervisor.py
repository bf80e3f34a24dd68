"""Supervises the topics of every resource, and keeps what was last found of each.

A broker that is slow or gone must not delay anything else, so each resource has a task of its own that polls its broker; the
reconciler reads what that task found last.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.credentials import Credentials, MissingSecret
from podpair.operator.core.kafka_state import KafkaState, not_probed
from podpair.operator.core.ownership import DeletionResult, RecordedOwnership
from podpair.operator.kube.informer import Key
from podpair.operator.logs import about

_log = logging.getLogger(__name__)


class TopicManager(Protocol):
    """Manages topics: `podpair.operator.kafka.remote_topics.RemoteTopics`."""

    async def reconcile(
        self, gateway: InferenceGateway, credentials: Credentials, known: RecordedOwnership
    ) -> KafkaState:
        """Create and alter the resource's own topics as specified, and return their state. `known`: what was recorded last."""

    async def delete(
        self, gateway: InferenceGateway, credentials: Credentials, known: RecordedOwnership
    ) -> DeletionResult:
        """Delete the topics and the group that are the resource's own."""

    async def release(self, gateway: InferenceGateway, credentials: Credentials, known: RecordedOwnership) -> None:
        """Remove the ownership marks of a deleted resource's topics, which stay."""

    async def close(self) -> None:
        """Disconnect from the brokers."""


@dataclass
class _Supervised:
    gateway: InferenceGateway
    credentials: Credentials | MissingSecret
    known: RecordedOwnership
    task: "asyncio.Task[None] | None" = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    seen: KafkaState | None = None
    accepted: Credentials | None = None
    changes: list[str] = field(default_factory=list)


class TopicSupervisor:
    """The topics of all resources."""

    def __init__(self, topics: TopicManager, seconds: float, on_change: Callable[[Key], None]) -> None:
        self._topics = topics
        self._seconds = seconds
        self._on_change = on_change
        self._all: dict[Key, _Supervised] = {}
        self._releasing: dict[Key, asyncio.Task[None]] = {}

    def supervise(
        self, key: Key, gateway: InferenceGateway, credentials: Credentials | MissingSecret, known: RecordedOwnership
    ) -> None:
        """Manage these topics from now on; asks the broker at once if anything has changed. `known`: what the status records."""
        entry = self._all.get(key)
        if entry is None:
            entry = self._all[key] = _Supervised(gateway, credentials, known)
            entry.task = asyncio.create_task(self._run(key, entry), name=f"topics of {key}")
        elif (entry.gateway.spec, entry.gateway.metadata.uid) != (gateway.spec, gateway.metadata.uid) or (
            str(entry.credentials) if isinstance(entry.credentials, MissingSecret) else entry.credentials
        ) != (str(credentials) if isinstance(credentials, MissingSecret) else credentials):
            entry.gateway, entry.credentials = gateway, credentials
            entry.wake.set()

    def state(self, key: Key) -> KafkaState | None:
        """Return what was found last; None: nothing yet."""
        entry = self._all.get(key)
        return entry.seen if entry is not None else None

    def accepted_credentials(self, key: Key) -> Credentials | None:
        """Return the credentials that the broker accepted last; None: none yet."""
        entry = self._all.get(key)
        return entry.accepted if entry is not None else None

    def drain_changes(self, key: Key) -> list[str]:
        """Return what was created or changed since the last call."""
        entry = self._all.get(key)
        if entry is None:
            return []
        taken, entry.changes = entry.changes, []
        return taken

    async def delete_topics(
        self, gateway: InferenceGateway, credentials: Credentials, known: RecordedOwnership
    ) -> DeletionResult:
        """Delete what is the resource's own. Raises what the manager raises if it is still there."""
        return await self._topics.delete(gateway, credentials, known)

    def release(self, key: Key) -> None:
        """Stop managing the topics of a resource that is gone: they stay, and their ownership marks are removed."""
        entry = self._all.get(key)
        self.stop(key)
        if entry is not None and isinstance(entry.credentials, Credentials):
            release = self._topics.release(entry.gateway, entry.credentials, entry.known)
            task = self._releasing[key] = asyncio.create_task(release, name=f"release of topics of {key}")
            task.add_done_callback(lambda _: self._on_released(key, task))

    def _on_released(self, key: Key, task: "asyncio.Task[None]") -> None:
        if self._releasing.get(key) is task:
            del self._releasing[key]
        if not task.cancelled() and task.exception() is not None:
            _log.error("topics could not be released", exc_info=task.exception(), extra=about(*key))

    def stop(self, key: Key) -> None:
        """Stop managing this resource's topics."""
        entry = self._all.pop(key, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()

    def stop_all(self) -> None:
        """Stop managing all topics."""
        for key in list(self._all):
            self.stop(key)

    async def close(self) -> None:
        """Stop managing all topics, and disconnect from the brokers."""
        self.stop_all()
        await self._topics.close()

    async def _run(self, key: Key, entry: _Supervised) -> None:
        if key in self._releasing:  # topics of a deleted resource of the same name
            await asyncio.wait([self._releasing[key]])
        while True:
            entry.wake.clear()
            credentials = entry.credentials
            try:
                seen = (
                    not_probed(credentials.reason, str(credentials))
                    if isinstance(credentials, MissingSecret)
                    else await self._topics.reconcile(entry.gateway, credentials, entry.known)
                )
            except Exception:  # an error must not end the task
                _log.exception("topics could not be reconciled", extra=about(*key))
            else:
                entry.changes += seen.changes
                entry.known = seen.ownership or entry.known
                news = bool(seen.changes) or seen != entry.seen
                if (
                    isinstance(credentials, Credentials)
                    and seen.ownership is not None
                    and credentials != entry.accepted
                ):
                    entry.accepted, news = credentials, True
                entry.seen = seen
                if news:
                    self._on_change(key)
            wait = self._seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing
            try:
                async with asyncio.timeout(wait):
                    await entry.wake.wait()
            except TimeoutError:
                pass
