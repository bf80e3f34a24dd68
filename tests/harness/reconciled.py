"""What a resource has become in a cluster, and how a test asks for it."""

from typing import Any

from harness.kubernetes import ApiServer
from harness.operator import NOBODY
from harness.resources import resource
from harness.waiting import until

ALONE: dict[str, Any] = {"kafka__bootstrapServers": NOBODY, "gateway__auth": {"disabled": True}}
"""Depends on nothing that a test would have to make."""
OBJECTS = (
    ("serviceaccount", "digits"),
    ("secret", "digits-resume"),
    ("configmap", "digits-gateway"),
    ("configmap", "digits-models"),
    ("service", "digits"),
    ("networkpolicy", "digits"),
    ("deployment", "digits"),
    ("poddisruptionbudget", "digits"),
    ("horizontalpodautoscaler", "digits"),
    ("ingress", "digits"),
)
INGRESS = {"ingress": {"host": "digits.example"}}


def apply(cluster: ApiServer, namespace: str, **changed: Any) -> None:
    """The digits example, changed so, is wanted in this namespace. It depends on nothing unless it says so."""
    made = resource(**(ALONE | changed))
    made["metadata"]["namespace"] = namespace
    cluster.apply(made)


def there(cluster: ApiServer, namespace: str, kind: str, name: str) -> bool:
    return bool(cluster.kubectl("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "name"))


def condition(cluster: ApiServer, namespace: str, kind: str, name: str = "digits") -> dict[str, Any]:
    status = cluster.read("igw", name, "-n", namespace).get("status", {})
    found = [one for one in status.get("conditions", []) if one["type"] == kind]
    return found[0] if found else {"status": "", "reason": "", "message": ""}


def becomes(cluster: ApiServer, namespace: str, kind: str, status: str, reason: str | None = None) -> dict[str, Any]:
    """Until a condition is so."""

    def so() -> bool:
        now = condition(cluster, namespace, kind)
        return now["status"] == status and reason in (None, now["reason"])

    until(so, lambda: condition(cluster, namespace, kind))
    return condition(cluster, namespace, kind)
