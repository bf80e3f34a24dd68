"""`spec.scaling`: how many pods, and what decides it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import Count, Duration, Url

MEASURES = ("cpu", "lag", "latency", "sessions", "inflight")


class Metric(Section):
    """One measure and its target; the one that asks for most pods decides."""

    RULES: ClassVar = (
        Rule(
            "[has(self.cpu), has(self.lag), has(self.latency), has(self.sessions), has(self.inflight)]"
            ".filter(m, m).size() == 1",
            "each metric has exactly one of cpu, lag, latency, sessions, inflight",
            lambda metric: sum(getattr(metric, name) is not None for name in MEASURES) == 1,
        ),
    )
    cpu: Annotated[int, Field(ge=1, le=1000)] | None = None
    """CPU used by a pod, in per cent of what its containers request."""
    lag: Count | None = None
    """Waiting queued requests, per pod."""
    latency: Duration | None = None
    """Latency of the model, 95th percentile: podpair-inference measures it, and exports it over REST only."""
    sessions: Count | None = None
    """Sessions with a client connected, per pod."""
    inflight: Count | None = None
    """Requests in flight, per pod."""


class Policy(Section):
    """How much the number of pods may change in a period, as in autoscaling/v2."""

    type: Literal["Pods", "Percent"]
    """What value counts."""
    value: Count
    """The change."""
    period_seconds: Annotated[int, Field(ge=1, le=1800)]
    """The period."""


class Direction(Section):
    """Scaling up or down, as in autoscaling/v2."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """How far back the autoscaler looks before it acts."""
    select_policy: Literal["Max", "Min", "Disabled"] | None = None
    """Which policy counts."""
    policies: Annotated[tuple[Policy, ...], Field(min_length=1, max_length=8)] | None = None
    """What may change in which period."""


class Behavior(Section):
    """How fast the number of pods may change, as in autoscaling/v2; what is left out has podpair's default."""

    scale_up: Direction = Field(default_factory=Direction)
    """Default: at once, by 4 pods or by as many as there are in 15 s."""
    scale_down: Direction = Field(default_factory=Direction)
    """Default: after 5 minutes of less load, by a tenth of the pods or by one in a minute: each pod that goes moves sessions."""


def _measured(scaling: "Scaling") -> bool:
    from_prometheus = any(m.latency or m.sessions or m.inflight for m in scaling.metrics)
    return scaling.provider != "keda" or scaling.prometheus_url is not None or not from_prometheus


class Scaling(Section):
    """How many pods, and what decides it. With min = max no autoscaler is made."""

    RULES: ClassVar = (
        Rule("self.min <= self.max", "min ({min}) is greater than max ({max})", lambda s: s.min <= s.max),
        Rule(
            "self.provider != 'keda' || has(self.prometheusUrl) || "
            "!self.metrics.exists(m, has(m.latency) || has(m.sessions) || has(m.inflight))",
            "KEDA reads latency, sessions and inflight from Prometheus: set prometheusUrl",
            _measured,
        ),
        Rule(
            "self.min > 0 || self.metrics.exists(m, has(m.lag))",
            "with min: 0 lag must be among the metrics: while there are no pods nobody measures the others, and none would come"
            " back",
            lambda s: s.min > 0 or any(metric.lag is not None for metric in s.metrics),
        ),
    )
    min: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Minimum number of pods. 0: none while nothing is queued; requests that wait in Kafka bring them back, clients can't connect
    until then. It needs `lag` among the metrics, and KEDA or the API server's feature gate HPAScaleToZero."""
    max: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Maximum number of pods: no more than the topics have partitions."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=10)] = (Metric(cpu=70),)
    """What decides."""
    behavior: Behavior = Field(default_factory=Behavior)
    """How fast the number of pods may change."""
    provider: Literal["hpa", "keda"] = "hpa"
    """Who scales: a HorizontalPodAutoscaler, or a KEDA ScaledObject."""
    prometheus_url: Url | None = None
    """The Prometheus that KEDA asks for latency, sessions and inflight."""
