"""Lays a user's partial pod template over podpair's, as Kubernetes' strategic merge does.

Mappings are merged, null removes, lists whose items have a name of a kind are merged item by item, others are replaced.
`$patch: replace` and `$patch: delete` work as with kubectl patch.
"""

from collections.abc import Mapping
from typing import Any

# By which field the items of a list are told apart (patchMergeKey in Kubernetes' API); other lists are atomic.
_KEYS = {
    "containers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "resourceClaims": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
_PATCH = "$patch"


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`; neither is changed."""
    if over.get(_PATCH) == "replace":
        return {name: value for name, value in over.items() if name != _PATCH}
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            merged[name] = overlay(below if isinstance(below, Mapping) else {}, value)
        elif isinstance(value, list) and name in _KEYS:
            merged[name] = _merge_items(below if isinstance(below, list) else [], value, _KEYS[name])
        else:
            merged[name] = value
    return merged


def _merge_items(base: list[Any], over: list[Any], key: str) -> list[Any]:
    """The items of `base` in their order, changed as `over` says, then those that only `over` has."""
    changes = {item.get(key): item for item in over if isinstance(item, Mapping)}
    merged = []
    for item in base:
        change = changes.pop(item.get(key), None)
        if change is None or change.get(_PATCH) != "delete":
            merged.append(item if change is None else overlay(item, change))
    return merged + [overlay({}, item) for item in changes.values() if item.get(_PATCH) != "delete"]
