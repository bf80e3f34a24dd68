"""The resource as a whole: `inferencegateways.podpair.dev/v1alpha1`."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from podpair.operator.core.api.amqp import Amqp
from podpair.operator.core.api.deliveries import Deliveries
from podpair.operator.core.api.gateway import STOPPING_SECONDS, Gateway
from podpair.operator.core.api.inference import Inference, is_podpair_in_cel
from podpair.operator.core.api.kafka import Kafka
from podpair.operator.core.api.network import DisruptionBudget, Network, TopologySpread, Tracing
from podpair.operator.core.api.prometheus import Monitoring
from podpair.operator.core.api.quantities import requested_in_cel
from podpair.operator.core.api.rollout import Rollout
from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import seconds
from podpair.operator.core.api.scaling import Scaling
from podpair.operator.core.api.status import Status

GROUP = "podpair.dev"
VERSION = "v1alpha1"
KIND = "InferenceGateway"
PLURAL = "inferencegateways"
API_VERSION = f"{GROUP}/{VERSION}"
PAUSED = f"{GROUP}/paused"
"""The annotation by which the operator writes nothing but the status."""
LONGEST_NAME = 52  # with a suffix it is still a name, and a label's value, of 63


_FIXED = "has(self.replicas) || self.scaling.min == self.scaling.max"


def _scaled_by(spec: "Spec", measure: str) -> bool:
    fixed = spec.replicas is not None or spec.scaling.min == spec.scaling.max
    return not fixed and any(getattr(metric, measure) is not None for metric in spec.scaling.metrics)


def _tells_latency(spec: "Spec") -> bool:
    return spec.inference.is_podpair and spec.inference.protocol == "rest"


def _cpu_rule(half: str) -> Rule:
    """Return the rule that every container requests CPU: else a HorizontalPodAutoscaler can't scale the pods by it."""
    return Rule(
        f"!self.scaling.metrics.exists(m, has(m.cpu)) || {_FIXED} || {requested_in_cel(f'self.{half}', 'cpu')}",
        f"scaling by cpu is measured against what the containers request: set {half}.resources.requests.cpu,"
        " or scale by another metric",
        lambda spec: not _scaled_by(spec, "cpu") or getattr(spec, half).resources.is_requested("cpu"),
    )


def _stopped_in_time(spec: "Spec") -> bool:
    laid = (spec.inference.pod_template.spec or {}).get("terminationGracePeriodSeconds")
    needs = seconds(spec.gateway.drain) + seconds(spec.gateway.shutdown_timeout) + STOPPING_SECONDS
    return laid is None or needs <= laid


_DELIVERY_TOPICS = (".subscriptions", ".retry", ".ordered", ".dlq", "")


def _takes_delivery_topic(spec: "Spec") -> bool:
    topic = (spec.deliveries.topic if spec.deliveries is not None else None) or ".deliveries"
    names = (spec.kafka.requests.name or "", spec.kafka.results.name or "")
    return any(name.endswith(topic + suffix) for name in names for suffix in _DELIVERY_TOPICS)


class Spec(Section):
    """What is wanted."""

    RULES: ClassVar = (
        Rule(
            "self.kafka.requests.partitions >= self.scaling.max",
            "kafka.requests.partitions ({kafka.requests.partitions}) is less than scaling.max ({scaling.max}):"
            " pods beyond the partitions would get no queued work",
            lambda spec: spec.kafka.requests.partitions >= spec.scaling.max,
        ),
        Rule(
            "self.kafka.results.partitions >= self.scaling.max",
            "kafka.results.partitions ({kafka.results.partitions}) is less than scaling.max ({scaling.max}):"
            " pods beyond the partitions would be home to no session",
            lambda spec: spec.kafka.results.partitions >= spec.scaling.max,
        ),
        Rule(
            "!has(self.replicas) || self.replicas <= self.kafka.requests.partitions",
            "replicas is greater than kafka.requests.partitions ({kafka.requests.partitions}):"
            " pods beyond the partitions would get no queued work",
            lambda spec: spec.replicas is None or spec.replicas <= spec.kafka.requests.partitions,
        ),
        Rule(
            "!has(self.gateway.workflows) || !has(self.amqp) || self.amqp.source == 'both'",
            "gateway.workflows needs Kafka's requests topic, which isn't read: amqp.source is amqp, not both",
            lambda spec: spec.gateway.workflows is None or spec.amqp is None or spec.amqp.source == "both",
        ),
        Rule(
            f"self.scaling.min > 0 || !has(self.amqp) || {_FIXED}",
            "scaling.min is 0, and with no pods nobody sees what waits in RabbitMQ: set it to 1, or leave amqp out",
            lambda spec: spec.scaling.min > 0 or spec.amqp is None or spec.replicas is not None,
        ),
        Rule(
            f"self.scaling.min > 0 || !has(self.deliveries) && !has(self.gateway.workflows) || {_FIXED}",
            "scaling.min is 0, and with no pods workflows stand still and deliveries aren't tried again, which no lag shows: set"
            " it to 1, or leave gateway.workflows and deliveries out",
            lambda spec: (
                spec.scaling.min > 0
                or (spec.deliveries is None and spec.gateway.workflows is None)
                or spec.replicas is not None
            ),
        ),
        Rule(
            f"!has(self.deliveries) || [{', '.join(repr(one) for one in _DELIVERY_TOPICS)}].all(s, "
            "!(has(self.kafka.requests.name) && self.kafka.requests.name.endsWith("
            "(has(self.deliveries.topic) ? self.deliveries.topic : '.deliveries') + s)) && "
            "!(has(self.kafka.results.name) && self.kafka.results.name.endsWith("
            "(has(self.deliveries.topic) ? self.deliveries.topic : '.deliveries') + s)))",
            "kafka.requests.name or kafka.results.name is that of a topic of deliveries (deliveries.topic): choose another",
            lambda spec: spec.deliveries is None or not _takes_delivery_topic(spec),
        ),
        _cpu_rule("inference"),
        _cpu_rule("gateway"),
        Rule(
            f"!self.scaling.metrics.exists(m, has(m.latency)) || {_FIXED} || "
            f"{is_podpair_in_cel('self.inference')} && self.inference.protocol == 'rest'",
            "scaling by latency needs what only podpair-inference exports, over REST: scale by inflight, lag or another metric",
            lambda spec: not _scaled_by(spec, "latency") or _tells_latency(spec),
        ),
        Rule(
            "!has(self.inference.podTemplate) || !has(self.inference.podTemplate.spec) || "
            "!has(self.inference.podTemplate.spec.terminationGracePeriodSeconds) || "
            "duration(self.gateway.drain).getMilliseconds() + duration(self.gateway.shutdownTimeout).getMilliseconds() + "
            f"{STOPPING_SECONDS * 1000} <= "
            "self.inference.podTemplate.spec.terminationGracePeriodSeconds * 1000",
            "inference.podTemplate.spec.terminationGracePeriodSeconds is less than gateway.drain ({gateway.drain}),"
            f" gateway.shutdownTimeout ({{gateway.shutdownTimeout}}) and {STOPPING_SECONDS} s more take: leave it out, it"
            " follows them",
            _stopped_in_time,
        ),
    )
    replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """A fixed number of pods: then `scaling` is not used. `kubectl scale` sets it, or an autoscaler of your own."""
    inference: Inference
    """The half that computes."""
    gateway: Gateway
    """The half that holds connections, sessions and queues."""
    kafka: Kafka
    """The broker, the two topics, and the group of gateways that works on requests."""
    amqp: Amqp | None = None
    """A queue of RabbitMQ that requests are taken from, too; default: none."""
    deliveries: Deliveries | None = None
    """Results for those who aren't connected: webhooks, Slack, e-mail and Web Push; default: none."""
    scaling: Scaling = Field(default_factory=Scaling)
    """How many pods, and what decides it."""
    rollout: Rollout = Field(default_factory=Rollout)
    """How pods of a new template take the place of the old ones."""
    network: Network = Field(default_factory=Network)
    """How clients reach the gateways."""
    disruption_budget: DisruptionBudget = Field(default_factory=DisruptionBudget)
    """How many pods may be evicted at a time."""
    topology_spread: TopologySpread = Field(default_factory=TopologySpread)
    """How the pods are spread over the cluster."""
    monitoring: Monitoring = Field(default_factory=Monitoring)
    """Metrics for Prometheus, alerts on them, and a dashboard of Grafana's."""
    tracing: Tracing | None = None
    """OpenTelemetry traces of requests; default: none."""


_Names = Annotated[dict[str, str], BeforeValidator(lambda value: {} if value is None else value)]


class Metadata(BaseModel):
    """The part of the metadata that podpair reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    namespace: str = "default"
    uid: str | None = None
    """Unset: not in a cluster yet."""
    generation: int | None = None
    labels: _Names = Field(default_factory=dict)
    annotations: _Names = Field(default_factory=dict)


NAME_RULE = Rule(
    f"size(self.metadata.name) <= {LONGEST_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    f"metadata.name must be at most {LONGEST_NAME} lower-case letters, digits and hyphens, and begin with a letter:"
    " the Service and the other objects are named after it",
)


class InferenceGateway(BaseModel):
    """A model that live clients talk to: pairs of an inference container and a gateway, scaled by load."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    api_version: Annotated[Literal["podpair.dev/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["InferenceGateway"]
    metadata: Metadata
    spec: Spec
    """What is wanted."""
    status: Status | None = None
    """What the operator has observed."""

    @model_validator(mode="after")
    def _name(self) -> Self:
        name = self.metadata.name
        good = name[:1].isalpha() and name[-1:].isalnum() and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        if not good or len(name) > LONGEST_NAME:
            broken = [NAME_RULE.message]
            raise PydanticCustomError("broken_rules", "{summary}", {"summary": broken[0], "broken": broken})
        return self
