"""What `podpair plan` prints is enough: its pods run on a real node, the model before the gateway, and answer."""

import json
import subprocess
from typing import Any

import yaml

from e2e.stage import Space, Stage
from harness.pair import SECRET, token
from harness.processes import BIN, ROOT

_REQUEST = json.loads((ROOT / "examples/digits/request.json").read_text())


def example(stage: Stage, **changed: Any) -> dict[str, Any]:
    """The digits example, with a secret that the tests know, at the tests' Kafka; small, so that many fit on a node."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "examples/digits/inferencegateway.yaml").read_text())
    spec = made["spec"]
    versions = [{"version": "3", "weight": 90}, {"version": "2", "weight": 10}]
    spec["inference"] = {"image": stage.images.digits, "models": [{"name": "digits", "versions": versions}]}
    spec["gateway"]["auth"] = {"secretRef": {"name": "jwt", "key": "secret"}}
    spec["kafka"]["bootstrapServers"] = stage.kafka.address
    return made


def test_the_pods_of_a_plan_run_and_answer(stage: Stage, space: Space) -> None:
    space.secret("jwt", secret=SECRET)
    space.client()
    planned = subprocess.run(
        [BIN / "podpair", "plan", "-", "-n", space.name, "--gateway-image", stage.images.gateway],
        input=yaml.safe_dump(example(stage)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    space.kubectl("apply", "-f", "-", given=planned)

    def available() -> bool:
        found = space.read("deployment", "digits")
        return found is not None and found["status"].get("availableReplicas", 0) >= 1

    space.until(available, "a pod of the plan is available", 60)
    inputs = _REQUEST["inputs"]
    answers = space.run("ask", url="ws://digits/v1/ws", token=token(), inputs=inputs, routes=["direct", "queue"])
    assert answers == {route: {"label": "1", "version": "3", "taken": route} for route in ("direct", "queue")}
