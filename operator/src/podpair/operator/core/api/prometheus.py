"""`spec.monitoring`: what Prometheus scrapes, what it alerts on, and what Grafana shows."""

from typing import Annotated, ClassVar

from pydantic import Field

from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import Duration, Labels, seconds, valid_names

LATENCY_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
"""The buckets of the gateway's podpair_gateway_request_duration_seconds, in seconds: a test holds them to it."""
SHORTEST_WINDOWS = 8640
"""How often the shortest window of a burn rate fits into the window of the objectives: 5 minutes into 30 days."""
SAMPLES = 4  # scrapes that a window holds at least: a rate needs two, and one may fail


class LatencyObjective(Section):
    """How fast direct requests are answered."""

    RULES: ClassVar = (
        Rule(
            f"duration(self.p99).getMilliseconds() <= {round(LATENCY_BOUNDS[-1] * 1000)}",
            f"p99 ({{p99}}) must be {LATENCY_BOUNDS[-1]:.0f}s at most: the gateway's histogram knows no more",
            lambda latency: seconds(latency.p99) <= LATENCY_BOUNDS[-1],
        ),
    )
    p99: Duration
    """What 99 % of the direct requests don't exceed, measured by the gateways from `infer` to the answer."""


class Objectives(Section):
    """Service level objectives, on which alerts are made."""

    availability: Annotated[float, Field(ge=50, le=99.999)] = 99.9
    """Share of requests, in per cent, that get a result, of those that end with one or with an error that isn't the client's."""
    latency: LatencyObjective | None = None
    """How fast direct requests are answered; default: no objective."""
    lag_age: Duration | None = None
    """How long a queued request may wait for its end; default: no objective."""
    window: Duration = "720h"
    """The time over which availability and latency hold. Alerts compare how fast their error budgets are spent with it: over
    1/720 of it and 1/120 (at 30 days an hour and 6), which page, and over 1/30 and 1/10, which don't. No time that is looked at
    is shorter than four of `interval`."""


def _sees_age(monitoring: "Monitoring") -> bool:
    age = monitoring.slo.lag_age
    return age is None or seconds(age) >= SAMPLES * seconds(monitoring.interval)


class Monitoring(Section):
    """Metrics for Prometheus, alerts on them, and a dashboard of Grafana's."""

    RULES: ClassVar = (
        valid_names("labels"),
        Rule(
            "!self.alerts || !has(self.slo.lagAge) || duration(self.slo.lagAge).getMilliseconds() >= "
            f"{SAMPLES} * duration(self.interval).getMilliseconds()",
            f"slo.lagAge is less than {SAMPLES} times interval ({{interval}}): scrapes can't see so short an age",
            lambda monitoring: not monitoring.alerts or _sees_age(monitoring),
        ),
    )
    pod_monitor: bool = True
    """Make a PodMonitor if the cluster knows that kind."""
    interval: Duration = "30s"
    """How often it is scraped."""
    labels: Labels = Field(default_factory=dict)
    """Labels of the PodMonitor and the PrometheusRule, by which a Prometheus selects them."""
    slo: Objectives = Field(default_factory=Objectives)
    """Service level objectives, on which alerts are made."""
    alerts: bool = True
    """Make a PrometheusRule if the cluster knows that kind: alerts on `slo`, and on what goes wrong."""
    alert_after: Duration = "5m"
    """How long a state must last before it is alerted on, such as a model that isn't ready."""
    certificate_expiry: Duration = "336h"
    """How long before it ends the certificate of `gateway.tls` is alerted on; in the last quarter of that it is critical."""
    runbook: Annotated[str, Field(pattern=r"^[^\s#]+$", max_length=2048)] = "docs/alerts.md"
    """The page that alerts lead to (`runbook_url`), at the heading of their name: where you publish that page of podpair's
    documentation, or your own."""
    dashboard: bool = False
    """Make a ConfigMap with a dashboard, labelled `grafana_dashboard: "1"` for the sidecar of Grafana's chart."""
