"""Looks after the topics of every resource, and keeps what was last seen of each.

A broker that is slow or gone must hold up nothing else, so each resource has a task of its own that asks again and again; the
reconcile step takes what that task found last.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from podpair.operator.core.credentials import Credentials, MissingSecret
from podpair.operator.core.kafka_state import KafkaSeen, not_asked
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.kube.caches import Key
from podpair.operator.logs import about

_log = logging.getLogger(__name__)


class TopicKeeper(Protocol):
    """What keeps topics: `podpair.operator.kafka.remote.RemoteTopics`."""

    async def keep(self, gateway: InferenceGateway, credentials: Credentials) -> KafkaSeen:
        """Make the topics as they are to be, and see how things stand."""

    async def forget(self, gateway: InferenceGateway, credentials: Credentials) -> None:
        """Delete the topics and the group."""

    async def close(self) -> None:
        """Let go of the brokers."""


@dataclass
class _Kept:
    gateway: InferenceGateway
    credentials: Credentials | MissingSecret
    task: "asyncio.Task[None] | None" = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    seen: KafkaSeen | None = None
    changes: list[str] = field(default_factory=list)


class Brokers:
    """The topics of all resources."""

    def __init__(self, topics: TopicKeeper, seconds: float, on_change: Callable[[Key], None]) -> None:
        self._topics = topics
        self._seconds = seconds
        self._on_change = on_change
        self._all: dict[Key, _Kept] = {}

    def keep(self, key: Key, gateway: InferenceGateway, credentials: Credentials | MissingSecret) -> None:
        """From now on keep these; asked at once where anything has changed."""
        kept = self._all.get(key)
        if kept is None:
            kept = self._all[key] = _Kept(gateway, credentials)
            kept.task = asyncio.create_task(self._run(key, kept), name=f"topics of {key}")
        elif (kept.gateway.spec, kept.gateway.metadata.uid) != (gateway.spec, gateway.metadata.uid) or (
            str(kept.credentials) if isinstance(kept.credentials, MissingSecret) else kept.credentials
        ) != (str(credentials) if isinstance(credentials, MissingSecret) else credentials):
            kept.gateway, kept.credentials = gateway, credentials
            kept.asked.set()

    def seen(self, key: Key) -> KafkaSeen | None:
        """What was found last; None: nothing yet."""
        kept = self._all.get(key)
        return kept.seen if kept is not None else None

    def take_changes(self, key: Key) -> list[str]:
        """What was made or changed since this was last asked."""
        kept = self._all.get(key)
        if kept is None:
            return []
        taken, kept.changes = kept.changes, []
        return taken

    async def forget(self, gateway: InferenceGateway, credentials: Credentials) -> None:
        """Delete the topics. Raises what the keeper raises where they are still there."""
        await self._topics.forget(gateway, credentials)

    def stop(self, key: Key) -> None:
        """Let these be."""
        kept = self._all.pop(key, None)
        if kept is not None and kept.task is not None:
            kept.task.cancel()

    def stop_all(self) -> None:
        """Let all be."""
        for key in list(self._all):
            self.stop(key)

    async def close(self) -> None:
        """Let all be, and let go of the brokers."""
        self.stop_all()
        await self._topics.close()

    async def _run(self, key: Key, kept: _Kept) -> None:
        while True:
            kept.asked.clear()
            try:
                seen = (
                    not_asked(kept.credentials.reason, str(kept.credentials))
                    if isinstance(kept.credentials, MissingSecret)
                    else await self._topics.keep(kept.gateway, kept.credentials)
                )
            except Exception:  # one resource's trouble must not end the task that looks after it
                _log.exception("topics could not be kept", extra=about(*key))
            else:
                kept.changes += seen.changes
                news = bool(seen.changes) or seen != kept.seen
                kept.seen = seen
                if news:
                    self._on_change(key)
            wait = self._seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing
            try:
                async with asyncio.timeout(wait):
                    await kept.asked.wait()
            except TimeoutError:
                pass
