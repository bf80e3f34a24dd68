"""What `podpair plan` prints is enough: its pods run on a real node, the model before the gateway, and answer."""

import base64
import subprocess

import yaml

from e2e.space import DIGIT, Space
from harness.pair import token
from harness.processes import BIN
from podpair.operator.core.desired import PLACEHOLDER_KEY


def test_the_pods_of_a_plan_run_and_answer(space: Space) -> None:
    space.jwt()
    space.client()
    # The operator would make these; a plan's gateways wait until somebody has.
    for topic, partitions in (("requests", 4), ("results", 4), ("requests.dlq", 1)):
        name = f"{space.name}.digits.{topic}"
        space.run("kafka", servers=space.stage.kafka.address, topic=name, partitions=partitions)
    planned = subprocess.run(
        [BIN / "podpair", "plan", "-", "-n", space.name],
        input=yaml.safe_dump(space.gateway()),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # The operator would make the key, too; no gateway takes the one that stands in its place.
    planned = planned.replace(base64.b64encode(PLACEHOLDER_KEY.encode()).decode(), base64.b64encode(b"k" * 32).decode())
    space.kubectl("apply", "-f", "-", given=planned)

    def available() -> bool:
        found = space.read("deployment", "digits")
        return found is not None and found["status"].get("availableReplicas", 0) >= 1

    space.until(available, "a pod of the plan is available", 180)
    answers = space.run("ask", url="ws://digits/v1/ws", token=token(), inputs=DIGIT, routes=["direct", "queue"])
    assert answers == {route: {"label": "1", "version": "1", "taken": route} for route in ("direct", "queue")}
