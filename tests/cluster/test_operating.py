"""Operators that are killed, that start again, that are several; what they cost the API server, and how they bear a busy one."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.api_proxy import Refusal, control
from harness.kubernetes import ApiServer
from harness.operator import Operator, kubeconfig_at, writes
from harness.reconciled import ALONE, INGRESS, OBJECTS, apply, becomes, there
from harness.resources import resource
from harness.waiting import until


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

    def changed_by_looking() -> dict[str, float]:
        before, seen = writes(cluster), steps()
        until(lambda: steps() >= seen + 5, "it is looked at again and again")
        return {name: n - before.get(name, 0) for name, n in writes(cluster).items() if n != before.get(name)}

    # Events are written a while after what they tell of; whoever wrote at each look would never come to an end.
    until(lambda: not changed_by_looking(), changed_by_looking)
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
        kinds = ",".join({kind for kind, _ in OBJECTS})
        return sorted(cluster.kubectl("get", kinds, "-n", namespace, "-l", "podpair.dev/gateway", "-o", "name").split())

    done = []
    for enough in (3, 9, 17):
        first = operate(workers=1, wait=False)
        until(lambda enough=enough: len(objects()) >= enough, objects)
        first.kill()
        done.append(len(objects()) == len(names) * len(OBJECTS))
    assert not all(done), "none of them was killed at work"
    operate()
    until(lambda: len(objects()) == len(names) * len(OBJECTS), objects)
    keys = {cluster.read("secret", f"{name}-resume", "-n", namespace)["data"]["resume-key"] for name in names}
    assert len(keys) == len(names)


def test_a_busy_api_server_is_given_the_time_it_asks_for_and_conflicts_are_looked_at_anew(
    cluster: ApiServer, namespace: str, operate: Callable[..., Operator], proxy: str, tmp_path: Path
) -> None:
    left = {
        "configmaps": [Refusal(429, "TooManyRequests", 1)],
        "deployments": [Refusal(409, "Conflict")],
        "services": [Refusal(500, "InternalError"), Refusal(429, "TooManyRequests", 3)],
    }

    operator = operate(kubeconfig=kubeconfig_at(cluster, proxy, tmp_path))
    control(proxy, refuse=left)
    apply(cluster, namespace, network=INGRESS)
    for kind, name in OBJECTS:
        until(lambda kind=kind, name=name: there(cluster, namespace, kind, name), f"{kind} {name}", timeout=60)
    becomes(cluster, namespace, "Degraded", "True", "BrokerUnreachable")  # and nothing else
    assert control(proxy) == {"TooManyRequests": 2, "Conflict": 1, "InternalError": 1}
    # Each refusal ended one look, and was counted by the names of controller-runtime and client-go.
    assert operator.metric("controller_runtime_reconcile_errors_total", controller="inferencegateway") >= 4
    assert operator.metric("workqueue_retries_total", name="inferencegateway") >= 4
    assert operator.metric("rest_client_requests_total", code="429", method="PATCH") == 2
    waits = [float(found[1]) for line in operator.lines if (found := re.search(r"again in ([0-9.]+) s", line))]
    assert len(waits) >= 3  # that another was faster is nothing to tell of
    assert any(wait >= 3 for wait in waits), waits  # the server asked for more than so few failures' back-off


def test_a_watch_that_has_died_is_noticed_and_what_was_missed_is_made_up_for(
    cluster: ApiServer, namespace: str, operate: Callable[..., Operator], proxy: str, tmp_path: Path
) -> None:
    operator = operate(kubeconfig=kubeconfig_at(cluster, proxy, tmp_path), watch_seconds=2)
    assert operator.get("/healthz") == (200, "ok\n")
    control(proxy, silent=True)
    until(lambda: "has been silent for too long" in operator.get("/healthz")[1], timeout=90)
    until(lambda: operator.metric("podpair_operator_watches", state="dead") > 0, timeout=90)
    apply(cluster, namespace)
    control(proxy, silent=False)
    until(lambda: operator.get("/healthz")[0] == 200, lambda: operator.get("/healthz")[1], timeout=90)
    until(lambda: there(cluster, namespace, "deployment", "digits"))
