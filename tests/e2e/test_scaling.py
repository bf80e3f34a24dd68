"""Work piles up: the real autoscaler reads the operator's external metrics and scales; the operator never writes the number."""

import json
from itertools import pairwise
from typing import Any

import pytest

from e2e.installed import ACCOUNT, Installed
from e2e.space import DIGIT, Space
from e2e.stage import Stage
from harness.pair import token
from harness.processes import Child
from podpair.operator.core.deletion_cost import ANNOTATION, read_cost

_TEXT = [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x"]}]
_QUICKLY = {"stabilizationWindowSeconds": 10, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 5}]}


def _versions(watch: Child) -> list[dict[str, Any]]:
    """Every version of the object that a watch has shown."""
    text, decoder, found = "\n".join(watch.lines), json.JSONDecoder(), []
    while text := text.lstrip():
        try:
            one, end = decoder.raw_decode(text)
        except json.JSONDecodeError:  # the last one is still being written
            break
        found.append(one)
        text = text[end:]
    return found


def _owners_of_replicas(deployment: dict[str, Any]) -> set[str]:
    """Who has written spec.replicas, as the API server keeps it."""
    fields = deployment["metadata"]["managedFields"]
    return {one["manager"] for one in fields if "f:replicas" in one["fieldsV1"].get("f:spec", {})}


def test_lag_scales_from_one_to_three_and_back(stage: Stage, space: Space, operator: Installed) -> None:
    space.client()
    space.jwt()
    space.apply(
        space.gateway(
            inference__args=["serve", "--model", "slow=slow:Slow"],
            inference__env=[{"name": "PYTHONPATH", "value": "/code"}],
            inference__volumes=[{"name": "code", "mountPath": "/code", "source": {"configMap": {"name": "client"}}}],
            inference__models=[{"name": "slow"}],
            scaling={"min": 1, "max": 3, "metrics": [{"lag": 20}], "behavior": {"scaleDown": _QUICKLY}},
        )
    )
    space.ready(180)
    space.until(lambda: space.condition("Scaling")["status"] == "True", "the autoscaler reads the lag", 180)
    written = len(stage.node.writes()) if stage.node else 0
    watch = space.follow("get", "deployment", "digits", "--watch", "-o", "json", "--show-managed-fields")
    tokens = [token(f"user-{number}") for number in range(20)]
    flood = space.start("flood", url="ws://digits/v1/ws", tokens=tokens, model="slow", inputs=_TEXT, each=40)

    def replicas() -> list[int]:
        return [one["spec"]["replicas"] for one in _versions(watch)]

    space.until(lambda: 3 in replicas(), "three pods are wanted", 240)
    outcomes = json.loads(flood.wait_for(lambda line: line.startswith("{"), 240))
    space.until(lambda: replicas()[-1] == 1, "one pod is wanted again", 300)
    watch.kill()
    assert outcomes == {"result": 800}
    steps = [(before, after) for before, after in pairwise(replicas()) if before != after]
    risen = [after > before for before, after in steps]
    assert risen == sorted(risen, reverse=True), f"up, then down, and nothing else: {steps}"
    owners = set().union(*(_owners_of_replicas(one) for one in _versions(watch)))
    assert "podpair-operator" not in owners
    if stage.node is not None:
        of_operator = [one["requestURI"] for one in stage.node.writes()[written:] if one["user"]["username"] == ACCOUNT]
        assert not [uri for uri in of_operator if f"/{space.name}/deployments/" in uri]
    told = space.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
    assert "SuccessfulRescale" in told


def test_the_emptiest_pods_go_and_nobody_at_the_fullest_is_asked_to_leave(space: Space, operator: Installed) -> None:
    space.client()
    space.jwt()
    space.apply(space.gateway(replicas=3))
    space.ready(240)
    full, some, idle = pods = sorted(space.items("pods", "-l", "app.kubernetes.io/name=podpair"), key=_name)
    holding = []
    for pod, sessions in ((full, 30), (some, 6)):
        tokens = [token(f"{_name(pod)}-{number}") for number in range(sessions)]
        holding.append(space.start("hold", url=f"ws://{pod['status']['podIP']}:8080/v1/ws", tokens=tokens))
        holding[-1].wait_for(lambda line: line == "began", 120)

    def costs() -> list[int]:
        return [read_cost(space.read("pod", _name(pod))["metadata"].get("annotations") or {}) for pod in pods]  # type: ignore[index]

    space.until(lambda: costs()[0] > costs()[1] > costs()[2] == 0, f"each pod has {ANNOTATION}", 120)
    space.kubectl("scale", "igw", "digits", "--replicas=1")

    def left() -> list[str]:
        found = space.items("pods", "-l", "app.kubernetes.io/name=podpair")
        return [_name(one) for one in found if "deletionTimestamp" not in one["metadata"]]

    space.until(lambda: left() == [_name(full)], f"{_name(full)} stays, {_name(some)} and {_name(idle)} go", 120)
    space.kubectl("exec", "client", "--", "touch", "/tmp/stop")
    assert json.loads(holding[0].wait_for(lambda line: line.startswith("{"), 60)) == {"drained": 0}


def _name(one: dict[str, Any]) -> str:
    return str(one["metadata"]["name"])


def test_no_pods_while_nothing_is_queued_and_requests_that_wait_bring_them_back(
    stage: Stage, space: Space, operator: Installed
) -> None:
    if stage.node is None:
        pytest.skip("a cluster of somebody's own may not have the feature gate HPAScaleToZero")
    space.client()
    space.jwt()
    scaling = {"min": 0, "max": 1, "metrics": [{"lag": 5}, {"sessions": 100}], "behavior": {"scaleDown": _QUICKLY}}
    space.apply(space.gateway(scaling=scaling))
    space.ready(180)
    space.until(lambda: not space.items("pods", "-l", "app.kubernetes.io/name=podpair"), "all pods have gone", 240)
    assert space.condition("Ready")["reason"] == "ScaledToZero"
    assert space.condition("Stalled")["status"] == "False"
    topics = {"topic": f"{space.name}.digits.requests", "results": f"{space.name}.digits.results", "partitions": 4}
    answered = space.run("queued", servers=stage.kafka.address, **topics, count=20, inputs=DIGIT, seconds=300)
    assert answered == {"results": 20}
    space.until(lambda: not space.items("pods", "-l", "app.kubernetes.io/name=podpair"), "they have gone again", 300)
