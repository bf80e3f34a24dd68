"""How clients reach the pods and who may; what keeps pods up while nodes go; what Prometheus scrapes."""

from typing import Any

from podpair.operator.core.objects.naming import Manifest, metadata, selector
from podpair.operator.core.objects.settings import PORT
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.core.resource.network import Ingress, Route


def service(gateway: InferenceGateway) -> Manifest:
    """The Service before the gateways."""
    wanted = gateway.spec.network.service
    protocol = "http" if gateway.spec.gateway.tls is None else "https"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(gateway, annotations=wanted.annotations),
        "spec": {
            "type": wanted.type,
            "selector": selector(gateway),
            "ports": [
                {"name": "http", "port": wanted.port, "targetPort": "http", "protocol": "TCP", "appProtocol": protocol}
            ],
        },
    }


def service_account(gateway: InferenceGateway) -> Manifest:
    """The pods' account. It is given no rights, and its token is not mounted."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(gateway),
        "automountServiceAccountToken": False,
    }


def network_policy(gateway: InferenceGateway) -> list[Manifest]:
    """Only the gateway's port can be reached: an image that listens on all addresses is none the less private."""
    wanted = gateway.spec.network.network_policy
    if not wanted.enabled:
        return []
    rule: dict[str, Any] = {"ports": [{"port": PORT, "protocol": "TCP"}]}
    if wanted.from_:
        rule["from"] = list(wanted.from_)
    spec = {"podSelector": {"matchLabels": selector(gateway)}, "policyTypes": ["Ingress"], "ingress": [rule]}
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(gateway),
            "spec": spec,
        }
    ]


def disruption_budget(gateway: InferenceGateway) -> list[Manifest]:
    """A pod that isn't ready never stands in the way of a node's drain."""
    wanted = gateway.spec.disruption_budget
    if not wanted.enabled:
        return []
    spec: dict[str, Any] = {
        "selector": {"matchLabels": selector(gateway)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    if wanted.min_available is not None:
        spec["minAvailable"] = wanted.min_available
    else:
        spec["maxUnavailable"] = 1 if wanted.max_unavailable is None else wanted.max_unavailable
    return [{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(gateway), "spec": spec}]


def way_in(gateway: InferenceGateway) -> list[Manifest]:
    """The Ingress, or the HTTPRoute, where one is wanted."""
    network = gateway.spec.network
    if network.ingress is not None:
        return [_ingress(gateway, network.ingress)]
    return [_route(gateway, network.route)] if network.route is not None else []


def _ingress(gateway: InferenceGateway, wanted: Ingress) -> Manifest:
    backend = {"service": {"name": gateway.metadata.name, "port": {"name": "http"}}}
    path = {"path": wanted.path, "pathType": "Prefix", "backend": backend}
    spec: dict[str, Any] = {"rules": [{"host": wanted.host, "http": {"paths": [path]}}]}
    if wanted.class_name is not None:
        spec["ingressClassName"] = wanted.class_name
    if wanted.tls_secret_name is not None:
        spec["tls"] = [{"hosts": [wanted.host], "secretName": wanted.tls_secret_name}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": metadata(gateway, annotations=wanted.annotations),
        "spec": spec,
    }


def _route(gateway: InferenceGateway, wanted: Route) -> Manifest:
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": wanted.path}}],
        "backendRefs": [{"name": gateway.metadata.name, "port": gateway.spec.network.service.port}],
    }
    parents = [ref.model_dump(by_alias=True, exclude_none=True) for ref in wanted.parent_refs]
    spec: dict[str, Any] = {"parentRefs": parents, "rules": [rule]}
    if wanted.hostnames:
        spec["hostnames"] = list(wanted.hostnames)
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(gateway),
        "spec": spec,
    }


def pod_monitor(gateway: InferenceGateway) -> Manifest:
    """What Prometheus Operator scrapes."""
    wanted = gateway.spec.monitoring
    endpoint: dict[str, Any] = {"port": "http", "path": "/metrics", "interval": wanted.interval}
    if gateway.spec.gateway.tls is not None:
        # Pods are asked at their addresses, which are in no certificate.
        endpoint |= {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(gateway, more_labels=wanted.labels),
        "spec": {
            "selector": {"matchLabels": selector(gateway)},
            "podMetricsEndpoints": [endpoint],
        },
    }
