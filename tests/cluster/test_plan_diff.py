"""`podpair plan --diff` on a real API server: what the operator would change, and that nothing is changed by asking."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.processes import BIN, completed
from harness.reconciled import ALONE, OBJECTS, apply, there
from harness.resources import resource
from harness.waiting import until


class Plans:
    """Plans the digits example in a namespace, changed so."""

    def __init__(self, cluster: ApiServer, namespace: str, folder: Path) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._file = folder / "resource.yaml"

    def __call__(self, *options: str, **changed: Any) -> subprocess.CompletedProcess[str]:
        self._file.write_text(yaml.safe_dump(resource(**(ALONE | changed))))
        environment = {"KUBECONFIG": str(self._cluster.kubeconfig), "HOME": str(self._file.parent), "NO_PROXY": "*"}
        command = [BIN / "podpair", "plan", self._file, "--diff", "-n", self._namespace, *options]
        return completed(*command, env=environment)


@pytest.fixture(scope="module")
def operator(cluster: ApiServer) -> Iterator[Operator]:
    """One operator for all namespaces."""
    running = Operator(cluster, "")
    yield running
    running.stop()


@pytest.fixture
def plan(cluster: ApiServer, namespace: str, tmp_path: Path) -> Plans:
    return Plans(cluster, namespace, tmp_path)


def changed_lines(told: subprocess.CompletedProcess[str]) -> list[str]:
    lines = [line for line in told.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return [f"{line[0]} {line[1:].strip()}" for line in lines]


def kept(cluster: ApiServer, namespace: str, **changed: Any) -> None:
    """Applied, and made by the operator."""
    apply(cluster, namespace, **changed)
    until(lambda: all(there(cluster, namespace, kind, name) for kind, name in OBJECTS if kind != "ingress"))


def test_a_resource_that_is_not_there_yet_is_all_new_and_stays_so(
    cluster: ApiServer, namespace: str, plan: Plans
) -> None:
    told = plan()
    assert told.returncode == 1, told.stderr
    assert f"+++ planned Deployment {namespace}/digits" in told.stdout
    assert not [line for line in changed_lines(told) if line.startswith("-")]
    assert not there(cluster, namespace, "deployment", "digits")


def test_what_the_operator_keeps_does_not_differ(
    cluster: ApiServer, namespace: str, operator: Operator, plan: Plans
) -> None:
    kept(cluster, namespace)
    told = plan()
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_only_what_would_change_is_told(cluster: ApiServer, namespace: str, operator: Operator, plan: Plans) -> None:
    kept(cluster, namespace)
    told = plan(inference__image="podpair-digits:4", network={"service": {"port": 8000}})
    assert told.returncode == 1
    assert changed_lines(told) == [
        "- port: 80",
        "+ port: 8000",
        "- image: podpair-digits:0.1.0",
        "+ image: podpair-digits:4",
    ]
    assert cluster.read("service", "digits", "-n", namespace)["spec"]["ports"][0]["port"] == 80


def test_what_would_go_is_told_and_the_number_of_pods_is_handed_on(
    cluster: ApiServer, namespace: str, operator: Operator, plan: Plans
) -> None:
    kept(cluster, namespace)
    told = plan(replicas=3)
    assert told.returncode == 1
    assert f"--- live    HorizontalPodAutoscaler {namespace}/digits" in told.stdout
    assert "- kind: HorizontalPodAutoscaler" in changed_lines(told)
    assert "+ replicas: 3" in changed_lines(told)
    assert there(cluster, namespace, "horizontalpodautoscaler", "digits")


def test_a_secret_that_rolls_the_pods_is_told_and_never_shown(
    cluster: ApiServer, namespace: str, operator: Operator, plan: Plans
) -> None:
    def secret(value: str) -> dict[str, Any]:
        metadata = {"name": "kafka", "namespace": namespace, "labels": {"podpair.dev/kafka-credentials": "true"}}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata,
                "stringData": {"username": "ada", "password": value}}  # fmt: skip

    sasl = {"kafka__sasl": {"secretName": "kafka"}}
    cluster.apply(secret("first"))
    kept(cluster, namespace, **sasl)
    until(lambda: plan(**sasl).returncode == 0, lambda: plan(**sasl).stdout)
    told = plan(gateway__image="other:1", **sasl)
    key = cluster.read("secret", "digits-resume", "-n", namespace)["data"]["resume-key"]
    assert "other:1" in told.stdout
    assert key not in told.stdout


def test_what_the_api_server_refuses_is_told(cluster: ApiServer, namespace: str, plan: Plans) -> None:
    apply(cluster, namespace, kafka__requests={"name": "first"})
    told = plan(kafka__requests={"name": "second"})
    assert (told.returncode, told.stdout) == (2, "")
    assert "the name of the requests topic can't change" in told.stderr
    assert plan("--namespace", "nowhere").returncode == 2
