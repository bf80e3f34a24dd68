"""Several operators, one Lease: one writes, and when it is gone or can't be heard another does."""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import OBJECTS, apply, there
from harness.waiting import until


@pytest.fixture
def two(cluster: ApiServer, namespace: str) -> Iterator[tuple[Operator, Operator]]:
    """The first leads, the second waits."""
    first = Operator(cluster, namespace, identity="first")
    first.wait_for_message("first leads")
    second = Operator(cluster, namespace, identity="second")
    yield first, second
    for one in (first, second):
        if one.process.poll() is None:
            os.kill(one.pid, signal.SIGCONT)
        one.stop()


def holder(cluster: ApiServer, namespace: str) -> str:
    return str(cluster.read("lease", "podpair-operator", "-n", namespace)["spec"]["holderIdentity"])


def writes(operator: Operator) -> float:
    return sum(operator.metric("rest_client_requests_total", method=method) for method in ("PATCH", "POST", "DELETE"))


def test_one_writes_and_when_it_dies_the_other_takes_over(
    cluster: ApiServer, namespace: str, two: tuple[Operator, Operator]
) -> None:
    first, second = two
    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "horizontalpodautoscaler", "digits"))
    until(lambda: first.metric("leader_election_master_status") == 1)
    assert second.metric("leader_election_master_status") == 0
    assert writes(second) == 0
    until(lambda: second.get("/readyz")[0] == 200)  # it waits with full caches

    first.kill()
    cluster.kubectl("delete", "service", "digits", "-n", namespace)
    second.wait_for_message("second leads")
    until(lambda: there(cluster, namespace, "service", "digits"))
    assert holder(cluster, namespace) == "second"


def test_one_that_was_held_up_while_another_took_over_writes_nothing_when_it_goes_on(
    cluster: ApiServer, namespace: str, two: tuple[Operator, Operator]
) -> None:
    first, second = two
    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "horizontalpodautoscaler", "digits"))
    os.kill(first.pid, signal.SIGSTOP)
    second.wait_for_message("second leads")
    cluster.kubectl("delete", "service", "digits", "-n", namespace)
    until(lambda: there(cluster, namespace, "service", "digits"))
    uid = cluster.read("service", "digits", "-n", namespace)["metadata"]["uid"]

    os.kill(first.pid, signal.SIGCONT)
    first.wait_for_message("first does not lead")
    before = writes(first)
    cluster.kubectl("delete", "service", "digits", "-n", namespace)
    until(
        lambda: (
            there(cluster, namespace, "service", "digits")
            and cluster.read("service", "digits", "-n", namespace)["metadata"]["uid"] != uid
        )
    )
    assert writes(first) == before
    assert holder(cluster, namespace) == "second"


def test_one_that_stops_lets_go_at_once(cluster: ApiServer, namespace: str, two: tuple[Operator, Operator]) -> None:
    first, second = two
    assert first.stop() == 0
    assert holder(cluster, namespace) in ("", "second")
    second.wait_for_message("second leads")


def test_a_killed_one_is_replaced_within_20_s_by_the_installed_duration_and_the_objects_end_the_same(
    cluster: ApiServer, namespace: str
) -> None:
    first = Operator(cluster, namespace, identity="first", lease__duration_seconds=15)
    first.wait_for_message("first leads")
    second = Operator(cluster, namespace, identity="second", lease__duration_seconds=15)
    try:
        apply(cluster, namespace)
        until(lambda: there(cluster, namespace, "horizontalpodautoscaler", "digits"))
        apply(cluster, namespace, inference__env=[{"name": "ROLLED", "value": "out"}])
        first.kill()
        killed = time.monotonic()
        second.wait_for_message("second leads", timeout=60)
        took = time.monotonic() - killed
        assert took <= 20
        until(lambda: '"ROLLED"' in cluster.kubectl("get", "deployment", "digits", "-n", namespace, "-o", "json"))
        assert second.stop() == 0
        before = stated(cluster, namespace)
        # One that begins anew finds nothing to change.
        third = Operator(cluster, namespace, identity="third")
        third.wait_for_message("third leads", timeout=60)
        until(lambda: third.metric("controller_runtime_reconcile_total", result="success") > 0)
        third.stop()
        assert stated(cluster, namespace) == before
    finally:
        for one in (first, second):
            one.kill()


def stated(cluster: ApiServer, namespace: str) -> dict[tuple[str, str], str]:
    """Every object's generation and version, by kind and name."""
    return {
        (kind, name): cluster.read(kind, name, "-n", namespace)["metadata"]["resourceVersion"]
        for kind, name in OBJECTS
        if kind != "ingress"
    }


def test_a_lease_that_is_deleted_is_made_anew_only_when_its_holder_has_stopped(
    cluster: ApiServer, namespace: str, two: tuple[Operator, Operator]
) -> None:
    first, second = two
    cluster.kubectl("delete", "lease", "podpair-operator", "-n", namespace)
    deleted = time.monotonic()
    first.wait_for_message("first does not lead")
    for one in two:
        one.wait_for_message("the Lease podpair-operator was deleted")
    until(lambda: there(cluster, namespace, "lease", "podpair-operator"))
    assert time.monotonic() - deleted > 3
    until(lambda: first.metric("leader_election_master_status") + second.metric("leader_election_master_status") == 1)


def test_a_lease_that_somebody_empties_is_taken_only_when_its_holder_has_stopped(
    cluster: ApiServer, namespace: str, two: tuple[Operator, Operator]
) -> None:
    first, second = two
    os.kill(first.pid, signal.SIGSTOP)
    emptied = json.dumps([{"op": "remove", "path": "/spec"}])
    cluster.kubectl("patch", "lease", "podpair-operator", "-n", namespace, "--type=json", "-p", emptied)
    patched = time.monotonic()
    second.wait_for_message("second leads")
    assert time.monotonic() - patched > 2  # what its holder may have gone on for
    assert holder(cluster, namespace) == "second"


def test_a_lease_that_is_made_goes_with_the_installation_and_none_is_made_without_it(
    cluster: ApiServer, namespace: str
) -> None:
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": namespace}}
    cluster.apply(role)
    operator = Operator(cluster, namespace, metrics_api__owner=namespace)
    try:
        operator.wait_for_message("first leads")
        (owner,) = cluster.read("lease", "podpair-operator", "-n", namespace)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("ClusterRole", namespace)
        cluster.kubectl("delete", "clusterrole", namespace)
        cluster.kubectl("delete", "lease", "podpair-operator", "-n", namespace, "--ignore-not-found")
        operator.wait_for_message("the Lease podpair-operator isn't made")
        assert not there(cluster, namespace, "lease", "podpair-operator")
        assert operator.metric("leader_election_master_status") == 0
    finally:
        operator.stop()
