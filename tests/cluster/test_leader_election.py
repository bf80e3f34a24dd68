"""Several operators, one Lease: one writes, and when it is gone or can't be heard another does."""

import os
import signal
from collections.abc import Iterator

import pytest

from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import apply, there
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
