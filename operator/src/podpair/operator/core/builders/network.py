"""How clients reach the pods and who may; what keeps pods up while nodes go; what Prometheus scrapes."""

from collections.abc import Iterator
from functools import partial
from ipaddress import ip_network
from typing import Any

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.network import Ingress, Route
from podpair.operator.core.api.peers import Peer
from podpair.operator.core.api.scalars import OPERATIONS_PORT, PUBLIC_PORT
from podpair.operator.core.builders.naming import Manifest, metadata, selector
from podpair.operator.core.builders.pods import MODEL_METRICS

_NAMESPACE_NAME = "kubernetes.io/metadata.name"


def service(gateway: InferenceGateway) -> Manifest:
    """Build the Service in front of the gateways. It leads to the public port only."""
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
    """Build the pods' account. It has no rights, and its token is not mounted."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(gateway),
        "automountServiceAccountToken": False,
    }


def network_policy(gateway: InferenceGateway, operator_namespace: str) -> list[Manifest]:
    """Build the NetworkPolicy: only the gateway's ports can be reached, even if the model's image listens on all addresses.

    The operations port is for the operator, for Prometheus, and (as every port is) for the kubelet of the pod's node.
    """
    wanted = gateway.spec.network.network_policy
    if not wanted.enabled:
        return []
    public: dict[str, Any] = {"ports": [{"port": PUBLIC_PORT, "protocol": "TCP"}]}
    if wanted.from_:
        public["from"] = [_peer(one) for one in wanted.from_]
    # Every namespace has this label from the API server; no user can take another's.
    operator = {"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: operator_namespace}}}
    operations = {
        "ports": [{"port": OPERATIONS_PORT, "protocol": "TCP"}],
        "from": [operator, *map(_peer, wanted.operations_from)],
    }
    rules = [public, operations]
    metrics = gateway.spec.inference.metrics_port
    if metrics is not None and wanted.operations_from:  # nobody in `from` would be everybody
        scrapers = [_peer(one) for one in wanted.operations_from]
        rules.append({"ports": [{"port": metrics, "protocol": "TCP"}], "from": scrapers})
    spec = {"podSelector": {"matchLabels": selector(gateway)}, "policyTypes": ["Ingress"], "ingress": rules}
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(gateway),
            "spec": spec,
        }
    ]


def _peer(peer: Peer) -> Manifest:
    return peer.model_dump(mode="json", by_alias=True, exclude_none=True)


def network_faults(gateway: InferenceGateway) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what an API server would refuse of the NetworkPolicy and no schema can say: the field, and the fault."""
    policy = gateway.spec.network.network_policy
    for field, peers in (("from", policy.from_), ("operationsFrom", policy.operations_from)):
        for at, peer in enumerate(peers):
            if peer.ip_block is None:
                continue
            whole = ip_network(peer.ip_block.cidr, strict=False)
            for number, part in enumerate(map(partial(ip_network, strict=False), peer.ip_block.except_)):
                if part.version != whole.version or part == whole or not part.subnet_of(whole):  # type: ignore[arg-type]
                    place = ("spec", "network", "networkPolicy", field, at, "ipBlock", "except", number)
                    yield place, f"{part} doesn't lie within {whole}, or is all of it"


def operator_namespace_of(policy: Manifest) -> str | None:
    """Return the operator's namespace that a live NetworkPolicy admits; None: it is older than the operations port."""
    for rule in policy["spec"].get("ingress") or []:
        if any(one.get("port") == OPERATIONS_PORT for one in rule.get("ports") or []):
            for peer in rule.get("from") or []:
                named = (peer.get("namespaceSelector") or {}).get("matchLabels") or {}
                if _NAMESPACE_NAME in named:
                    return str(named[_NAMESPACE_NAME])
    return None


def disruption_budget(gateway: InferenceGateway) -> list[Manifest]:
    """Build the PodDisruptionBudget. A pod that isn't ready never blocks a node's drain."""
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


def ingress_or_route(gateway: InferenceGateway) -> list[Manifest]:
    """Build the Ingress, or the HTTPRoute, if one is wanted."""
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
    """Build the PodMonitor for Prometheus Operator."""
    wanted = gateway.spec.monitoring
    ports = ["operations"] if gateway.spec.inference.metrics_port is None else ["operations", MODEL_METRICS]
    endpoints = [{"port": port, "path": "/metrics", "interval": wanted.interval} for port in ports]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(gateway, more_labels=wanted.labels),
        "spec": {
            "selector": {"matchLabels": selector(gateway)},
            "podMetricsEndpoints": endpoints,
        },
    }
