"""What alerts and the dashboard stand on is there: metrics, labels, runbooks."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from harness.desired_objects import DEPENDENCIES, objects
from harness.processes import ROOT
from podpair.gateway.metrics import INFERENCE_LATENCY, Metrics
from podpair.inference.metrics import Metrics as InferenceMetrics

PAGE = (ROOT / "docs" / "alerts.md").read_text()
ALL_OF_IT: dict[str, Any] = {
    "monitoring": {"slo": {"latency": {"p99": "200ms"}, "lagAge": "2m"}, "dashboard": True},
    "gateway__auth": {"jwksUrl": "https://login.example/jwks"},
    "gateway__tls": {"certificateRef": {"name": "public"}},
    "gateway__cache": {"models": [{"model": "digits"}]},
    "amqp": {"urlRef": {"name": "rabbitmq", "key": "url"}},
    "gateway__workflows": {},
    "deliveries": {},
}
MADE = objects(replace(DEPENDENCIES, prometheus_rules=True), **ALL_OF_IT)
RULES = [rule for group in MADE["PrometheusRule"]["spec"]["groups"] for rule in group["rules"]]
(DASHBOARD,) = (json.loads(text) for text in MADE["Dashboard"]["data"].values())
# Of Prometheus itself, and of the client library in every Python process.
_COMMON = {"up", "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"}
_OF_TARGETS = {"namespace", "pod", "gateway"}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in panels(DASHBOARD) for target in panel["targets"])


def known() -> dict[str, set[str]]:
    """Every metric with its labels, as /metrics of a gateway has it."""
    found = {name: set(labels) for name, kind, labels, _ in Metrics().table() if kind != "histogram"}
    histograms = {name: set(labels) for name, kind, labels, _ in Metrics().table() if kind == "histogram"}
    histograms[INFERENCE_LATENCY] = set(InferenceMetrics().request_duration.label_names)
    for name, labels in histograms.items():
        found |= {f"{name}_bucket": labels | {"le"}, f"{name}_count": labels, f"{name}_sum": labels}
    return found | {name: set() for name in _COMMON}


def test_each_metric_is_there_with_its_labels() -> None:
    metrics = known() | {rule["record"]: set() for rule in RULES if "record" in rule}
    seen = set()
    for expression in expressions():
        for name, matchers in re.findall(r"([\w:]+)\{([^}]*(?:\{\d+\}[^}]*)*)\}", expression):
            assert name in metrics, expression
            seen.add(name)
            labels = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", matchers))
            assert labels - _OF_TARGETS <= metrics[name], expression
            by = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
            everything = set().union(*(metrics[one] for one in metrics if one in expression))
            assert by - _OF_TARGETS <= everything, expression
    assert len(seen) > 40
    assert INFERENCE_LATENCY in {name.removesuffix("_bucket") for name in seen}


def test_the_metrics_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"\b(?:podpair_gateway|inference)_\w+", PAGE))
    assert len(named) > 5
    assert named <= {name for name, *_ in Metrics().table()} | {INFERENCE_LATENCY}


def test_each_alert_has_its_runbook_and_the_page_has_no_other() -> None:
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    for rule in RULES:
        if "alert" in rule:
            assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"
    headed = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert sorted(headed) == sorted(set(headed))
    assert {one for one in headed if not one.startswith("PodpairOperator")} == alerts
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        assert "\nLook at: " in section, section
        assert "\nDo: " in section, section


def test_another_page_may_be_named() -> None:
    monitoring = {"runbook": "https://wiki.example/alerts"}
    made = objects(replace(DEPENDENCIES, prometheus_rules=True), monitoring=monitoring)["PrometheusRule"]
    urls = {
        rule["annotations"]["runbook_url"]
        for group in made["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert "https://wiki.example/alerts#podpairgaps" in urls


def test_the_dashboard_is_one_that_grafana_s_sidecar_takes() -> None:
    made = MADE["Dashboard"]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert list(made["data"]) == ["default-digits.json"]
    assert DASHBOARD["title"] == "podpair: default/digits"
    assert len(DASHBOARD["uid"]) <= 40  # Grafana's limit
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert "Dashboard" not in objects()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("changed", "title"), [
    ({"gateway__tls": {"certificateRef": {"name": "public"}}}, "Time left of the certificate"),
    ({"gateway__cache": {"models": [{"model": "digits"}]}}, "Requests to the cache"),
    ({"amqp": {"urlRef": {"name": "rabbitmq", "key": "url"}}}, "Messages that wait"),
    ({"gateway__workflows": {}}, "Workflow instances"),
    ({"deliveries": {}}, "Deliveries that ended"),
    ({}, "Latency of the model"),
])  # fmt: skip
def test_panels_follow_what_the_resource_has(changed: dict[str, Any], title: str) -> None:
    def titles(**more: Any) -> set[str]:
        (text,) = objects(monitoring={"dashboard": True}, **more)["Dashboard"]["data"].values()
        return {panel["title"] for panel in panels(json.loads(text))}

    assert title in titles(**changed)
    assert title not in titles(inference__protocol="grpc", scaling__metrics=[{"lag": 5}])


def test_an_objective_is_a_line_in_its_panel() -> None:
    limits = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"]
        for panel in panels(DASHBOARD)
        if "thresholds" in panel["fieldConfig"]["defaults"]
    }
    assert limits == {"Requests that fail": pytest.approx(0.001), "Latency of direct requests": 0.2}
