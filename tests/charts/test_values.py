"""Values: what is generated is up to date, what is described exists, and what is wrong is told before anything is sent."""

import importlib.util
import json
import re
import tomllib
from types import ModuleType
from typing import Any

import pytest
import yaml

from charts.conftest import Install
from harness.helm import CHARTS, Failed, Helm
from harness.kubernetes import ApiServer
from harness.processes import ROOT

DIGITS = yaml.safe_load((CHARTS / "inference-gateway" / "ci" / "digits-values.yaml").read_text())
GIVEN = {"podpair-crds": None, "podpair-operator": {}, "inference-gateway": DIGITS}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", CHARTS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_up_to_date() -> None:
    for path, text in generator().generated().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)}: run `make crd`"


@pytest.mark.parametrize("chart", ["podpair-operator", "inference-gateway"])
def test_every_value_is_described_and_known_to_the_schema(chart: str) -> None:
    text = (CHARTS / chart / "values.yaml").read_text()
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())

    def resolved(one: dict[str, Any]) -> dict[str, Any]:
        return schema["definitions"][one["$ref"].rsplit("/", 1)[1]] if "$ref" in one else one

    def leaves(values: dict[str, Any], known: dict[str, Any], path: str = "") -> Any:
        for name, value in values.items():
            inner = resolved(known["properties"][name])  # a KeyError names what the schema lacks
            nested = isinstance(value, dict) and value and "properties" in inner and f"{path}{name}" not in told
            yield from leaves(value, inner, f"{path}{name}.") if nested else [f"{path}{name}"]

    told = dict(generator().described(text))
    assert sorted(leaves(yaml.safe_load(text), schema)) == sorted(told)


@pytest.mark.parametrize("chart", GIVEN)
def test_lint_finds_nothing(helm: Helm, chart: str) -> None:
    assert "[WARNING]" not in helm("lint", "--strict", CHARTS / chart, values=GIVEN[chart])


@pytest.mark.parametrize("chart", GIVEN)
def test_the_charts_are_of_the_projects_version(helm: Helm, chart: str) -> None:
    project = tomllib.loads((ROOT / "operator" / "pyproject.toml").read_text())["project"]["version"]
    stated = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
    assert (stated["version"], stated["appVersion"]) == (project, project)
    # Native sidecars are what the pods stand on: an older cluster is told so.
    with pytest.raises(Failed, match=r"requires kubeVersion: >=1\.30"):
        helm("template", CHARTS / chart, "--kube-version", "1.28.0", values=GIVEN[chart])


@pytest.mark.parametrize("chart", GIVEN)
def test_what_follows_is_told_after_an_install(cluster: ApiServer, release: Install, chart: str) -> None:
    if chart == "inference-gateway":
        cluster.kubectl("apply", "--server-side", "-f", str(CHARTS / "podpair-crds" / "templates" / "crd.yaml"))
        cluster.await_kind("inferencegateways.podpair.dev")
    told = release("install", CHARTS / chart, "--dry-run=client", values=GIVEN[chart])
    notes = told.split("NOTES:\n")[1]
    assert "kubectl" in notes
    assert "<no value>" not in told
    assert not re.search(r"\{\{|%!", notes)


OPERATOR_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt value": ({"replica": 2}, "additional properties 'replica' not allowed"),
    "a misspelt value inside": ({"image": {"Tag": "1"}}, "at '/image': additional properties 'Tag' not allowed"),
    "three operators": ({"replicas": 3}, "at '/replicas': maximum: got 3, want 2"),
    "a number as text": ({"workers": "4"}, "at '/workers': got string, want integer"),
    "namespaces as text": ({"watchNamespaces": "a,b"}, "at '/watchNamespaces': got string, want array"),
    "a namespace that can't be": ({"watchNamespaces": ["A_b"]}, "at '/watchNamespaces/0': 'A_b' does not match"),
    "an unknown mode": (
        {"metricsApi": {"enabled": True}},
        "at '/metricsApi/enabled': value must be one of 'auto', 'always', 'never'",
    ),
    "a port below 1024": ({"metricsApi": {"port": 443}}, "at '/metricsApi/port': minimum: got 443, want 1,024"),
    "a severity": ({"log": {"level": "WARN"}}, "at '/log/level': value must be one of 'debug', 'info', 'warning'"),
    "a cut digest": ({"image": {"digest": "sha256:12"}}, "at '/image/digest': 'sha256:12' does not match"),
    "environment as a map": ({"extraEnv": {"A": "b"}}, "at '/extraEnv': got object, want array"),
    "one place for all brokers": ({"brokers": {"processes": 1}}, "at '/brokers/processes': minimum: got 1, want 2"),
    "a field without its way": (
        {"podTemplate": {"forbidden": ["hostNetwork"]}},
        "at '/podTemplate/forbidden/0': 'hostNetwork' does not match",
    ),
    "a Secret by two slashes": ({"brokers": {"secrets": ["a/b/c"]}}, "at '/brokers/secrets/0': 'a/b/c' does not match"),
    "an empty peer": ({"networkPolicy": {"metricsFrom": [{}]}}, "at '/networkPolicy/metricsFrom/0': minProperties"),
}


@pytest.mark.parametrize("wrong", OPERATOR_WRONG.values(), ids=OPERATOR_WRONG.keys())
def test_a_wrong_value_of_the_operator_is_told(helm: Helm, wrong: tuple[dict[str, Any], str]) -> None:
    values, words = wrong
    with pytest.raises(Failed) as failed:
        helm.template("podpair-operator", values=values)
    assert words in str(failed.value)


def test_the_schema_wants_nothing_that_the_crds_chart_has(helm: Helm) -> None:
    with pytest.raises(Failed, match="additional properties 'crds' not allowed"):
        helm.template("podpair-crds", values={"crds": {"install": True}})
