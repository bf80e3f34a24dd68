"""What would change in an object, as a unified diff that a person reads.

Fields that the API server manages are left out, and so are the values of Secrets: only whether they differ is shown.
"""

import copy
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.drift import DIGEST

_KEPT_BY_SERVER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")


def object_diff(live: Manifest | None, planned: Manifest | None, write: Callable[[Manifest], str]) -> str:
    """Return the diff between an object as it is (None: missing) and as it would be (None: deleted); empty: no change."""
    one = planned or live or {}
    name = f"{one['kind']} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
    if live is not None and planned is not None and live["kind"] == "Deployment" and "replicas" in live["spec"]:
        planned = _with_pods_of(live, planned)
    before, after = _shown(live, planned, "before"), _shown(planned, live, "after")
    lines = difflib.unified_diff(
        write(before).splitlines(keepends=True) if before else [],
        write(after).splitlines(keepends=True) if after else [],
        f"live    {name}",
        f"planned {name}",
    )
    return "".join(lines)


def _with_pods_of(live: Manifest, planned: Manifest) -> Manifest:
    """Keep the live number of pods: when an autoscaler takes over, the operator hands it on, which a dry run doesn't show."""
    owned = any("f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {}) for entry in _fields(planned))
    return planned if owned else {**planned, "spec": {**planned["spec"], "replicas": live["spec"]["replicas"]}}


def _fields(one: Manifest) -> list[Mapping[str, Any]]:
    fields: list[Mapping[str, Any]] = one["metadata"].get("managedFields") or []
    return fields


def _shown(one: Manifest | None, other: Manifest | None, when: str) -> Manifest | None:
    if one is None:
        return None
    shown = copy.deepcopy({name: value for name, value in one.items() if name != "status"})
    metadata = shown["metadata"]
    for name in _KEPT_BY_SERVER:
        metadata.pop(name, None)
    annotations = metadata.get("annotations") or {}
    annotations.pop(DIGEST, None)
    if not annotations:
        metadata.pop("annotations", None)
    if shown["kind"] == "Secret":
        beside = (other or {}).get("data") or {}
        shown["data"] = {
            key: "***" if beside.get(key) == value else f"*** ({when})"
            for key, value in (shown.get("data") or {}).items()
        }
    return shown
