"""The kinds that the operator reads and writes: their API paths, and which of them may be missing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from podpair.operator.core.api.igw import API_VERSION, KIND, PLURAL


class Resource(NamedTuple):
    """A kind, and the path of its objects."""

    api_version: str
    kind: str
    plural: str
    optional: bool = False
    """Its CRD belongs to somebody else, and may be missing."""
    owned: bool = True
    """The operator makes its objects; otherwise it only looks at them."""

    def path(self, namespace: str | None = None, name: str | None = None, *, subresource: str | None = None) -> str:
        """Return the path of one object, or of a list; `subresource` is such as status."""
        root = f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"
        where = f"/namespaces/{namespace}" if namespace is not None else ""
        return f"{root}{where}/{self.plural}" + "".join(f"/{one}" for one in (name, subresource) if one is not None)


GATEWAY = Resource(API_VERSION, KIND, PLURAL, owned=False)
SECRET = Resource("v1", "Secret", "secrets")
CONFIG_MAP = Resource("v1", "ConfigMap", "configmaps")
DEPLOYMENT = Resource("apps/v1", "Deployment", "deployments")
REPLICA_SET = Resource("apps/v1", "ReplicaSet", "replicasets", owned=False)
POD = Resource("v1", "Pod", "pods", owned=False)
EVENT = Resource("v1", "Event", "events", owned=False)
LEASE = Resource("coordination.k8s.io/v1", "Lease", "leases", owned=False)
AUTOSCALER = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
SCALED_OBJECT = Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects", optional=True)
NETWORK_POLICY = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
POD_MONITOR = Resource("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", optional=True)
PROMETHEUS_RULE = Resource("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules", optional=True)

WATCHED = (
    Resource("v1", "ServiceAccount", "serviceaccounts"),
    SECRET,
    CONFIG_MAP,
    Resource("v1", "Service", "services"),
    NETWORK_POLICY,
    DEPLOYMENT,
    REPLICA_SET,
    POD,
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    AUTOSCALER,
    Resource("networking.k8s.io/v1", "Ingress", "ingresses"),
    Resource("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes", optional=True),
    SCALED_OBJECT,
    Resource("keda.sh/v1alpha1", "TriggerAuthentication", "triggerauthentications", optional=True),
    POD_MONITOR,
    PROMETHEUS_RULE,
)
"""What belongs to a resource: each kind is watched by podpair's label."""

_BY_KIND = {resource.kind: resource for resource in WATCHED}


def resource_of(manifest: Mapping[str, Any]) -> Resource:
    """Return the kind of an object of desired state."""
    return _BY_KIND[manifest["kind"]]
