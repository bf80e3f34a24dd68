"""Informers: local copies of what the API server has, kept up to date by watches.

An informer lists once and then follows a watch; if the server no longer knows the watch's resourceVersion, it lists anew, and
notices what was deleted in between. If a kind's CRD is missing, or may not be read, the informer is empty and retries:
both are states, not failures.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import aiohttp

from podpair.operator.core.builders.naming import GATEWAY_LABEL, Manifest
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.kinds import WATCHED, Resource

_log = logging.getLogger(__name__)
_RETRY = 2.0  # seconds, doubled up to
_RETRY_MOST = 20.0
_DEAD = 3  # in lengths of a watch: silent for longer, it is dead
_UNREAD = ("managedFields",)
_BULKY = {"Pod", "ReplicaSet"}  # there are many of them, and nobody asks who wrote which field

Key = tuple[str, str]
"""Namespace and name."""
OnChange = Callable[[Resource, Manifest], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """What an informer watches."""

    resource: Resource
    namespace: str | None
    """None: all."""
    selector: Mapping[str, str]
    """Parameters of the request: `labelSelector`, `fieldSelector`."""

    def __str__(self) -> str:
        return f"{self.resource.plural}{f' in {self.namespace}' if self.namespace else ''}"


class Informer:
    """The objects of one kind that match a selector, in one namespace or all."""

    def __init__(
        self,
        client: Client,
        selection: Selection,
        on_change: OnChange,
        seconds: float,
        on_served: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self.resource = selection.resource
        self._path = self.resource.path(selection.namespace)
        self._where = str(selection)
        self._selector = dict(selection.selector)
        self._on_change = on_change
        self._on_served = on_served
        self._seconds = seconds
        self.objects: dict[Key, Manifest] = {}
        self.synced = asyncio.Event()
        """Set once it is known what there is."""
        self.refused: str | None = None
        """The server's message if it denies reading."""
        self.served = False
        """Whether the server knows the kind and lets us read it."""
        self._last_event = time.monotonic()

    @property
    def dead(self) -> bool:
        """Whether it has been silent for too long to be trusted."""
        return time.monotonic() - self._last_event > _DEAD * self._seconds

    def __str__(self) -> str:
        return self._where

    async def run(self) -> None:
        """List and watch until cancelled."""
        pause = _RETRY
        while True:
            try:
                version = await self._list()
                pause = _RETRY
                while version:
                    version = await self._watch(version)
            except ApiError as error:
                self._on_error(error)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                _log.warning("watch of %s broke off: %s", self._where, error or type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, guards nothing
            pause = min(pause * 2, _RETRY_MOST)

    def _on_error(self, error: ApiError) -> None:
        missing = error.status == 404
        if missing or error.status == 403:
            self._last_event = time.monotonic()
            refused = None if missing else str(error)
            if refused is not None and refused != self.refused:
                _log.warning("%s can't be watched: %s", self._where, error)
            self._set_served(False, refused)
            self._replace({})
            self.synced.set()
        else:
            _log.warning("watch of %s broke off: %s", self._where, error)

    async def _list(self) -> str:
        found: dict[Key, Manifest] = {}
        version = ""
        async for page in self._client.pages(self._path, **self._selector):
            version = page["metadata"]["resourceVersion"]
            for one in page["items"]:
                found[_key(one)] = self._trimmed(one)
        self._last_event = time.monotonic()
        self._set_served(True)
        self._replace(found)
        self.synced.set()
        return version

    def _set_served(self, served: bool, refused: str | None = None) -> None:
        changed = self.synced.is_set() and served != self.served
        self.served, self.refused = served, refused
        if changed:
            self._on_served()

    async def _watch(self, version: str) -> str:
        """Follow one watch request; returns where the next one begins, empty: the list has to be read anew."""
        async for event in self._client.watch(self._path, self._seconds, resourceVersion=version, **self._selector):
            self._last_event = time.monotonic()
            if not event:
                continue
            if event["type"] == "ERROR":
                return ""
            version = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                self._handle(event["type"] == "DELETED", self._trimmed(event["object"]))
        return version

    def _handle(self, gone: bool, one: Manifest) -> None:
        if gone:
            self.objects.pop(_key(one), None)
        else:
            self.objects[_key(one)] = one
        self._on_change(self.resource, one)

    def _replace(self, found: dict[Key, Manifest]) -> None:
        before, self.objects = self.objects, found
        for key in before.keys() - found.keys():
            self._on_change(self.resource, before[key])
        for key, one in found.items():
            if key not in before or _version(before[key]) != _version(one):
                self._on_change(self.resource, one)

    def _trimmed(self, one: Manifest) -> Manifest:
        one.setdefault("kind", self.resource.kind)  # items of a list don't say
        one.setdefault("apiVersion", self.resource.api_version)
        if self.resource.kind in _BULKY:
            for name in _UNREAD:
                one["metadata"].pop(name, None)
        return one


class Informers:
    """The informers of all kinds that belong to resources, by podpair's label."""

    def __init__(
        self,
        client: Client,
        namespaces: Iterable[str],
        on_change: OnChange,
        on_served: Callable[[], None],
        seconds: float,
    ) -> None:
        scopes: list[str | None] = [*namespaces] or [None]
        selector = {"labelSelector": GATEWAY_LABEL}
        self._informers = {
            resource: [
                Informer(client, Selection(resource, scope, selector), on_change, seconds, on_served)
                for scope in scopes
            ]
            for resource in WATCHED
        }

    def all(self) -> list[Informer]:
        """Return every informer."""
        return [informer for informers in self._informers.values() for informer in informers]

    def list(self, resource: Resource, namespace: str, gateway: str) -> list[Manifest]:
        """Return the objects of a kind that belong to one InferenceGateway."""
        return [
            one
            for informer in self._informers[resource]
            for (where, _), one in informer.objects.items()
            if where == namespace and one["metadata"]["labels"].get(GATEWAY_LABEL) == gateway
        ]

    def is_served(self, resource: Resource) -> bool:
        """Return whether the cluster serves the kind, as far as is known."""
        return any(informer.served for informer in self._informers[resource])


def _key(one: Manifest) -> Key:
    return one["metadata"].get("namespace", ""), one["metadata"]["name"]


def _version(one: Manifest) -> str:
    return str(one["metadata"].get("resourceVersion", ""))
