"""A new image under load: no request is lost, none fails, and each gateway is done before its model is stopped."""

import json
from datetime import datetime
from typing import Any

from e2e.installed import Installed
from e2e.space import DIGIT, Space
from e2e.stage import Stage
from harness.pair import SECRET
from harness.processes import Child

_CLIENTS = 200
_CONTAINERS = ("gateway", "inference")


def _logs(space: Space, pod: str, container: str) -> Child:
    return space.follow("logs", "--follow", "--timestamps", pod, "-c", container)


def _said(child: Child, message: str) -> datetime:
    """When the container logged a message that begins so, for the last time."""
    return _all_said(child, message)[-1]


def _all_said(child: Child, message: str, least: int = 1) -> list[datetime]:
    found = [line.split(" ", 1) for line in child.lines if " " in line]
    times = [time for time, text in found if text.startswith("{") and json.loads(text)["message"].startswith(message)]
    assert len(times) >= least, f"{message!r} is not in:\n" + "\n".join(child.lines[-20:])
    return [datetime.fromisoformat(time[:26]) for time in times]


def test_a_new_image_rolls_out_under_200_clients_that_notice_nothing(
    stage: Stage, space: Space, operator: Installed
) -> None:
    space.client()
    space.jwt()
    # Room for all at once at one pod: `direct` is refused where there is none, and the test is of the rollout.
    limits = {"maxDirectInFlight": _CLIENTS, "inFlight": 16}
    pair = space.gateway(scaling={"min": 2, "max": 2}, gateway__drain="10s", gateway__limits=limits)
    space.apply(pair)
    space.ready(180)
    load = space.start(
        "load",
        url="ws://digits/v1/ws",
        secret=SECRET,
        clients=_CLIENTS,
        inputs=DIGIT,
        servers=stage.kafka.address,
        topic=f"{space.name}.digits.results",
        every=1.0,
        timeout=300,
    )
    load.wait_for(lambda line: line == "began", 60)
    pods = [pod["metadata"]["name"] for pod in space.items("pods", "-l", "podpair.dev/gateway=digits")]
    logs = {pod: {container: _logs(space, pod, container) for container in _CONTAINERS} for pod in pods}
    for of_pod in logs.values():
        for child in of_pod.values():
            child.wait_for(lambda line: '"ready"' in line)

    pair["spec"]["inference"]["image"] = stage.images.newer
    pair["spec"]["inference"]["models"] = [{"name": "digits", "versions": [{"version": "2"}]}]
    space.apply(pair)
    space.ready(180)
    space.until(lambda: not {*pods} & {*_pods(space)}, "the old pods are gone", 180)
    space.kubectl("exec", "client", "--", "touch", "/tmp/stop")
    verdict: dict[str, Any] = json.loads(load.wait_for(lambda line: line.startswith("{"), 120))

    assert verdict["faults"] == []
    assert set(verdict["outcomes"]) == {"result"}, verdict["outcomes"]
    assert verdict["gaps"] == 0
    assert {"1", "2"} <= set(verdict["versions"])
    assert verdict["drained"] == _CLIENTS
    drains = 0
    for of_pod in logs.values():
        for child in of_pod.values():
            child.process.wait(30)
        sent, stopped = _all_said(of_pod["gateway"], "draining", 0), _said(of_pod["gateway"], "stopped")
        assert stopped < _said(of_pod["inference"], "stopping")
        assert all(time < stopped for time in sent)
        drains += len(sent)
    # One of them, at least: where the Service is slow to learn of the second pod, all clients are at the first.
    assert drains


def _pods(space: Space) -> list[str]:
    return [pod["metadata"]["name"] for pod in space.items("pods", "-l", "podpair.dev/gateway=digits")]
