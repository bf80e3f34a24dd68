"""The resource as a whole: `inferencegateways.podpair.dev/v1alpha1`."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from podpair.operator.core.api.gateway import STOPPING_SECONDS, Gateway
from podpair.operator.core.api.inference import Inference, is_podpair_in_cel
from podpair.operator.core.api.kafka import Kafka
from podpair.operator.core.api.network import DisruptionBudget, Monitoring, Network, TopologySpread, Tracing
from podpair.operator.core.api.quantities import requested_in_cel
from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import seconds
from podpair.operator.core.api.scaling import Scaling
from podpair.operator.core.api.status import Status

GROUP = "podpair.dev"
VERSION = "v1alpha1"
KIND = "InferenceGateway"
PLURAL = "inferencegateways"
API_VERSION = f"{GROUP}/{VERSION}"
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
    return laid is None or seconds(spec.gateway.drain) + STOPPING_SECONDS <= laid


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
            f"duration(self.gateway.drain).getMilliseconds() + {STOPPING_SECONDS * 1000} <= "
            "self.inference.podTemplate.spec.terminationGracePeriodSeconds * 1000",
            "inference.podTemplate.spec.terminationGracePeriodSeconds is less than gateway.drain ({gateway.drain}) and the"
            f" {STOPPING_SECONDS} s after it take: leave it out, it follows drain",
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
    scaling: Scaling = Field(default_factory=Scaling)
    """How many pods, and what decides it."""
    network: Network = Field(default_factory=Network)
    """How clients reach the gateways."""
    disruption_budget: DisruptionBudget = Field(default_factory=DisruptionBudget)
    """How many pods may be evicted at a time."""
    topology_spread: TopologySpread = Field(default_factory=TopologySpread)
    """How the pods are spread over the cluster."""
    monitoring: Monitoring = Field(default_factory=Monitoring)
    """Metrics for Prometheus."""
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
