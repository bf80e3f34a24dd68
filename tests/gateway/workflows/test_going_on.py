"""Workflows go on where they were, whatever becomes of the gateway that had them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from gateway.workflows.events import Told, hear, shorts
from harness.fake_workflows import FakeWorkflows
from harness.fleet import freeze, thaw
from harness.kafka import Broker
from harness.pair import Gateway
from harness.topics import TopicAdmin
from harness.waiting import soon
from podpair.common.gateway_config.environment import merged
from podpair.common.gateway_config.model import Config
from podpair.gateway.kafka.workflows_log import going_on

pytestmark = pytest.mark.process


class Door:
    """A step that waits until the test opens it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def __call__(self, argument: Any, *_: Any) -> Any:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.open.wait(), self._loop))
        return argument


async def echo(argument: Any, *_: Any) -> Any:
    return argument


STAGES = {
    "first": {"step": "echo"},
    "hold": {"step": "hold", "input": "[first, 'held']", "timeout": "10m"},
    "last": {"step": "echo", "input": "hold"},
}


def ran(server: FakeWorkflows, step: str) -> int:
    return sum(parameters["step"] == step for parameters in server.ran)


def check(told: Told) -> None:
    """Each stage ended once, in order, whoever told of it."""
    names = shorts(told)
    assert [name for name in names if name.endswith("finished")] == [
        "first finished",
        "hold finished",
        "last finished",
    ], names
    assert [name for name in names if name.endswith("started")] == ["first started", "hold started", "last started"], (
        names
    )


@pytest.mark.parametrize("how", ["killed", "ended"])
async def test_the_next_gateway_goes_on_at_the_last_finished_stage(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any, how: str
) -> None:
    door = Door()
    server.steps |= {"echo": echo, "hold": door}
    server.declare(server.flow, {"stages": STAGES})
    first = start(shutdown_seconds=0.5)
    client = await connect(first, sid="s-1")
    await client.infer("r-1", model=server.flow, data=7, route="queue")
    told, _ = await hear(client, "r-1", "hold started")
    await soon(lambda: ran(server, "hold") == 1)
    resume = client.welcome["resume"]
    if how == "killed":
        first.kill()
    else:
        await asyncio.get_running_loop().run_in_executor(None, first.stop)
    server.declare(server.flow, {"stages": {"other": {"step": "echo", "input": "'another declaration'"}}}, version=2)
    second = start()
    back = await connect(second, sid="s-1", params={"resume": resume})
    more, _ = await hear(back, "r-1", "hold retrying")
    door.open.set()
    rest, end = await hear(back, "r-1")
    assert end["data"] == [7, "held"], end
    assert end["model_version"] == "1"
    assert (ran(server, "echo"), ran(server, "hold")) == (2, 2)
    everything = [*told, *more, *rest] if shorts(more)[:1] != ["first started"] else [*more, *rest]
    check(everything)


@pytest.mark.slow
async def test_a_frozen_gateway_says_nothing_when_it_wakes(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any
) -> None:
    door = Door()
    server.steps |= {"echo": echo, "hold": door}
    server.declare(server.flow, {"stages": STAGES})
    frozen = start()
    client = await connect(frozen, sid="s-1")
    await client.infer("r-1", model=server.flow, data=7, route="queue")
    told, _ = await hear(client, "r-1", "hold started")
    freeze(frozen)
    second = start()
    back = await connect(second, sid="s-1", params={"resume": client.welcome["resume"]})
    more, _ = await hear(back, "r-1", "hold retrying")
    door.open.set()  # for both: the frozen one hears its answer when it wakes
    rest, end = await hear(back, "r-1")
    assert end["data"] == [7, "held"]
    thaw(frozen)
    await soon(lambda: frozen.metric("request_partitions") < 8, timeout=30)
    await back.infer("r-2", model=server.flow, data=8, route="queue")  # nothing of r-1 comes before its end
    while (event := await back.next())["type"] != "result":
        assert event.get("id") != "r-1", event
    assert event["id"] == "r-2"
    check(told + more + rest if shorts(more)[:1] != ["first started"] else more + rest)


async def test_a_request_that_is_there_twice_runs_once(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any, broker: Broker, names: dict[str, Any]
) -> None:
    server.steps["echo"] = echo
    server.declare(server.flow, {"stages": {"a": {"step": "echo"}}})
    gateway = start()
    client = await connect(gateway, sid="s-1")
    producer = Producer({"bootstrap.servers": broker.address})
    headers = {"ce_id": "r-1", "ce_subject": "user/s-1", "ce_type": "dev.podpair.request", "model": server.flow}
    for _ in range(2):
        producer.produce(names["requests"]["topic"], b'{"data":5}', None, 3, headers=headers)
    assert producer.flush(10) == 0
    assert (await client.answer("r-1"))["data"] == 5
    producer.produce(names["requests"]["topic"], b'{"data":5}', None, 3, headers=headers)
    assert producer.flush(10) == 0
    await soon(lambda: gateway.metric("queue_requests_total", outcome="result") == 1)  # the same answer again
    assert gateway.metric("queue_requests_total", outcome="workflow") == 2
    assert ran(server, "echo") == 1


async def test_a_message_through_another_gateway(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any
) -> None:
    server.declare(server.flow, {"stages": {"ok": {"wait_for": "ok"}}})
    first, second = start(), start()
    client = await connect(first, sid="s-1")
    await client.infer("r-1", model=server.flow, data=7, route="queue")
    await hear(client, "r-1", "ok waiting")
    assert first.metric("workflows", state="waiting") + second.metric("workflows", state="waiting") == 1
    back = await connect(second, sid="s-1", params={"resume": client.welcome["resume"]})
    await back.send({"type": "signal", "id": "r-1", "name": "ok", "data": {"yes": True}})
    end = await back.answer("r-1")
    assert end["data"] == {"yes": True}
    await soon(lambda: first.metric("workflows") + second.metric("workflows") == 0)


async def test_a_stage_at_another_gateway(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any, names: dict[str, Any]
) -> None:
    topic = names["requests"]["topic"]
    other = {"requests": {"topic": f"{topic}-b", "group": f"{topic}-b"}, "results": {"topic": f"{topic}-b-results"}}
    server.declare(
        server.flow,
        {"stages": {
            "there": {"gateway": {"topic": f"{topic}-b", "model": "double"}},
            "wrong": {"gateway": {"topic": f"{topic}-b", "model": "double"}, "input": "'text'", "on_error": "continue"},
        }, "output": "{there: there, wrong: wrong}"},
    )  # fmt: skip
    theirs = merged_requests(other, {"reply_topics": [f"{topic[:3]}*"]})
    start(**theirs)
    client = await connect(start(), sid="s-1")
    began = time.monotonic()
    await client.infer("r-1", model=server.flow, data=[1, 2], route="queue")
    told, end = await hear(client, "r-1")
    assert end["data"] == {"there": {"y": [2, 4]}, "wrong": None}, (end, told)
    assert any(event["event"] == "failed" and "invalid" in event["message"] for event in told)
    assert time.monotonic() - began < 30


async def test_which_go_on_is_known_from_their_state(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any, broker: Broker, names: dict[str, Any]
) -> None:
    server.declare(server.flow, {"stages": {"ok": {"wait_for": "ok"}}})
    client = await connect(start(), sid="s-1")
    for name in ("r-1", "r-2"):
        await client.infer(name, model=server.flow, data=7, route="queue")
        await hear(client, name, "ok waiting")
    await client.send({"type": "signal", "id": "r-1", "name": "ok"})
    assert (await client.answer("r-1"))["type"] == "result"
    own = {"auth": {"secret": "s" * 40}, "kafka": {"bootstrap_servers": broker.address}, "workflows": {"enabled": True}}
    wanted = [("user/s-1", name) for name in ("r-1", "r-2", "r-3")]
    assert await going_on(Config.model_validate(merged(own, names)), wanted) == {("user/s-1", "r-2")}


class Hung:
    """A step that hangs until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def __call__(self, *_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_a_stage_at_another_gateway_that_is_given_up_ends_there(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any, names: dict[str, Any], how: str
) -> None:
    topic, hung = names["requests"]["topic"], Hung()
    server.steps["hang"] = hung
    server.declare("there", {"stages": {"hang": {"step": "hang", "timeout": "10m"}}})
    call = {"gateway": {"topic": f"{topic}-b", "model": "there"}, "retry": {"attempts": 2, "backoff": "10ms"}}
    timeout = {"timeout": "2s"} if how == "timeout" else {"timeout": "10m"}
    server.declare(server.flow, {"stages": {"away": call | timeout}})
    other = {"requests": {"topic": f"{topic}-b", "group": f"{topic}-b"}, "results": {"topic": f"{topic}-b-results"}}
    there = start(**merged_requests(other, {"reply_topics": [topic]}))
    client = await connect(start(), sid="s-1")
    await client.infer("r-1", model=server.flow, data=1, route="queue")
    if how == "cancel":
        await soon(lambda: ran(server, "hang") == 1)
        await client.send({"type": "cancel", "id": "r-1"})
    _, end = await hear(client, "r-1")
    assert end["code"] == ("cancelled" if how == "cancel" else "upstream"), end
    await soon(lambda: hung.cancelled == (1 if how == "cancel" else 2))
    await soon(lambda: there.metric("workflows") == 0)


async def test_one_that_is_repeated_at_another_gateway_is_the_same(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any
) -> None:
    door, ids = Door(), [f"r-{number}" for number in range(8)]
    server.steps["hold"] = door
    server.declare(server.flow, {"stages": {"hold": {"step": "hold", "timeout": "10m"}}})
    first, second = start(), start()
    # A partition that moves has its calls made again: they have to be shared out before.
    await soon(lambda: [one.metric("request_partitions") for one in (first, second)] == [4, 4])
    client = await connect(first)
    for name in ids:
        await client.infer(name, model=server.flow, data=7, route="queue")
    await soon(lambda: ran(server, "hold") == len(ids))
    again = await connect(second, params={"resume": client.welcome["resume"]})
    for name in ids:
        await again.infer(name, model=server.flow, data=7, route="queue", retry=True)
    for _ in ids:
        await again.event("accepted")
    door.open.set()
    for name in ids:
        assert (await again.answer(name))["data"] == 7
    assert ran(server, "hold") == len(ids)


async def test_an_answer_to_a_place_that_is_not_there_holds_up_nobody(
    start: Callable[..., Gateway],
    server: FakeWorkflows,
    connect: Any,
    broker: Broker,
    names: dict[str, Any],
) -> None:
    server.steps["echo"] = echo
    server.declare(server.flow, {"stages": {"a": {"step": "echo"}}})
    topic = names["requests"]["topic"]
    allowed = {"exactly_once": True, "reply_topics": [f"{topic}*"], "transaction_timeout_seconds": 2}
    gateway = start(**merged_requests({"requests": {"session_timeout_seconds": 6}}, allowed))
    client = await connect(gateway, sid="s-1")
    producer = Producer({"bootstrap.servers": broker.address})
    common = {"ce_subject": "user/s-1", "ce_type": "dev.podpair.request"}
    common |= {"reply_to": topic, "reply_partition": "999"}
    for name, model in (("r-1", server.flow), ("r-2", "double")):
        producer.produce(topic, b'{"data":[1,2]}', None, 3, headers=common | {"ce_id": name, "model": model})
    assert producer.flush(10) == 0
    first = await client.answer("r-1")
    assert first.get("data") == [1, 2], first
    assert (await client.answer("r-2"))["data"] == {"y": [2, 4]}
    await soon(lambda: gateway.metric("queue_requests_total", outcome="result") == 1, timeout=20)


def merged_requests(config: dict[str, Any], requests: dict[str, Any]) -> dict[str, Any]:
    return config | {"requests": config["requests"] | requests}


@pytest.mark.slow
async def test_a_wider_requests_topic(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any, broker: Broker, names: dict[str, Any]
) -> None:
    server.steps["echo"] = echo
    server.declare(server.flow, {"stages": {"a": {"step": "echo"}}})
    gateway = start(requests={**names["requests"], "partitions": 2})
    topic = names["requests"]["topic"]
    TopicAdmin(broker.address).widen(topic, 4)
    await soon(lambda: gateway.metric("request_partitions") == 4)
    client = await connect(gateway, sid="s-1")
    producer = Producer({"bootstrap.servers": broker.address})
    headers = {"ce_id": "r-1", "ce_subject": "user/s-1", "ce_type": "dev.podpair.request", "model": server.flow}
    producer.produce(topic, b'{"data":5}', None, 3, headers=headers)
    assert producer.flush(10) == 0
    assert (await client.answer("r-1"))["data"] == 5
    await soon(lambda: gateway.get("/readyz")[0] == 200)
