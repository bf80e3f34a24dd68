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
from podpair.operator.core.ownership import Forgotten, Remembered
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.kube.caches import Key
from podpair.operator.logs import about

_log = logging.getLogger(__name__)


class TopicKeeper(Protocol):
    """What keeps topics: `podpair.operator.kafka.remote.RemoteTopics`."""

    async def keep(self, gateway: InferenceGateway, credentials: Credentials, known: Remembered) -> KafkaSeen:
        """Make the resource's own topics as they are to be, and see how things stand. `known`: what was remembered last."""

    async def forget(self, gateway: InferenceGateway, credentials: Credentials, known: Remembered) -> Forgotten:
        """Delete the topics and the group that are the resource's own."""

    async def release(self, gateway: InferenceGateway, credentials: Credentials, known: Remembered) -> None:
        """Topics stay, and their resource is gone: they are nobody's now."""

    async def close(self) -> None:
        """Let go of the brokers."""


@dataclass
class _Kept:
    gateway: InferenceGateway
    credentials: Credentials | MissingSecret
    known: Remembered
    task: "asyncio.Task[None] | None" = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    seen: KafkaSeen | None = None
    accepted: Credentials | None = None
    changes: list[str] = field(default_factory=list)


class Brokers:
    """The topics of all resources."""

    def __init__(self, topics: TopicKeeper, seconds: float, on_change: Callable[[Key], None]) -> None:
        self._topics = topics
        self._seconds = seconds
        self._on_change = on_change
        self._all: dict[Key, _Kept] = {}
        self._leaving: dict[Key, asyncio.Task[None]] = {}

    def keep(
        self, key: Key, gateway: InferenceGateway, credentials: Credentials | MissingSecret, known: Remembered
    ) -> None:
        """From now on keep these; asked at once where anything has changed. `known`: what the status remembers."""
        kept = self._all.get(key)
        if kept is None:
            kept = self._all[key] = _Kept(gateway, credentials, known)
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

    def accepted(self, key: Key) -> Credentials | None:
        """The credentials that the broker has accepted last; None: none yet."""
        kept = self._all.get(key)
        return kept.accepted if kept is not None else None

    def take_changes(self, key: Key) -> list[str]:
        """What was made or changed since this was last asked."""
        kept = self._all.get(key)
        if kept is None:
            return []
        taken, kept.changes = kept.changes, []
        return taken

    async def forget(self, gateway: InferenceGateway, credentials: Credentials, known: Remembered) -> Forgotten:
        """Delete what is the resource's own. Raises what the keeper raises where it is still there."""
        return await self._topics.forget(gateway, credentials, known)

    def leave(self, key: Key) -> None:
        """The resource is gone, its topics stay: let these be, as nobody's."""
        kept = self._all.get(key)
        self.stop(key)
        if kept is not None and isinstance(kept.credentials, Credentials):
            releasing = self._topics.release(kept.gateway, kept.credentials, kept.known)
            task = self._leaving[key] = asyncio.create_task(releasing, name=f"leaving topics of {key}")
            task.add_done_callback(lambda _: self._left(key, task))

    def _left(self, key: Key, task: "asyncio.Task[None]") -> None:
        if self._leaving.get(key) is task:
            del self._leaving[key]
        if not task.cancelled() and task.exception() is not None:
            _log.error("topics could not be let go of", exc_info=task.exception(), extra=about(*key))

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
        if key in self._leaving:  # of a resource of the same name, which is gone
            await asyncio.wait([self._leaving[key]])
        while True:
            kept.asked.clear()
            shown = kept.credentials
            try:
                seen = (
                    not_asked(shown.reason, str(shown))
                    if isinstance(shown, MissingSecret)
                    else await self._topics.keep(kept.gateway, shown, kept.known)
                )
            except Exception:  # one resource's trouble must not end the task that looks after it
                _log.exception("topics could not be kept", extra=about(*key))
            else:
                kept.changes += seen.changes
                kept.known = seen.remembered or kept.known
                news = bool(seen.changes) or seen != kept.seen
                if isinstance(shown, Credentials) and seen.remembered is not None and shown != kept.accepted:
                    kept.accepted, news = shown, True
                kept.seen = seen
                if news:
                    self._on_change(key)
            wait = self._seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing
            try:
                async with asyncio.timeout(wait):
                    await kept.asked.wait()
            except TimeoutError:
                pass
