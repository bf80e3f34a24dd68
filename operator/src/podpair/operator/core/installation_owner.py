"""The ClusterRole of the installation, which owns what the operator makes for itself: it goes with the installation."""

from collections.abc import Mapping
from typing import Any

_GROUP = "rbac.authorization.k8s.io/v1"


def owner_path(name: str) -> str:
    """Return the API path of the ClusterRole."""
    return f"/apis/{_GROUP}/clusterroles/{name}"


def owned_by(owner: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the metadata by which the garbage collector deletes an object with a ClusterRole; None: with nothing."""
    if owner is None:
        return {}
    metadata = owner["metadata"]
    return {
        "ownerReferences": [
            {"apiVersion": _GROUP, "kind": "ClusterRole", "name": metadata["name"], "uid": metadata["uid"]}
        ]
    }
