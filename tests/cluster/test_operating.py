"""Operators that are killed, that start again, that are several; what they cost the API server, and how they bear a busy one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.kubernetes import ApiServer
from harness.operator import Operator, writes
from harness.pair import until
from harness.reconciled import ALONE, INGRESS, OBJECTS, apply, becomes
from harness.resources import resource


@pytest.fixture
def operate(cluster: ApiServer, namespace: str) -> Iterator[Callable[..., Operator]]:
    """Starts operators, and ends them."""
    running: list[Operator] = []

    def start(**settings: Any) -> Operator:
        running.append(Operator(cluster, namespace, **settings))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def test_a_resource_that_does_not_change_causes_no_write(
    cluster: ApiServer, namespace: str, operate: Callable[..., Operator]
) -> None:
    apply(cluster, namespace, network=INGRESS)
    operator = operate(resync_seconds=1)
    becomes(cluster, namespace, "KafkaReady", "False", "BrokerUnreachable")
    becomes(cluster, namespace, "Degraded", "True")

    def steps() -> float:
        return operator.metric("controller_runtime_reconcile_total")

    settled = steps()
    until(lambda: steps() >= settled + 2, "it is looked at")
    before, seen = writes(cluster), steps()
    until(lambda: steps() >= seen + 5, "it is looked at again and again")
    assert writes(cluster) == before
    assert operator.metric("controller_runtime_reconcile_errors_total") == 0

    # Nor does an operator that starts anew write what is there already.
    operator.stop()
    before = writes(cluster)
    again = operate(resync_seconds=1)
    until(lambda: again.metric("controller_runtime_reconcile_total") >= 3)
    changed = {
        name: count - before.get(name, 0) for name, count in writes(cluster).items() if count != before.get(name)
    }
    assert changed.keys() <= {"APPLY inferencegateways/status"}, changed


def test_an_operator_that_is_killed_at_work_and_one_that_goes_on_come_to_the_same(
    cluster: ApiServer, namespace: str, operate: Callable[..., Operator]
) -> None:
    """Killed after each of its first writes: whatever is half done is done by the next."""
    names = [f"digits{number}" for number in range(4)]
    for name in names:
        made = resource(name=name, **ALONE, network=INGRESS)
        made["metadata"]["namespace"] = namespace
        cluster.apply(made)

    def objects() -> list[str]:
        kinds = ",".join(OBJECTS)
        return sorted(cluster.kubectl("get", kinds, "-n", namespace, "-l", "podpair.dev/gateway", "-o", "name").split())

    for enough in (3, 9, 17):
        first = operate(workers=1, wait=False)
        until(lambda enough=enough: len(objects()) >= enough, objects)
        first.kill()
    assert len(objects()) < len(names) * len(OBJECTS)
    operate()
    until(lambda: len(objects()) == len(names) * len(OBJECTS), objects)
    keys = {cluster.read("secret", f"{name}-resume", "-n", namespace)["data"]["resume-key"] for name in names}
    assert len(keys) == len(names)
