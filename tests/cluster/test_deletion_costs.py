"""Which pod goes when there are to be fewer: the operator annotates pods by their load, seldom."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import start_http_server

from harness.kubernetes import ApiServer
from harness.operator import Kubelet, Operator, kubeconfig_at
from harness.reconciled import apply, there
from harness.waiting import until
from podpair.gateway.metrics import Metrics
from podpair.operator.core.api.scalars import OPERATIONS_PORT
from podpair.operator.core.deletion_cost import ANNOTATION

pytestmark = pytest.mark.process


class Pod:
    """A pod that no node runs, and the metrics of the gateway in it at a loopback address of its own."""

    def __init__(self, cluster: ApiServer, namespace: str, number: int, **metadata: Any) -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, f"digits-{number}"
        self.metrics = Metrics()
        address = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}.{number}"
        self.server, self.thread = start_http_server(OPERATIONS_PORT, address, self.metrics.registry)
        template = cluster.read("deployment", "digits", "-n", namespace)["spec"]["template"]
        labels = template["metadata"]["labels"]
        about = {"name": self.name, "namespace": namespace, "labels": labels, **metadata}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template["spec"]})
        self.status = {"podIP": address, "podIPs": [{"ip": address}]}
        self.status["conditions"] = [{"type": "Ready", "status": "True"}]  # type: ignore[assignment]

    @property
    def cost(self) -> int | None:
        found = self.cluster.read("pod", self.name, "-n", self.namespace)["metadata"].get("annotations") or {}
        return int(found[ANNOTATION]) if ANNOTATION in found else None

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def run(cluster: ApiServer, namespace: str) -> Iterator[Callable[..., list[Pod]]]:
    """`run(sessions, …)`: one ready pod for each number of sessions."""
    pods: list[Pod] = []

    def begin(*sessions: int, **metadata: Any) -> list[Pod]:
        until(lambda: there(cluster, namespace, "deployment", "digits"))
        kubelet = Kubelet(cluster, namespace)
        for number, count in enumerate(sessions, len(pods) + 1):
            pod = Pod(cluster, namespace, number, **metadata)
            pod.metrics.sessions.set(count)
            pods.append(pod)
            kubelet.says("pod", pod.name, pod.status)
        return pods[-len(sessions) :]

    yield begin
    for pod in pods:
        pod.stop()


@pytest.fixture
def operator(cluster: ApiServer, namespace: str) -> Iterator[Operator]:
    running = Operator(cluster, namespace)
    yield running
    running.stop()


def written(operator: Operator, outcome: str = "changed") -> float:
    return operator.metric("podpair_operator_objects_total", kind="Pod", outcome=outcome)


def test_the_emptiest_pod_costs_least_and_costs_follow_the_load(
    cluster: ApiServer, namespace: str, operator: Operator, run: Callable[..., list[Pod]]
) -> None:
    apply(cluster, namespace)
    idle, some, many = run(0, 30, 200)
    until(lambda: some.cost is not None and many.cost is not None)
    assert idle.cost is None
    assert 0 < (some.cost or 0) < (many.cost or 0)

    # One session more is no reason to write; that others have gone is.
    before = written(operator)
    many.metrics.sessions.set(202)
    some.metrics.sessions.set(0)
    until(lambda: some.cost == 0)
    assert written(operator) == before + 1
    idle.metrics.working.set(20)
    until(lambda: (idle.cost or 0) > 0)
    assert written(operator) == before + 2


def test_costs_that_the_resource_sets_and_those_of_a_paused_one_are_left_alone(
    cluster: ApiServer, namespace: str, operator: Operator, run: Callable[..., list[Pod]]
) -> None:
    own = {"metadata": {"annotations": {ANNOTATION: "7"}}}
    apply(cluster, namespace, inference__podTemplate=own)
    first, second = run(100, 200, annotations={ANNOTATION: "7"})
    until(lambda: cluster.read("igw", "digits", "-n", namespace).get("status", {}).get("sessions") == 300)
    assert (first.cost, second.cost, written(operator)) == (7, 7, 0)

    cluster.kubectl("annotate", "igw", "digits", "-n", namespace, "podpair.dev/paused=true")
    apply(cluster, namespace)
    first.metrics.sessions.set(150)
    until(lambda: cluster.read("igw", "digits", "-n", namespace).get("status", {}).get("sessions") == 350)
    assert (first.cost, second.cost, written(operator)) == (7, 7, 0)
    cluster.kubectl("annotate", "igw", "digits", "-n", namespace, "podpair.dev/paused-")
    until(lambda: 7 not in (first.cost, second.cost))


def test_without_the_right_it_is_told_once_and_counted(
    cluster: ApiServer, namespace: str, run: Callable[..., list[Pod]], tmp_path: Path
) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "o", "namespace": namespace}})
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "o", "namespace": namespace},
        "rules": [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["podpair.dev", "apps", "coordination.k8s.io"], "resources": ["*"], "verbs": ["*"]},
        ],
    }  # fmt: skip
    cluster.apply(role)
    cluster.kubectl("create", "rolebinding", "o", "--role=o", f"--serviceaccount={namespace}:o", "-n", namespace)
    token = cluster.kubectl("create", "token", "o", "-n", namespace).strip()
    operator = Operator(cluster, namespace, kubeconfig=kubeconfig_at(cluster, cluster.url, tmp_path, token))
    try:
        apply(cluster, namespace)
        run(100, 200)
        until(lambda: written(operator, "refused") >= 3, lambda: "\n".join(operator.lines[-20:]))
        assert len([line for line in operator.lines if "deletion costs of pods can't be written" in line]) <= 2
    finally:
        operator.stop()
