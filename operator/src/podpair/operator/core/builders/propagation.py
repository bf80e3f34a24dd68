"""Which labels and annotations of a resource its objects have, too.

All but those by which tools recognize what they applied: an object that has them, too, looks like one that was removed from
its source, and is pruned (Argo CD, kubectl's ApplySets, Flux, Rancher). Source: Strimzi's rule for labels, cert-manager's
for annotations. Pods are left out: a new label would replace them all, and every client would have to move.
"""

from collections.abc import Mapping

from podpair.operator.core.api.igw import InferenceGateway

SWITCH = "podpair.dev/propagate"
"""The annotation that turns it off: "false"."""
KEPT_BACK_DOMAINS = (
    "kubernetes.io", "k8s.io",  # kubectl, ApplySets, app.kubernetes.io/instance (Argo CD), what clouds read of a Service
    "argoproj.io", "cattle.io", "crossplane.io", "fluxcd.io", "gke.io", "helm.sh", "k14s.io", "k8s-agent.gitlab.com",
    "kopf.dev", "kopf.zalando.org", "operatorframework.io", "operators.coreos.com", "pulumi.com", "skaffold.dev", "tanka.dev",
    "werf.io",
    "podpair.dev",
)  # fmt: skip
"""Domains of names that stay at the resource, with all below them."""
_EXCEPTIONS = frozenset({"app.kubernetes.io/part-of", "app.kubernetes.io/component"})


def propagated_labels(gateway: InferenceGateway) -> dict[str, str]:
    """Return the resource's labels that its objects have, too."""
    return _propagated(gateway, gateway.metadata.labels)


def propagated_annotations(gateway: InferenceGateway) -> dict[str, str]:
    """Return the resource's annotations that its objects have, too."""
    return _propagated(gateway, gateway.metadata.annotations)


def _propagated(gateway: InferenceGateway, given: Mapping[str, str]) -> dict[str, str]:
    if gateway.metadata.annotations.get(SWITCH) == "false":
        return {}
    return {name: given[name] for name in sorted(given) if _is_propagated(name)}


def _is_propagated(name: str) -> bool:
    domain, _, _ = name.rpartition("/")
    kept_back = any(domain == one or domain.endswith(f".{one}") for one in KEPT_BACK_DOMAINS)
    return name in _EXCEPTIONS or not kept_back
