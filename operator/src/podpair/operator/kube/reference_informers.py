"""The Secrets and ConfigMaps that resources name: each is watched by its name, so that the operator reads no other.

An object is watched while any resource names it. Kubelets do the same.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from podpair.operator.core.builders.naming import Manifest
from podpair.operator.kube.client import Client
from podpair.operator.kube.informer import Informer, Key, Selection
from podpair.operator.kube.kinds import CONFIG_MAP, SECRET, Resource

_KINDS = {"Secret": SECRET, "ConfigMap": CONFIG_MAP}


class Reference(NamedTuple):
    """An object that a resource names."""

    kind: str
    namespace: str
    name: str


class ReferenceInformers:
    """What resources name, as it is now. `on_change` is called with the resource whose reference has changed."""

    def __init__(self, client: Client, on_change: Callable[[Key], None], seconds: float) -> None:
        self._client = client
        self._on_change = on_change
        self._seconds = seconds
        self._informers: dict[Reference, tuple[Informer, asyncio.Task[None]]] = {}
        self._users: dict[Reference, set[Key]] = {}

    async def track(self, user: Key, wanted: Iterable[Reference]) -> Mapping[Reference, Manifest | None]:
        """Watch exactly these for `user` from now on, and return them as they are; None: there is none."""
        now = set(wanted)
        for reference in now - self._users.keys():
            self._start(reference)
        for reference, users in list(self._users.items()):
            (users.add if reference in now else users.discard)(user)
            if not users:
                self._stop(reference)
        for reference in now:
            await self._informers[reference][0].synced.wait()
        return {one: self._informers[one][0].objects.get((one.namespace, one.name)) for one in now}

    def errors(self, user: Key) -> list[str]:
        """Return why some of what `user` names can't be read, in the server's words."""
        informers = (self._informers[one][0] for one, users in self._users.items() if user in users)
        return [informer.refused for informer in informers if informer.refused]

    def all(self) -> list[Informer]:
        """Return every informer."""
        return [informer for informer, _ in self._informers.values()]

    def stop(self) -> None:
        """End all watches."""
        for reference in list(self._users):
            self._stop(reference)

    def _start(self, reference: Reference) -> None:
        def changed(_: Resource, __: Manifest) -> None:
            for user in self._users.get(reference, ()):
                self._on_change(user)

        selector = {"fieldSelector": f"metadata.name={reference.name}"}
        selection = Selection(_KINDS[reference.kind], reference.namespace, selector)
        informer = Informer(self._client, selection, changed, self._seconds)
        self._users[reference] = set()
        self._informers[reference] = informer, asyncio.create_task(informer.run(), name=f"watch of {reference}")

    def _stop(self, reference: Reference) -> None:
        del self._users[reference]
        _, task = self._informers.pop(reference)
        task.cancel()


def contents(one: Manifest) -> dict[str, bytes]:
    """Return what a Secret or ConfigMap holds, decoded."""
    secret = one["kind"] == "Secret"
    found = {} if secret else {name: value.encode() for name, value in (one.get("data") or {}).items()}
    for name, value in ((one.get("data") if secret else one.get("binaryData")) or {}).items():
        try:
            found[name] = base64.b64decode(value)
        except binascii.Error:
            found[name] = b""
    return found
