"""Whether an object is as it should be, so that nothing is written where nothing would change.

Each object carries the digest of what was last applied: where it differs from what is wanted now, or where one of the wanted
values is another by now, the object is applied again. What others have added, an annotation of `kubectl rollout restart` or a
field that podpair doesn't set, is theirs: server-side apply leaves it, and so it is no drift.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from podpair.operator.core.objects.naming import Manifest
from podpair.operator.core.objects.overlay import KEYS, identity

DIGEST = "podpair.dev/applied"
"""The annotation that holds the digest."""
# By which fields the items of a list are told apart where others may add some; every other list is as a whole ours.
_KEYS = {name: [keys] for name, keys in KEYS.items()} | {
    "ownerReferences": [("uid",)],
    "ports": [KEYS["ports"], ("port", "protocol")],  # of a container, of a Service
}
_UNSEEN: tuple[Any, ...] = ({}, [], None)  # the API server may keep an empty value, or leave it out


def stamped(manifest: Manifest) -> Manifest:
    """The object with the digest of what it says."""
    text = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    annotations = {**manifest["metadata"].get("annotations", {}), DIGEST: digest}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


def settled(live: Manifest, wanted: Manifest, kept: Any | None = None) -> bool:
    """Whether `live` is as `wanted` (stamped). `kept` is `part(live, wanted)` as it was right after `wanted` was applied:
    the server may write a value in another way than we do.
    """
    now = part(live, wanted)
    return bool(now == _cleaned(wanted) or (kept is not None and now == kept))


def part(live: Any, wanted: Any, name: str = "") -> Any:
    """What `live` has in the places that `wanted` speaks of."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        found = {key: part(live.get(key), value, key) for key, value in wanted.items()}
        return {key: value for key, value in found.items() if value not in _UNSEEN}
    if isinstance(wanted, list) and isinstance(live, list):
        by = _told_apart_by(name, wanted)
        if by is not None:
            items = {identity(one, by): one for one in live if isinstance(one, Mapping)}
            return [part(items.get(identity(one, by)), one) for one in wanted]
        if len(wanted) == len(live):
            return [part(one, other) for one, other in zip(live, wanted, strict=True)]
    return live


def _told_apart_by(name: str, wanted: list[Any]) -> tuple[str, ...] | None:
    for keys in _KEYS.get(name, ()):
        if all(isinstance(one, Mapping) and keys[0] in one for one in wanted):
            return keys
    return None


def _cleaned(wanted: Any) -> Any:
    return part(wanted, wanted)


def owns_replicas(live: Manifest, manager: str) -> bool:
    """Whether `manager` has applied the number of pods: what it leaves out from then on, the server would reset to 1."""
    for entry in live["metadata"].get("managedFields") or []:
        if (entry.get("manager"), entry.get("operation"), entry.get("subresource")) == (manager, "Apply", None):
            return "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    return False


def applied_by(live: Manifest, manager: str) -> bool:
    """Whether `manager` has ever applied the object."""
    entries = live["metadata"].get("managedFields") or []
    return any((entry.get("manager"), entry.get("operation")) == (manager, "Apply") for entry in entries)


def changed_by(live: Manifest, manager: str) -> str | None:
    """Who wrote to the object last besides `manager`, as far as the server recorded it; parts such as status don't count."""
    others = [
        entry
        for entry in live["metadata"].get("managedFields") or []
        if entry.get("manager") != manager and not entry.get("subresource")
    ]
    last = max(others, key=lambda entry: str(entry.get("time", "")), default=None)
    return str(last["manager"]) if last is not None else None
