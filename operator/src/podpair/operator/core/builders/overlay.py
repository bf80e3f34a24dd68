"""Lays a user's partial pod template over podpair's, as Kubernetes' strategic merge does.

Mappings are merged, null removes, lists whose items have names of a kind are merged item by item, others are replaced.
`$patch: replace` and `$patch: delete` work as with kubectl patch.
"""

from collections.abc import Mapping
from typing import Any

# The fields that identify the items of a list (x-kubernetes-list-map-keys in Kubernetes' API); other lists are atomic.
KEYS = {
    "containers": ("name",),
    "env": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort", "protocol"),
    "resourceClaims": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_DEFAULTS = {"protocol": "TCP"}
_PATCH = "$patch"


def identity(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the key that identifies an item of such a list."""
    return tuple(item.get(key, _DEFAULTS.get(key)) for key in keys)


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `over` laid over `base`; neither is changed."""
    if over.get(_PATCH) == "replace":
        return {name: value for name, value in over.items() if name != _PATCH}
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            merged[name] = overlay(below if isinstance(below, Mapping) else {}, value)
        elif isinstance(value, list) and name in KEYS:
            merged[name] = _merge_items(below if isinstance(below, list) else [], value, KEYS[name])
        else:
            merged[name] = value
    return merged


def _merge_items(base: list[Any], over: list[Any], keys: tuple[str, ...]) -> list[Any]:
    """Return the items of `base` in their order, changed as `over` says, then those that only `over` has.

    An item that `over` has twice is there twice: the fault must stay visible.
    """
    changes: dict[int, Any] = {}
    more = []
    for change in over:
        at = _place(base, change, keys, changes) if isinstance(change, Mapping) else None
        if at is not None:
            changes[at] = change
        elif not isinstance(change, Mapping):
            more.append(change)
        elif change.get(_PATCH) != "delete":
            more.append(overlay({}, change))
    merged = []
    for at, item in enumerate(base):
        change = changes.get(at)
        if change is None or change.get(_PATCH) != "delete":
            merged.append(item if change is None else overlay(item, change))
    return merged + more


def _place(base: list[Any], change: Mapping[str, Any], keys: tuple[str, ...], changed: Mapping[int, Any]) -> int | None:
    """Return the index of the item that is meant; an item without its further keys means the first that has its first one."""
    meant = identity(change, keys)
    for at, item in enumerate(base):
        there = identity(item, keys)
        further = zip(meant[1:], there[1:], strict=True)
        if at not in changed and meant[0] == there[0] and all(name in (None, one) for name, one in further):
            return at
    return None
