"""The APIService, by which the API server forwards requests for `external.metrics.k8s.io` to the operator.

There is one in a cluster. It is ours if it names our Service; somebody else's is never touched, unless the settings say so.
"""

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.external_api_state import ExternalApiState, Reason
from podpair.operator.core.external_metrics import GROUP, VERSION
from podpair.operator.core.installation_owner import owned_by

NAME = f"{VERSION}.{GROUP}"
PATH = f"/apis/apiregistration.k8s.io/v1/apiservices/{NAME}"
_PORT = 443


class Place(NamedTuple):
    """The Service in front of the operators."""

    namespace: str
    service: str

    @property
    def hosts(self) -> list[str]:
        """The names that its certificate must have; the API server asks for the first."""
        name = f"{self.service}.{self.namespace}.svc"
        return [name, f"{name}.cluster.local"]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}"


def api_service(place: Place, ca_pem: str, owner: Mapping[str, Any] | None) -> Manifest:
    """Return the desired APIService. `owner` is the ClusterRole that it is deleted with, as the API server has it."""
    labels = {"app.kubernetes.io/managed-by": "podpair-operator"}
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": NAME, "labels": labels} | owned_by(owner),
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": place.namespace, "name": place.service, "port": _PORT},
            "caBundle": base64.b64encode(ca_pem.encode()).decode(),
        },
    }


def owner_of(found: Mapping[str, Any]) -> Place | None:
    """Return the Service that an APIService names; None: the API server's own process."""
    service = found["spec"].get("service")
    return Place(service["namespace"], service["name"]) if service else None


def needs_apply(found: Mapping[str, Any] | None, wanted: Manifest) -> bool:
    """Return whether the APIService has to be applied."""
    if found is None:
        return True
    metadata = found["metadata"]
    references = wanted["metadata"].get("ownerReferences", [])
    has = [{name: one.get(name) for name in ("apiVersion", "kind", "name", "uid")} for one in _owners(metadata)]
    labels = metadata.get("labels") or {}
    return (
        any(found["spec"].get(name) != value for name, value in wanted["spec"].items())
        or any(one not in has for one in references)
        or any(labels.get(name) != value for name, value in wanted["metadata"]["labels"].items())
    )


def _owners(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    owners: list[Mapping[str, Any]] = metadata.get("ownerReferences") or []
    return owners


def state_of(found: Mapping[str, Any] | None, place: Place) -> ExternalApiState:
    """Return the state that the APIService of the cluster means."""
    if found is None:
        return ExternalApiState(False, Reason.NOT_YET, f"there is no APIService {NAME} yet")
    owner = owner_of(found)
    if owner != place:
        message = (
            f"{GROUP} is served by {f'Service {owner}' if owner else 'the API server itself'}, so podpair leaves it alone:"
            " HorizontalPodAutoscalers don't see lag, latency, sessions and inflight."
            " Scale by cpu, or with scaling.provider: keda, or set PODPAIR_OPERATOR_METRICS_API__ENABLED=always"
        )
        return ExternalApiState(False, Reason.OWNED_BY_OTHER, message)
    conditions = (found.get("status") or {}).get("conditions") or []
    available = next((one for one in conditions if one["type"] == "Available"), None)
    if available is not None and available["status"] == "True":
        return ExternalApiState(True, Reason.SERVED, f"{GROUP} is served by Service {place}")
    said = f": {available['message']}" if available is not None and available.get("message") else ""
    return ExternalApiState(False, Reason.NOT_YET, f"the API server doesn't reach Service {place} yet{said}")
