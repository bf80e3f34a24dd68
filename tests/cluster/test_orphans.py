"""`kubectl delete --cascade=orphan`, with Kubernetes' own garbage collector: what a resource owned stays, at every try."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.api_proxy import control
from harness.kubernetes import ApiServer, programs
from harness.operator import Operator, kubeconfig_at
from harness.processes import Child, free_port
from harness.reconciled import apply, there
from harness.waiting import until

TRIES = 40
KINDS = ("serviceaccount", "secret", "configmap", "service", "networkpolicy", "deployment", "poddisruptionbudget")


@pytest.fixture
def collector(cluster: ApiServer) -> Iterator[Child]:
    """The garbage collector, of kube-controller-manager."""
    folder = programs("kube-apiserver", "kubectl", "kube-controller-manager")
    running = Child(
        folder / "kube-controller-manager", f"--kubeconfig={cluster.kubeconfig}", f"--secure-port={free_port()}",
        "--controllers=garbage-collector-controller", "--leader-elect=false", "--bind-address=127.0.0.1",
    )  # fmt: skip
    yield running
    running.kill()


@pytest.fixture
def operator(cluster: ApiServer) -> Iterator[Operator]:
    running = Operator(cluster, "")
    yield running
    running.stop()


def owners(cluster: ApiServer, namespace: str) -> dict[str, list[Any]]:
    """Of each object of the resource its owners, by kind and name."""
    found = cluster.read(",".join(KINDS), "-n", namespace, "-l", "podpair.dev/gateway=digits")["items"]
    return {f"{one['kind']}/{one['metadata']['name']}": one["metadata"].get("ownerReferences", []) for one in found}


def test_an_operator_that_learns_of_it_last_owns_nothing_again(
    cluster: ApiServer, namespace: str, collector: Child, proxy: str, tmp_path: Path
) -> None:
    """It sees that its objects have lost their owner before it sees that this one is gone."""
    running = Operator(cluster, namespace, kubeconfig=kubeconfig_at(cluster, proxy, tmp_path))
    try:
        apply(cluster, namespace)
        until(lambda: (found := owners(cluster, namespace)) and len(found) >= 7 and all(found.values()))
        before = {kind: cluster.read(kind, "-n", namespace)["items"] for kind in KINDS}
        control(proxy, silent="inferencegateways")
        looked = running.metric("controller_runtime_reconcile_total")
        cluster.kubectl("delete", "igw", "digits", "-n", namespace, "--cascade=orphan")
        until(lambda: running.metric("controller_runtime_reconcile_total") >= looked + 2)
        assert not any(owners(cluster, namespace).values())
        control(proxy, silent=False)
        assert not there(cluster, namespace, "igw", "digits")
        uids = {one["metadata"]["uid"] for items in before.values() for one in items}
        now = {one["metadata"]["uid"] for kind in KINDS for one in cluster.read(kind, "-n", namespace)["items"]}
        assert now == uids
    finally:
        running.stop()


@pytest.mark.slow
def test_what_is_orphaned_stays(cluster: ApiServer, namespace: str, operator: Operator, collector: Child) -> None:
    uids: dict[str, str] = {}
    for number in range(TRIES):
        apply(cluster, namespace)
        until(lambda: (found := owners(cluster, namespace)) and len(found) >= 7 and all(found.values()))
        deployment = cluster.read("deployment", "digits", "-n", namespace)["metadata"]["uid"]
        assert uids.setdefault("deployment", deployment) == deployment, f"it was deleted before try {number}"
        if number % 2:  # and something else that the operator has to mend, just then
            cluster.kubectl("annotate", "service", "digits", "-n", namespace, "podpair.dev/applied-", "--overwrite")
        cluster.kubectl("delete", "igw", "digits", "-n", namespace, "--cascade=orphan")
        until(lambda: not any(owners(cluster, namespace).values()), lambda: owners(cluster, namespace))
        assert there(cluster, namespace, "deployment", "digits")
    # The collector is at work: what has an owner goes with it.
    apply(cluster, namespace)
    until(lambda: all(owners(cluster, namespace).values()))
    cluster.kubectl("delete", "igw", "digits", "-n", namespace)
    until(lambda: not there(cluster, namespace, "deployment", "digits"), timeout=120)
