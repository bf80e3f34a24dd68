"""Events as they reach the API server: the same one is counted, and a resource that has too much to say is cut short."""

import asyncio
from typing import Any, cast

from harness.resources import resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.events import Event
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.events import EventPoster
from podpair.operator.kube.kinds import Resource


class Server:
    """Keeps events as an API server does."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}

    async def create(self, _: Resource, manifest: dict[str, Any]) -> dict[str, Any]:
        self.events[manifest["metadata"]["name"]] = manifest
        return manifest

    async def merge(self, path: str, change: dict[str, Any]) -> dict[str, Any]:
        name = path.rsplit("/", 1)[1]
        if name not in self.events:
            raise ApiError(404, "NotFound", "gone")
        self.events[name] |= change
        return self.events[name]

    def told(self) -> list[tuple[str, int]]:
        return [(one["message"], one["count"]) for one in self.events.values()]


def gateway(name: str = "digits") -> InferenceGateway:
    made = resource(name=name)
    made["metadata"]["uid"] = f"uid-{name}"
    return InferenceGateway.model_validate(made)


def posted(*events: Event, server: Server | None = None, names: tuple[str, ...] = ("digits",)) -> Server:
    server = server or Server()
    poster = EventPoster(cast("Client", server), "operator-1")

    async def post() -> None:
        for event in events:
            for name in names:
                await poster.post(gateway(name), [event])

    asyncio.run(post())
    return server


def test_the_same_event_is_counted_though_its_numbers_have_changed() -> None:
    said = [f"no node: 0/{nodes} nodes are available: {nodes} Insufficient cpu" for nodes in (3, 5, 4)]
    server = posted(*(Event("Warning", "Unschedulable", one) for one in said))
    assert server.told() == [("no node: no nodes are available: Insufficient cpu", 3)]


def test_one_that_the_server_has_forgotten_is_posted_anew() -> None:
    server = Server()
    poster = EventPoster(cast("Client", server), "operator-1")
    event = Event("Normal", "Ready", "pods are ready")

    async def post() -> None:
        await poster.post(gateway(), [event])
        server.events.clear()
        await poster.post(gateway(), [event, event])

    asyncio.run(post())
    assert server.told() == [("pods are ready", 2)]


def test_a_resource_that_has_too_much_to_say_is_cut_short_and_others_are_not() -> None:
    server = posted(*(Event("Normal", "Any", f"event {number}.") for number in range(200)), names=("digits", "other"))
    by_name = [one["involvedObject"]["name"] for one in server.events.values()]
    for name in ("digits", "other"):
        assert 30 <= by_name.count(name) < 100  # one more every 20 s


def test_a_long_one_is_cut() -> None:
    ((message, _),) = posted(Event("Normal", "Any", "x" * 5000)).told()
    assert (len(message), message[-1]) == (1024, "…")
