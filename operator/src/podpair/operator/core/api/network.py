"""`spec.network`, and what keeps the pods apart, up and watched."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from podpair.operator.core.api.peers import Peer
from podpair.operator.core.api.rules import Distinct, Rule, Section
from podpair.operator.core.api.scalars import (
    Annotations,
    Count,
    Host,
    IntOrPercent,
    Name,
    ObjectName,
    Port,
    QualifiedName,
    Url,
    UrlPath,
    valid_names,
)

# As Prometheus Operator and the charts of the Prometheus community label its pods.
_PROMETHEUS = Peer.model_validate(
    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
)


class Service(Section):
    """The Service in front of the gateways."""

    RULES: ClassVar = (valid_names("annotations"),)
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """How it can be reached."""
    port: Port = 80
    """Its port."""
    annotations: Annotations = Field(default_factory=dict)
    """Annotations of the Service, such as a cloud's for its load balancer."""


class Ingress(Section):
    """An Ingress for the Service."""

    RULES: ClassVar = (valid_names("annotations"),)
    host: Host
    """The host name."""
    path: UrlPath = "/"
    """The path, and all below it. The gateways serve below it too (and at `/`), so that no proxy needs to strip it."""
    class_name: ObjectName | None = None
    """The IngressClass; default: the cluster's."""
    tls_secret_name: ObjectName | None = None
    """The Secret with the certificate; without: plain HTTP."""
    annotations: Annotations = Field(default_factory=dict)
    """Annotations, such as cert-manager.io/cluster-issuer, or the controller's time-outs for WebSockets."""


class ParentRef(Section):
    """A Gateway (Gateway API) that the route is attached to."""

    name: ObjectName
    """Its name."""
    namespace: Name | None = None
    """Its namespace; default: this one."""
    section_name: ObjectName | None = None
    """Its listener; default: all."""


# `namespace` is a word of CEL's own.
_SAME_PARENT = (
    "q.name == p.name && has(q.__namespace__) == has(p.__namespace__) && "
    "(!has(p.__namespace__) || q.__namespace__ == p.__namespace__)"
)


def _parents_differ(route: "Route") -> bool:
    refs = route.parent_refs
    for ref in refs:
        same = [one for one in refs if (one.name, one.namespace) == (ref.name, ref.namespace)]
        if len(same) > 1 and (
            ref.section_name is None or [one.section_name for one in same].count(ref.section_name) > 1
        ):
            return False
    return True


class Route(Section):
    """An HTTPRoute (Gateway API) for the Service."""

    RULES: ClassVar = (
        Rule(
            f"self.parentRefs.all(p, self.parentRefs.exists_one(q, {_SAME_PARENT}) || has(p.sectionName) && "
            f"self.parentRefs.exists_one(q, {_SAME_PARENT} && has(q.sectionName) && q.sectionName == p.sectionName))",
            "parentRefs: one Gateway is named twice: name a listener of it (sectionName) in each, and each once",
            _parents_differ,
        ),
    )

    parent_refs: Annotated[tuple[ParentRef, ...], Field(min_length=1, max_length=32)]
    """The Gateways that it is attached to."""
    hostnames: Annotated[tuple[Host, ...], Field(max_length=16)] = ()
    """Host names; default: the Gateways'."""
    path: UrlPath = "/"
    """The path, and all below it. The gateways serve below it too (and at `/`), so that no proxy needs to strip it."""


class NetworkPolicy(Section):
    """Who may reach the pods."""

    enabled: bool = True
    """Let only the gateway's ports be reached: the public one (8080) and the operators' (8083: probes, metrics). Policies of your
    own must let the operator's namespace reach the second: else sessions, latency and in-flight requests aren't known."""
    from_: Annotated[tuple[Peer, ...], Field(alias="from", max_length=32)] = ()
    """Who may reach the public port, as in a NetworkPolicy (podSelector, namespaceSelector, ipBlock); default: all. Ingress
    controllers, load balancers with health checks and `helm test` (app.kubernetes.io/name: inference-gateway-test) are to be
    named, too; the operator isn't: it asks at the operators' port."""
    operations_from: Annotated[tuple[Peer, ...], Field(max_length=32)] = Field(default_factory=lambda: (_PROMETHEUS,))
    """Who may reach the operators' port, besides the operator's namespace and the pod's own node (kubelet), which always may;
    default: Prometheus, by the label that Prometheus Operator gives its pods. None: nobody else."""


class Network(Section):
    """How clients reach the gateways."""

    RULES: ClassVar = (
        Rule(
            "!has(self.ingress) || !has(self.route)",
            "ingress and route are both set: choose one",
            lambda network: network.ingress is None or network.route is None,
        ),
    )
    service: Service = Field(default_factory=Service)
    """The Service in front of the gateways."""
    ingress: Ingress | None = None
    """An Ingress for the Service."""
    route: Route | None = None
    """An HTTPRoute (Gateway API) for the Service."""
    network_policy: NetworkPolicy = Field(default_factory=NetworkPolicy)
    """Who may reach the pods."""


class DisruptionBudget(Section):
    """How many pods may be evicted at a time, by the drain of a node for example."""

    RULES: ClassVar = (
        Rule(
            "!has(self.minAvailable) || !has(self.maxUnavailable)",
            "minAvailable and maxUnavailable are both set: choose one",
            lambda budget: budget.min_available is None or budget.max_unavailable is None,
        ),
    )
    enabled: bool = True
    """Keep a PodDisruptionBudget."""
    min_available: IntOrPercent | None = None
    """Pods that must stay, a number or `50%`."""
    max_unavailable: IntOrPercent | None = None
    """Pods that may be missing, a number or `50%`; default: 1."""


class TopologySpread(Section):
    """How the pods are spread over the cluster."""

    keys: Annotated[tuple[QualifiedName, ...], Field(max_length=8), Distinct()] = (
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    )
    """Labels of nodes over whose values they are spread; none: not at all."""
    max_skew: Count = 1
    """By how many pods two values may differ."""
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = "ScheduleAnyway"
    """What happens to a pod that would differ more."""


class Tracing(Section):
    """OpenTelemetry traces of requests: through the gateways and Kafka, to the model's container and its stages."""

    endpoint: Url
    """Where a collector takes spans over OTLP/HTTP, such as http://collector.monitoring:4318/v1/traces."""
    sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests that are traced, of those without a `traceparent`; with one, its sender has decided. The model's
    container records what the gateway does."""
