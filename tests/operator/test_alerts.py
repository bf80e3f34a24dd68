"""The alerts of a resource in Prometheus' own unit tests: each fires at its fault, and none where all is well."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.desired_objects import DEPENDENCIES, objects
from harness.prometheus import Alerts, check_rules, firing

KNOWN = replace(DEPENDENCIES, prometheus_rules=True)
PODS = ("digits-5d4f8c7b9-abcde", "digits-5d4f8c7b9-fghij")
DAY = 86_400
OUTCOMES = ("result", "upstream", "invalid", "cancelled")
#: What makes every kind of alert: each section that some are left out without.
ALL_OF_IT: dict[str, Any] = {
    "monitoring": {"slo": {"latency": {"p99": "200ms"}, "lagAge": "4m"}, "interval": "1m"},
    "gateway__auth": {"jwksUrl": "https://login.example/jwks"},
    "gateway__tls": {"certificateRef": {"name": "public"}},
    "gateway__cache": {"models": [{"model": "digits"}]},
    "amqp": {"urlRef": {"name": "rabbitmq", "key": "url"}},
    "gateway__workflows": {},
    "deliveries": {},
}
MINUTES = 40
Series = dict[str, str]

pytestmark = pytest.mark.process


def spec(**changed: Any) -> dict[str, Any]:
    made: dict[str, Any] = objects(KNOWN, **{**ALL_OF_IT, **changed})["PrometheusRule"]["spec"]
    return made


def rules(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for group in made["groups"]:
        yield from group["rules"]


def alerts_of(made: Mapping[str, Any]) -> Alerts:
    return {(rule["alert"], rule["labels"]["severity"]) for rule in rules(made) if "alert" in rule}


def series(name: str, pod: str = PODS[0], **labels: str) -> str:
    named = {"namespace": "default", "pod": pod, **labels}
    matchers = ",".join(f'{label}="{value}"' for label, value in named.items())
    return f"{name}{{{matchers}}}"


def of(name: str, **labels: str) -> str:
    return series(f"podpair_gateway_{name}", **labels)


def steady(value: float) -> str:
    return f"{value:g}x{MINUTES}"


def growing(by: float, start: float = 0) -> str:
    return f"{start:g}+{by:g}x{MINUTES}"


def from_minute(minute: int, before: float, after: float) -> str:
    return f"{before:g}x{minute - 1} {after:g}x{MINUTES - minute}"


def well() -> Series:
    """Two pods that have run for a while, with traffic and what a large fleet always has of faults."""
    made: Series = {}
    for pod in PODS:
        made |= {
            series("up", pod): steady(1),
            series("process_start_time_seconds", pod): steady(-DAY),
            of("inference_ready", pod=pod): steady(1),
            of("kafka_ready", pod=pod): steady(1),
            of("topics_ready", pod=pod): steady(1),
            of("auth_ready", pod=pod): steady(1),
            of("cache_current", pod=pod): steady(1),
            of("requests_paused", pod=pod): steady(0),
            of("request_partitions", pod=pod): steady(8),
            of("sessions", pod=pod): steady(1000),
            of("sessions_closed_total", pod=pod, reason="slow"): growing(0.5),
            of("requests_lag", pod=pod, partition="1"): steady(50),
            of("queue_requests_total", pod=pod, outcome="result"): growing(3000),
            of("dead_letters_total", pod=pod): steady(7),
            of("gaps_total", pod=pod, reason="epoch"): steady(3),
            of("results_records_misplaced_total", pod=pod, outcome="undelivered"): steady(3),
            of("results_records_misplaced_total", pod=pod, outcome="delivered"): growing(1),
            of("results_records_malformed_total", pod=pod, type="push"): steady(1),
            of("kafka_client_restarts_total", pod=pod, client="results", reason="stalled"): growing(0.05),
            of("rebalances_total", pod=pod, event="assigned"): growing(0.2),
            of("tls_reloads_total", pod=pod, outcome="success"): growing(1),
            of("tls_reloads_total", pod=pod, outcome="failure"): steady(1),
            of("tls_certificate_expiration_timestamp_seconds", pod=pod): steady(60 * DAY),
            of("amqp_ready", pod=pod): steady(1),
            of("amqp_replies_total", pod=pod, outcome="confirmed"): growing(1000),
            of("amqp_replies_total", pod=pod, outcome="unroutable"): growing(1),
            of("amqp_replies_total", pod=pod, outcome="refused"): steady(2),
            of("workflows_ready", pod=pod): steady(1),
            of("workflow_idle_seconds", pod=pod, state="running"): steady(50),
            of("workflow_idle_seconds", pod=pod, state="waiting"): growing(60, 10_000),
            of("deliveries_total", pod=pod, kind="webhook", outcome="delivered"): growing(100),
            of("deliveries_total", pod=pod, kind="webhook", outcome="failed"): steady(3),
            of("deliveries_circuit_open_seconds", pod=pod, host="example.com:443"): f"{10 * '0 60 '}_x{MINUTES}",
            **requests(0.0004, pod),
            **latencies(0.003, pod),
        }
    return made


def requests(failing: float, pod: str = PODS[0]) -> Series:
    """10,000 requests a minute, of which this share fails; as many again that are their clients' fault."""
    rates = {"result": 10_000 * (1 - failing), "upstream": 10_000 * failing, "invalid": 5000, "cancelled": 5000}
    return {of("requests_completed_total", pod=pod, outcome=one): growing(rates[one]) for one in OUTCOMES}


def latencies(slow: float, pod: str = PODS[0]) -> Series:
    """10,000 direct requests a minute, of which this share takes longer than 500 ms, the others less than 100 ms."""
    name = "request_duration_seconds"
    shares = {"0.05": 0.9, "0.1": 1 - slow, "0.5": 1 - slow, "1.0": 1, "+Inf": 1}
    made = {of(f"{name}_bucket", pod=pod, le=le): growing(10_000 * share) for le, share in shares.items()}
    return made | {of(f"{name}_count", pod=pod): growing(10_000)}


def in_both(change: Mapping[str, str]) -> Series:
    return {name.replace(PODS[0], pod): values for name, values in change.items() for pod in PODS}


#: What is other than when all is well, what fires 35 minutes after, and nothing else.
FAULTS: dict[str, tuple[Series, Alerts]] = {
    "a model": ({of("inference_ready"): from_minute(10, 1, 0)}, {("PodpairModelNotReady", "warning")}),
    "every model": (
        in_both({of("inference_ready"): from_minute(10, 1, 0)}),
        {("PodpairModelNotReady", "warning"), ("PodpairModelDown", "critical")},
    ),
    "no pod is scraped": (in_both({series("up"): from_minute(10, 1, 0)}), {("PodpairDown", "critical")}),
    "the broker": ({of("kafka_ready"): from_minute(10, 1, 0)}, {("PodpairKafkaNotReady", "critical")}),
    "a topic": ({of("topics_ready"): from_minute(10, 1, 0)}, {("PodpairTopicsNotReady", "critical")}),
    "the issuer": ({of("auth_ready"): from_minute(10, 1, 0)}, {("PodpairIssuerKeysMissing", "critical")}),
    "the cache": ({of("cache_current"): from_minute(10, 1, 0)}, {("PodpairCacheNotCurrent", "warning")}),
    "paused": ({of("requests_paused"): from_minute(10, 0, 1)}, {("PodpairRequestsPaused", "warning")}),
    "Kafka clients": (
        {of("kafka_client_restarts_total", client="results", reason="stalled"): growing(0.5)},
        {("PodpairKafkaClientsRestarting", "warning")},
    ),
    "rebalances": (
        in_both({of("rebalances_total", event="assigned"): growing(2)}), {("PodpairRebalanceStorm", "warning")},
    ),
    "a certificate": (
        {of("tls_certificate_expiration_timestamp_seconds"): steady(13 * DAY)},
        {("PodpairCertificateExpiring", "warning")},
    ),
    "a certificate that nobody renews": (
        {of("tls_certificate_expiration_timestamp_seconds"): steady(3 * DAY)},
        {("PodpairCertificateExpiring", "warning"), ("PodpairCertificateExpiring", "critical")},
    ),
    "a bad certificate": (
        {of("tls_reloads_total", outcome="failure"): from_minute(30, 1, 2)},
        {("PodpairCertificateNotReloaded", "warning")},
    ),
    "the first bad certificate": (
        {of("tls_reloads_total", outcome="failure"): f"_x30 1x{MINUTES - 30}"},
        {("PodpairCertificateNotReloaded", "warning")},
    ),
    "dead letters": ({of("dead_letters_total"): from_minute(30, 7, 8)}, {("PodpairDeadLetters", "warning")}),
    "gaps": ({of("gaps_total", reason="epoch"): from_minute(30, 3, 4)}, {("PodpairGaps", "warning")}),
    "the first gap": (
        {of("gaps_total", reason="retention"): f"_x30 1x{MINUTES - 30}"}, {("PodpairGaps", "warning")},
    ),
    "slow clients": (
        {of("sessions_closed_total", reason="slow"): growing(10)}, {("PodpairClientsDropped", "warning")},
    ),
    "misplaced records": (
        {of("results_records_misplaced_total", outcome="undelivered"): from_minute(30, 3, 9)},
        {("PodpairRecordsMisplaced", "warning")},
    ),
    "malformed records": (
        {of("results_records_malformed_total", type="push"): from_minute(30, 1, 9)},
        {("PodpairRecordsMalformed", "warning")},
    ),
    "RabbitMQ": ({of("amqp_ready"): from_minute(10, 1, 0)}, {("PodpairRabbitmqNotReady", "critical")}),
    "answers that RabbitMQ refuses": (
        {of("amqp_replies_total", outcome="refused"): from_minute(30, 2, 3)},
        {("PodpairRabbitmqAnswersLost", "warning")},
    ),
    "the state of workflows": (
        {of("workflows_ready"): from_minute(10, 1, 0)}, {("PodpairWorkflowsNotReady", "critical")},
    ),
    "a workflow that stands still": (
        {of("workflow_idle_seconds", state="running"): growing(60, 3000)}, {("PodpairWorkflowStuck", "warning")},
    ),
    "a receiver": (
        {of("deliveries_circuit_open_seconds", host="example.com:443"): growing(60)},
        {("PodpairReceiverDown", "warning")},
    ),
    "deliveries": (
        {of("deliveries_total", kind="webhook", outcome="failed"): from_minute(30, 3, 4)},
        {("PodpairDeliveriesFailed", "warning")},
    ),
    "the first e-mail that fails": (
        {of("deliveries_total", kind="email", outcome="failed"): f"_x30 1x{MINUTES - 30}"},
        {("PodpairDeliveriesFailed", "warning")},
    ),
    "nothing is taken from the queue": (
        in_both({of("queue_requests_total", outcome="result"): from_minute(10, 3000, 3000)}),
        {("PodpairQueueAgeHigh", "warning")},
    ),
    "the queue is too long": (
        in_both({of("requests_lag", partition="1"): growing(100, 20_000)}), {("PodpairQueueAgeHigh", "warning")},
    ),
    # The budget is 0.1 %: 2 % spend it 20 times too fast, and each slower alert sees that, too.
    "2 % fail": (
        in_both(requests(0.02)), {("PodpairErrorBudgetBurn", "critical"), ("PodpairErrorBudgetBurn", "warning")},
    ),
    "0.7 % fail": (
        in_both(requests(0.007)), {("PodpairErrorBudgetBurn", "critical"), ("PodpairErrorBudgetBurn", "warning")},
    ),
    "0.4 % fail": (in_both(requests(0.004)), {("PodpairErrorBudgetBurn", "warning")}),
    "0.2 % fail": (in_both(requests(0.002)), {("PodpairErrorBudgetBurn", "warning")}),
    "20 % are slow": (
        in_both(latencies(0.2)), {("PodpairLatencyBudgetBurn", "critical"), ("PodpairLatencyBudgetBurn", "warning")},
    ),
    "2 % are slow": (in_both(latencies(0.02)), {("PodpairLatencyBudgetBurn", "warning")}),
}  # fmt: skip


def test_nothing_fires_where_all_is_well(tmp_path: Path) -> None:
    assert firing(tmp_path, spec(), well(), range(1, MINUTES)) == [set()] * (MINUTES - 1)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fires_its_alert_and_no_other(tmp_path: Path, fault: str) -> None:
    changed, expected = FAULTS[fault]
    before, after = firing(tmp_path, spec(), well() | changed, [9, 35])
    assert after == expected
    if any(" " in values for values in changed.values()):
        assert before in (set(), expected)  # only from its beginning on


def test_every_alert_is_fired_by_a_fault() -> None:
    assert set.union(*(expected for _, expected in FAULTS.values())) == alerts_of(spec())


def test_the_rules_please_promtool(tmp_path: Path) -> None:
    for changed in ({}, {"monitoring": {"slo": {"availability": 60, "window": "576h", "latency": {"p99": "1ms"}}}}):
        assert "SUCCESS" in check_rules(tmp_path, spec(**changed))


def test_a_runbook_s_address_is_no_template(tmp_path: Path) -> None:
    made = spec(monitoring={"runbook": "https://wiki.example/{{alerts}}/a"})
    assert "SUCCESS" in check_rules(tmp_path, made)
    found = {rule["annotations"]["runbook_url"] for rule in rules(made) if "annotations" in rule}
    assert all(one.startswith('https://wiki.example/{{ "{{" }}alerts}}/a#podpair') for one in found)


def test_an_outage_that_is_over_does_not_page_any_more(tmp_path: Path) -> None:
    """The short window ends an alert, the long one would go on for an hour."""
    over = {
        of("requests_completed_total", outcome="upstream"): f"0x9 0+10000x5 50000x{MINUTES - 15}",
        of("requests_completed_total", outcome="result"): growing(10_000),
    }
    during, after = firing(tmp_path, spec(), well() | over, [14, 26], by="long")
    assert ("PodpairErrorBudgetBurn", "1h") in during
    assert ("PodpairErrorBudgetBurn", "1h") not in after
    assert ("PodpairErrorBudgetBurn", "6h") in after  # whose short window is half an hour


def test_which_burn_rate_fires_follows_from_the_share_that_fails(tmp_path: Path) -> None:
    fired = []
    for share in (0.0005, 0.002, 0.004, 0.007, 0.02):
        (found,) = firing(tmp_path, spec(), well() | in_both(requests(share)), [35], by="long")
        fired.append({long for name, long in found if name == "PodpairErrorBudgetBurn"})
    assert fired == [set(), {"3d"}, {"3d", "1d"}, {"3d", "1d", "6h"}, {"3d", "1d", "6h", "1h"}]


def test_no_traffic_is_no_failure(tmp_path: Path) -> None:
    silent = {
        name: steady(5)
        for name in well()
        if "requests_completed" in name or "request_duration" in name or "queue_requests" in name
    } | {name: steady(0) for name in well() if "requests_lag" in name}
    assert firing(tmp_path, spec(), well() | silent, [10, 35]) == [set(), set()]


def test_counters_of_before_an_outage_of_prometheus_are_no_news(tmp_path: Path) -> None:
    """Their series begin above 0, and yet nothing has happened: their process is old, and nothing was scraped."""
    gone = {name: f"_x20 {values.split(' ')[0]}" for name, values in well().items()}
    assert firing(tmp_path, spec(), gone, range(21, 26)) == [set()] * 5


def test_alerts_follow_what_the_resource_has() -> None:
    plain = {name for name, _ in alerts_of(objects(KNOWN)["PrometheusRule"]["spec"])}
    every = {name for name, _ in alerts_of(spec())}
    assert every - plain == {
        "PodpairLatencyBudgetBurn", "PodpairQueueAgeHigh", "PodpairIssuerKeysMissing", "PodpairCacheNotCurrent",
        "PodpairCertificateExpiring", "PodpairCertificateNotReloaded", "PodpairRabbitmqNotReady", "PodpairDeliveriesFailed",
        "PodpairReceiverDown", "PodpairWorkflowsNotReady", "PodpairWorkflowStuck", "PodpairRabbitmqAnswersLost",
    }  # fmt: skip
    to_zero = {"min": 0, "max": 4, "metrics": [{"lag": 5}]}
    for no_pods in ({"replicas": 0}, {"scaling": to_zero}):
        assert "PodpairDown" not in {name for name, _ in alerts_of(objects(KNOWN, **no_pods)["PrometheusRule"]["spec"])}
    fixed = alerts_of(objects(KNOWN, scaling=to_zero, replicas=2)["PrometheusRule"]["spec"])
    assert "PodpairDown" in {name for name, _ in fixed}
    assert "PrometheusRule" not in objects(KNOWN, monitoring={"alerts": False})
    assert "PrometheusRule" not in objects(DEPENDENCIES)


def test_windows_grow_with_that_of_the_objectives() -> None:
    made = spec(monitoring={"slo": {"window": "168h"}, "interval": "10s"})
    windows = {
        (rule["labels"]["long"], rule["labels"]["short"]) for rule in rules(made) if "long" in rule.get("labels", {})
    }
    assert windows == {("14m", "1m10s"), ("1h24m", "7m"), ("5h36m", "28m"), ("16h48m", "1h24m")}


def test_no_window_is_too_short_for_rare_scrapes() -> None:
    """Nor is a resource that says nothing of objectives refused because it is scraped rarely."""
    made = spec(monitoring={"interval": "10m"})
    windows = {
        (rule["labels"]["long"], rule["labels"]["short"]) for rule in rules(made) if "long" in rule.get("labels", {})
    }
    assert windows == {("1h", "40m"), ("6h", "40m"), ("1d", "2h"), ("3d", "6h")}
    recorded = [rule["record"] for rule in rules(made) if "record" in rule]
    assert len(recorded) == len(set(recorded))


def test_a_burn_that_can_not_be_is_not_alerted_on() -> None:
    made = spec(monitoring={"slo": {"availability": 90}})  # 14.4 times 10 % are more than everything
    rates = [rule["labels"]["long"] for rule in rules(made) if rule.get("alert") == "PodpairErrorBudgetBurn"]
    assert rates == ["6h", "1d", "3d"]


def test_the_latency_buckets_are_those_of_the_gateway() -> None:
    """The operator can't import the gateway: a number that changes there has to change here."""
    from podpair.gateway.metrics import Metrics
    from podpair.operator.core.api.prometheus import LATENCY_BOUNDS

    bounds = Metrics().request_duration.labels("digits").bounds
    assert tuple(map(float, bounds)) == LATENCY_BOUNDS


def test_the_failures_are_codes_of_the_protocol() -> None:
    from podpair.gateway.core.protocol import Code
    from podpair.operator.core.builders.burn_rates import FAILURES

    clients_own = {"invalid", "unauthorized", "forbidden", "not_found", "cancelled"}
    assert set(FAILURES) | clients_own == {str(code) for code in Code}
