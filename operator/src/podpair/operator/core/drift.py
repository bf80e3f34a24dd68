"""Drift: whether an object differs from what is wanted, so that nothing is written if nothing would change.

Each object carries the digest of what was last applied: if it differs from what is wanted now, or if one of the wanted values
has changed, the object is applied again. What others have added, an annotation of `kubectl rollout restart` or a
field that podpair doesn't set, is theirs: server-side apply leaves it, and so it is no drift.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.builders.overlay import KEYS, identity

DIGEST = "podpair.dev/applied"
"""The annotation that holds the digest."""
# The fields that identify the items of a list to which others may add some; every other list is ours as a whole.
_KEYS = {name: [keys] for name, keys in KEYS.items()} | {
    "ownerReferences": [("uid",)],
    "ports": [KEYS["ports"], ("port", "protocol")],  # of a container, of a Service
}
_UNSEEN: tuple[Any, ...] = ({}, [], None)  # the API server may keep an empty value, or leave it out


def with_hash(manifest: Manifest) -> Manifest:
    """Return the object with an annotation that holds its digest."""
    text = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    annotations = {**manifest["metadata"].get("annotations", {}), DIGEST: digest}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


def in_sync(live: Manifest, wanted: Manifest, kept: Any | None = None) -> bool:
    """Return whether `live` is as `wanted` (with its hash).

    `kept` is `project(live, wanted)` right after `wanted` was applied: the server may write a value in another way than we do.
    """
    now = project(live, wanted)
    return bool(now == _normalized(wanted) or (kept is not None and now == kept))


def project(live: Any, wanted: Any, name: str = "") -> Any:
    """Return what `live` has in the fields that `wanted` sets."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        found = {key: project(live.get(key), value, key) for key, value in wanted.items()}
        return {key: value for key, value in found.items() if value not in _UNSEEN}
    if isinstance(wanted, list) and isinstance(live, list):
        by = _list_keys(name, wanted)
        if by is not None:
            items = {identity(one, by): one for one in live if isinstance(one, Mapping)}
            return [project(items.get(identity(one, by)), one) for one in wanted]
        if len(wanted) == len(live):
            return [project(one, other) for one, other in zip(live, wanted, strict=True)]
    return live


def _list_keys(name: str, wanted: list[Any]) -> tuple[str, ...] | None:
    for keys in _KEYS.get(name, ()):
        if all(isinstance(one, Mapping) and keys[0] in one for one in wanted):
            return keys
    return None


def _normalized(wanted: Any) -> Any:
    return project(wanted, wanted)


def owns_replicas(live: Manifest, manager: str) -> bool:
    """Return whether `manager` has applied the number of pods: if it left it out from then on, the server would reset it to 1."""
    for entry in live["metadata"].get("managedFields") or []:
        if (entry.get("manager"), entry.get("operation"), entry.get("subresource")) == (manager, "Apply", None):
            return "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    return False


def applied_by(live: Manifest, manager: str) -> bool:
    """Return whether `manager` has ever applied the object."""
    entries = live["metadata"].get("managedFields") or []
    return any((entry.get("manager"), entry.get("operation")) == (manager, "Apply") for entry in entries)


def changed_by(live: Manifest, manager: str) -> str | None:
    """Return who else than `manager` wrote to the object last, as the server recorded it; subresources don't count."""
    others = [
        entry
        for entry in live["metadata"].get("managedFields") or []
        if entry.get("manager") != manager and not entry.get("subresource")
    ]
    last = max(others, key=lambda entry: str(entry.get("time", "")), default=None)
    return str(last["manager"]) if last is not None else None
