"""The alerts on the operator itself: in Prometheus' own unit tests, over metrics that the operator has, each with its runbook."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from harness.helm import Helm
from harness.processes import ROOT
from harness.prometheus import Alerts, check_rules, firing
from podpair.operator.metrics import CONTROLLER, Metrics

DAY = 86_400
MINUTES = 60
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def spec(helm: Helm) -> dict[str, Any]:
    values = {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}}
    objects = helm.template("podpair-operator", values=values)
    (made,) = (one for one in objects if one["kind"] == "PrometheusRule")
    assert made["metadata"]["labels"]["release"] == "prometheus"
    found: dict[str, Any] = made["spec"]
    return found


def of(pod: str, metric: str, /, **labels: str) -> str:
    matchers = ",".join(f'{label}="{value}"' for label, value in {"namespace": "podpair", "pod": pod, **labels}.items())
    return f"{metric}{{{matchers}}}"


@pytest.fixture(scope="module")
def well(helm: Helm) -> dict[str, str]:
    (deployment,) = (one for one in helm.template("podpair-operator") if one["kind"] == "Deployment")
    pod = f"{deployment['metadata']['name']}-5d4f8c7b9-abcde"
    return {
        of(pod, "leader_election_master_status", name="podpair-operator"): f"1x{MINUTES}",
        of(pod, "controller_runtime_reconcile_errors_total", controller=CONTROLLER): f"5x{MINUTES}",
        of(pod, "podpair_operator_watches", state="dead"): f"0x{MINUTES}",
        of(pod, "podpair_operator_watches", state="alive"): f"15x{MINUTES}",
        of(pod, "podpair_operator_broker_process_failures_total", reason="memory"): f"0+0.1x{MINUTES}",
        of(pod, "podpair_operator_metrics_api_certificate_expiration_timestamp_seconds"): f"{30 * DAY}x{MINUTES}",
    }


#: By words in a series' name: its values while something is wrong, and what fires.
FAULTS: dict[str, tuple[str, Alerts]] = {
    "leader_election": (f"1x10 0x{MINUTES}", {("PodpairOperatorDown", "critical")}),
    "reconcile_errors": (f"0+1x{MINUTES}", {("PodpairOperatorReconcileErrors", "warning")}),
    'state="dead"': (f"0x10 1x{MINUTES}", {("PodpairOperatorWatchesDead", "warning")}),
    "process_failures": (f"0+1x{MINUTES}", {("PodpairOperatorBrokerProcessesFailing", "warning")}),
    "expiration": (f"{13 * DAY}x{MINUTES}", {("PodpairOperatorCertificateExpiring", "warning")}),
}


def test_nothing_fires_where_all_is_well(tmp_path: Path, spec: dict[str, Any], well: dict[str, str]) -> None:
    assert "SUCCESS" in check_rules(tmp_path, spec)
    none_served = {name: "0x60" for name in well if "expiration" in name}
    for series in (well, well | none_served):
        assert firing(tmp_path, spec, series, [10, 30, 50]) == [set(), set(), set()]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fires_its_alert_and_no_other(
    tmp_path: Path, spec: dict[str, Any], well: dict[str, str], fault: str
) -> None:
    values, expected = FAULTS[fault]
    changed = {name: values if fault in name else steady for name, steady in well.items()}
    assert changed != well
    assert firing(tmp_path, spec, changed, [50]) == [expected]


def test_every_alert_is_fired_by_a_fault_and_has_its_runbook(spec: dict[str, Any]) -> None:
    rules = [rule for group in spec["groups"] for rule in group["rules"]]
    assert {(rule["alert"], rule["labels"]["severity"]) for rule in rules} == set.union(
        *(e for _, e in FAULTS.values())
    )
    page = (ROOT / "docs/alerts.md").read_text()
    for rule in rules:
        assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert f"\n### {rule['alert']}\n" in page


def test_the_metrics_are_the_operator_s(spec: dict[str, Any]) -> None:
    metrics = Metrics()
    metrics.leading.labels("x")
    metrics.watches.labels("dead")
    metrics.broker_process_failures.labels("memory")
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    known = {sample.name for family in families for sample in family.samples}
    named = {
        name for group in spec["groups"] for rule in group["rules"] for name in re.findall(r"(\w+)\{", rule["expr"])
    }
    assert len(named) == 5
    assert named <= known
