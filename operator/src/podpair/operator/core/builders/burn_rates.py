"""Objectives as Prometheus rules: how fast error budgets are spent, over two windows at a time.

Source: The Site Reliability Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts". An alert fires while the long window says
that much of the budget is gone, and the short one that it still goes; its windows are given for 30 days and grow and shrink with
`slo.window`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.prometheus import LATENCY_BOUNDS, SAMPLES, SHORTEST_WINDOWS
from podpair.operator.core.api.scalars import seconds
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.builders.promql import duration, number, pod_matchers

# The outcomes that are no client's fault. Left out: invalid, unauthorized, forbidden, not_found, cancelled.
FAILURES = ("deadline_exceeded", "internal", "lost", "overloaded", "upstream")
ERRORS, SLOW = "gateway:podpair_request_errors:ratio_rate", "gateway:podpair_slow_requests:ratio_rate"
_SLOW_BUDGET = 0.01  # of a 99th percentile


class BurnRate(NamedTuple):
    """An alert's windows, counted in the shortest one, the rate at which the budget is spent, and how urgent that is."""

    long: int
    short: int
    rate: float
    severity: str


BURN_RATES = (
    BurnRate(12, 1, 14.4, "critical"),
    BurnRate(72, 6, 6, "critical"),
    BurnRate(288, 24, 3, "warning"),
    BurnRate(864, 72, 1, "warning"),
)


class Budget(NamedTuple):
    """An objective: the recorded share of bad requests, and the share that may be bad."""

    alert: str
    record: str
    allowed: float
    summary: str


def window(gateway: InferenceGateway, length: int) -> str:
    """Return a window of so many shortest ones, as PromQL has it; it holds four scrapes at least, however rare they are."""
    monitoring = gateway.spec.monitoring
    wanted = seconds(monitoring.slo.window) / SHORTEST_WINDOWS * length
    return duration(max(wanted, SAMPLES * seconds(monitoring.interval)))


def error_ratio(matchers: str, over: str) -> str:
    """Return the expression for the share of requests that failed. No requests: NaN, which is above nothing."""
    bad = "|".join(FAILURES)

    def rate(outcomes: str) -> str:
        series = f'podpair_gateway_requests_completed_total{{{matchers},outcome=~"{outcomes}"}}'
        return f"sum(rate({series}[{over}]))"

    return f"{rate(bad)} / {rate(f'{bad}|result')}"


def slow_ratio(matchers: str, limit: float, over: str) -> str:
    """Return the expression for the share of direct requests that took longer than `limit` seconds, interpolated within a bucket
    as histogram_quantile does.
    """
    above = next(bound for bound in LATENCY_BOUNDS if limit <= bound)
    below = max((bound for bound in LATENCY_BOUNDS if bound < above), default=0.0)
    share = (limit - below) / (above - below)
    histogram = "podpair_gateway_request_duration_seconds"

    def bucket(bound: float) -> str:
        return f'sum(rate({histogram}_bucket{{{matchers},le="{bound}"}}[{over}]))'

    good = [f"{number(share)} * {bucket(above)}"]
    if share < 1 and below > 0:
        good.append(f"{number(1 - share)} * {bucket(below)}")
    return f"1 - ({' + '.join(good)}) / sum(rate({histogram}_count{{{matchers}}}[{over}]))"


def budgets(gateway: InferenceGateway) -> list[Budget]:
    """Return the objectives of the resource that have an error budget."""
    slo = gateway.spec.monitoring.slo
    allowed = (100 - slo.availability) / 100
    found = [
        Budget("PodpairErrorBudgetBurn", ERRORS, allowed, f"requests fail: the objective is {slo.availability:g} %")
    ]
    if slo.latency is not None:
        words = f"direct requests are slow: the objective is {slo.latency.p99} for 99 %"
        found.append(Budget("PodpairLatencyBudgetBurn", SLOW, _SLOW_BUDGET, words))
    return found


def recording_rules(gateway: InferenceGateway) -> Iterator[Manifest]:
    """Yield the rules that record the share of bad requests over each window."""
    matchers, slo = pod_matchers(gateway), gateway.spec.monitoring.slo
    labels = {"namespace": gateway.metadata.namespace, "gateway": gateway.metadata.name}
    lengths = sorted({length for rate in BURN_RATES for length in (rate.long, rate.short)})
    for over in dict.fromkeys(
        window(gateway, length) for length in lengths
    ):  # where scrapes are rare several are the same
        yield {"record": f"{ERRORS}{over}", "expr": error_ratio(matchers, over), "labels": dict(labels)}
        if slo.latency is not None:
            expression = slow_ratio(matchers, seconds(slo.latency.p99), over)
            yield {"record": f"{SLOW}{over}", "expr": expression, "labels": dict(labels)}


def burn_expression(gateway: InferenceGateway, budget: Budget, rate: BurnRate) -> str | None:
    """Return the condition of one alert; None: everything may fail, and the budget isn't spent at this rate."""
    threshold = rate.rate * budget.allowed
    if threshold >= 1:
        return None
    labels = f'{{namespace="{gateway.metadata.namespace}",gateway="{gateway.metadata.name}"}}'
    long, short = (f"{budget.record}{window(gateway, length)}{labels}" for length in (rate.long, rate.short))
    return f"{long} > {number(threshold)} and {short} > {number(threshold)}"
