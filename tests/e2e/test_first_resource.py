"""The first resource: installed by Helm, applied, ready, answering on both routes, and gone without a trace but its topics."""

from collections.abc import Callable
from typing import Any

from e2e.installed import Installed
from e2e.space import DIGIT, Space
from e2e.stage import Stage
from harness.pair import token
from harness.resources import EXAMPLE


def _kafka(stage: Stage) -> list[dict[str, Any]]:
    """The Service `kafka` in namespace `kafka`, where the example looks for it, before the tests' broker."""
    host, port = stage.kafka.address.split(":")
    place = {"name": "kafka", "namespace": "kafka"}
    slices = {
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host]}],
        "ports": [{"name": "", "port": int(port), "protocol": "TCP"}],
    }
    label = {"kubernetes.io/service-name": "kafka"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kafka"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": place, "spec": {"ports": [{"port": 9092}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {**place, "labels": label}} | slices,
    ]


def _topics(space: Space) -> list[str]:
    return [
        name for name in space.run("topics", servers=space.stage.kafka.address) if name.startswith(f"{space.name}.")
    ]


def test_from_install_to_an_answer_and_away_again(
    stage: Stage, space: Space, operator: Installed, record_property: Callable[[str, object], None]
) -> None:
    space.client()
    space.jwt()
    stage.cluster.apply(*_kafka(stage))
    before = space.everything()
    space.kubectl("apply", "-f", str(EXAMPLE))
    # Ready in a minute is the aim; how long a busy machine takes is told, not judged.
    record_property("seconds until ready", round(space.ready(300), 1))
    answers = space.run("ask", url="ws://digits/v1/ws", token=token(), inputs=DIGIT, routes=["direct", "queue"])
    assert answers == {route: {"label": "1", "version": "1", "taken": route} for route in ("direct", "queue")}
    assert len(_topics(space)) >= 2

    space.kubectl("delete", "igw", "digits", "--timeout=180s")
    space.until(lambda: space.everything() <= before, "everything of the resource is gone", 180)
    assert len(_topics(space)) >= 2, "Retain keeps the topics"


def test_delete_takes_the_topics_too_where_that_is_wanted(space: Space, operator: Installed) -> None:
    space.client()
    space.jwt()
    space.apply(space.gateway(kafka__deletionPolicy="Delete"))
    space.ready(180)
    assert len(_topics(space)) >= 2
    space.kubectl("delete", "igw", "digits", "--timeout=180s")
    # The controller has deleted them; a broker may tell of them a moment longer.
    space.until(lambda: _topics(space) == [], "the topics are gone", 60)
