"""The resources as they are now: from kopf's watch, a list at every resync, and the operator's own writes."""

import asyncio

from podpair.operator.core.builders.naming import Manifest
from podpair.operator.kube.client import Client
from podpair.operator.kube.informer import Key
from podpair.operator.kube.kinds import GATEWAY


class GatewayStore:
    """All resources of the watched namespaces."""

    def __init__(self, client: Client, namespaces: tuple[str, ...]) -> None:
        self._client = client
        self._scopes: list[str | None] = [*namespaces] or [None]
        self._all: dict[Key, Manifest] = {}
        self.listed = asyncio.Event()
        """Set once it is known what there is."""

    def all_keys(self) -> list[Key]:
        """Return the keys of all resources."""
        return list(self._all)

    def get(self, key: Key) -> Manifest | None:
        """Return a resource; None: there is none."""
        return self._all.get(key)

    def update(self, one: Manifest, *, gone: bool = False) -> Key:
        """Store a resource as it was seen; an older version than the stored one changes nothing."""
        key = one["metadata"]["namespace"], one["metadata"]["name"]
        known = self._all.get(key)
        if gone:
            if known is None or known["metadata"]["uid"] == one["metadata"]["uid"]:
                self._all.pop(key, None)
        elif known is None or _version(one) >= _version(known):
            self._all[key] = one
        return key

    async def relist(self) -> list[Key]:
        """Read all anew; returns those that there are, and those that are gone. Raises ApiError."""
        found: dict[Key, Manifest] = {}
        before = set(self._all)
        for scope in self._scopes:
            async for page in self._client.pages(GATEWAY.path(scope)):
                for one in page["items"]:
                    one |= {"kind": GATEWAY.kind, "apiVersion": GATEWAY.api_version}
                    found[one["metadata"]["namespace"], one["metadata"]["name"]] = one
        for key in before - found.keys():
            self._all.pop(key, None)
        for one in found.values():
            self.update(one)
        self.listed.set()
        return [*(before | found.keys())]


def _version(one: Manifest) -> int:
    return int(one["metadata"]["resourceVersion"])
