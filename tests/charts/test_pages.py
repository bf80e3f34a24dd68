"""What pages for installers say of names, defaults and each other is so."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.helm import CHARTS, Helm, program_4
from harness.processes import ROOT
from harness.resources import resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import consumer_group, dead_letters_topic, requests_topic, results_topic
from podpair.operator.core.ownership import MARKS_GROUP
from podpair.operator.core.policy import LABEL

INSTALL = (ROOT / "docs" / "install.md").read_text()
NEEDS = INSTALL.partition("## What it needs")[2].partition("\n## ")[0]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "charts").glob("*/README.md"),
    ]
)
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in found}


def test_what_it_needs_is_named_as_the_operator_names_it() -> None:
    made = resource(name="name")
    made["metadata"]["namespace"] = "namespace"
    gateway = InferenceGateway.model_validate(made)
    named = [topic(gateway) for topic in (requests_topic, results_topic, dead_letters_topic, consumer_group)]
    for one in [*named, MARKS_GROUP, LABEL]:
        words = one.replace("namespace.name", "NAMESPACE.NAME")
        assert f"`{words}" in NEEDS, words
    chart = yaml.safe_load((ROOT / "charts" / "podpair-operator" / "Chart.yaml").read_text())
    (version,) = re.findall(r"(1\.\d+)", chart["kubeVersion"])
    assert f"Kubernetes {version} or newer" in NEEDS


def test_pages_say_how_many_operators_there_are_by_default() -> None:
    values = yaml.safe_load((ROOT / "charts" / "podpair-operator" / "values.yaml").read_text())
    assert values["replicas"] == 1
    assert "one replica" in " ".join(INSTALL.split())
    readme = " ".join((ROOT / "charts" / "podpair-operator" / "README.md").read_text().split())
    assert "**One replica** is the default" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text, lost = page.read_text(), []
    for link in _LINK.findall(text):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in headings(target.read_text())):
            lost.append(link)
    assert lost == []


def notes(home: Path, chart: str, values: dict[str, Any]) -> str:
    """What is told after an install, without a cluster, which Helm 4 can do."""
    told = Helm(home, program=program_4)("install", "podpair", CHARTS / chart, "--dry-run=client", values=values)
    return " ".join(told.split("NOTES:\n")[1].split())


@pytest.mark.process
def test_who_is_shut_out_is_told(tmp_path: Path) -> None:
    peers = [{"podSelector": {"matchLabels": {"app": "ingress"}}}]
    digits = yaml.safe_load((CHARTS / "inference-gateway" / "ci" / "digits-values.yaml").read_text())
    closed = digits | {"network": {"networkPolicy": {"from": peers}}}
    assert "helm test, unless pods with the label app.kubernetes.io/name: inference-gateway-test are named" in notes(
        tmp_path, "inference-gateway", closed
    )
    assert "shuts out" not in notes(tmp_path, "inference-gateway", digits)
    scraped = {"podMonitor": {"enabled": True}, "networkPolicy": {"metricsFrom": peers}}
    assert "networkPolicy.metricsFrom shuts out everybody else, Prometheus too" in notes(
        tmp_path, "podpair-operator", scraped
    )
    for open_ in ({"podMonitor": {"enabled": True}}, {"networkPolicy": {"metricsFrom": peers}}):
        assert "shuts out" not in notes(tmp_path, "podpair-operator", open_)


@pytest.mark.process
@pytest.mark.parametrize("values", [{}, {"crds": {"install": False}}], ids=["with the CRD", "without it"])
def test_how_the_crd_moves_from_chart_to_chart_is_told(tmp_path: Path, values: dict[str, Any]) -> None:
    assert "--take-ownership" in notes(tmp_path, "podpair-operator", values)
    assert "--take-ownership" in notes(tmp_path, "podpair-crds", {})


def test_the_test_pod_has_the_label_that_is_told_of(helm: Helm) -> None:
    digits = yaml.safe_load((CHARTS / "inference-gateway" / "ci" / "digits-values.yaml").read_text())
    (pod,) = (one for one in helm.template("inference-gateway", values=digits) if one["kind"] == "Pod")
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "inference-gateway-test"
