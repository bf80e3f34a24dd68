"""What operators see of workflows: metrics, `inspect`, refusals; and that what is mended heals them."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.workflows.events import hear, shorts
from harness.fake_workflows import FakeWorkflows, StepError
from harness.pair import Gateway, token
from harness.processes import BIN, completed
from harness.waiting import soon
from podpair.common.gateway_config.environment import merged

pytestmark = pytest.mark.process


@pytest.fixture
async def client(shared: Gateway, server: FakeWorkflows, connect: Callable[..., Awaitable[Any]]) -> Any:
    return await connect(shared, sid=f"w-{server.number}")


async def test_an_approval_that_does_not_come_is_seen(client: Any, shared: Gateway, server: FakeWorkflows) -> None:
    async def echo(argument: Any, *_: Any) -> Any:
        return argument

    server.steps["echo"] = echo
    stages = {
        "a": {"step": "echo"},
        "ok": {"wait_for": "approved", "after": ["a"]},
        "b": {"step": "echo", "after": ["ok"]},
    }
    server.declare(server.flow, {"stages": stages})
    request = f"slow-{server.number}"
    await client.infer(request, model=server.flow, data=1)
    await hear(client, request, "ok waiting")
    await soon(lambda: shared.metric("workflows", workflow=server.flow, state="waiting") == 1)
    await soon(lambda: shared.metric("workflow_idle_seconds", state="waiting") > 0.0)
    assert shared.metric("workflow_stages_total", workflow=server.flow, stage="a", outcome="finished") == 1
    told = completed(BIN / "podpair-gateway", "inspect", "--config", shared.process.args[-1], request)
    assert told.returncode == 0, told.stderr
    lines = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert "a finished" in lines
    assert any(line.startswith("ok waits for the message 'approved', until 20") for line in lines), lines
    assert "b not begun, it waits for ok" in lines
    await client.send({"type": "cancel", "id": request})
    await soon(lambda: shared.metric("workflows", workflow=server.flow) == 0)


async def test_a_database_that_is_away_heals(client: Any, server: FakeWorkflows) -> None:
    away = threading.Event()
    away.set()

    async def book(argument: Any, *_: Any) -> Any:
        if away.is_set():
            raise StepError(500, "the database is away")
        return argument

    server.steps["book"] = book
    server.declare(server.flow, {"stages": {"book": {"step": "book", "retry": {"attempts": 100, "backoff": "50ms"}}}})
    await client.infer("r-1", model=server.flow, data=1)
    told, _ = await hear(client, "r-1", "book retrying")
    assert "the database is away" in told[-1]["message"]
    away.clear()
    more, end = await hear(client, "r-1")
    assert end["data"] == 1, end
    assert shorts(more)[-1] == "book finished"


@pytest.mark.parametrize("which", ["include", "exclude"])
async def test_a_stage_may_take_longer_than_other_calls_of_its_model(
    start: Callable[..., Gateway], server: FakeWorkflows, connect: Any, which: str
) -> None:
    server.delays["slow"] = 1.0
    server.declare(server.flow, {"stages": {"each": {"model": "slow", "for_each": "request", "input": "item"}}})
    client = await connect(start(inference={"timeout_seconds": 0.4}, batching={which: ["slow"]}))
    await client.infer("r-1", model=server.flow, data=[[1], [2]], route="queue")
    await client.infer("direct", model="slow", data=[3], route="direct")
    assert "0.4 s" in (await client.answer("direct"))["message"]
    assert (await client.answer("r-1"))["data"] == [{"y": [2]}, {"y": [4]}]


async def test_a_step_is_not_reached_past_the_queue(shared: Gateway, server: FakeWorkflows) -> None:
    server.declare(server.flow, {"stages": {"a": {"step": "a"}}})
    path = f"{shared.url}/v2/models/{server.flow}/generate_stream"
    headers, body = {"Authorization": f"Bearer {token()}"}, {"input": "1", "parameters": {"step": "a"}}
    async with aiohttp.ClientSession(headers=headers) as http, http.post(path, json=body) as answer:
        assert answer.status == 400
        assert "through the queue" in (await answer.json())["error"]
    assert not server.ran


async def test_on_the_embedded_broker(
    server: FakeWorkflows, start_gateway: Callable[..., Gateway], connect: Any
) -> None:
    async def echo(argument: Any, *_: Any) -> Any:
        return argument

    server.steps["echo"] = echo
    stages = {"a": {"step": "echo", "for_each": "request", "input": "item"}, "b": {"step": "echo", "input": "a"}}
    server.declare(server.flow, {"stages": stages})
    own = {"kafka": {"embedded": True}, "inference": {"url": server.url, "probe_seconds": 0.1}}
    gateway = start_gateway(
        merged(own, {"workflows": {"enabled": True, "max_instances": 1}, "requests": {"partitions": 1}})
    )
    gateway.wait_ready()
    client = await connect(gateway, sid="s-1")
    for number in range(3):
        await client.infer(f"r-{number}", model=server.flow, data=[1, number])
        told, end = await hear(client, f"r-{number}")
        assert end["data"] == [1, number], end
        assert shorts(told)[-1] == "b finished"
    server.declare("waits", {"stages": {"ok": {"wait_for": "ok"}}})
    await client.infer("held", model="waits", data=1)
    await hear(client, "held", "ok waiting")
    for number in range(9):  # the embedded broker has fewer partitions
        await client.infer(f"more-{number}", model="waits", data=1)
    end = await client.event("error")
    assert (end["code"], "workflows.max_instances" in end["message"]) == ("overloaded", True), end
    await client.send({"type": "signal", "id": "held", "name": "ok"})
    assert (await client.answer("held"))["data"] is None


@pytest.mark.slow
async def test_one_that_waits_for_long_is_not_taken_for_lost(client: Any, server: FakeWorkflows) -> None:
    server.declare(server.flow, {"stages": {"ok": {"wait_for": "ok"}}})
    await client.infer("r-1", model=server.flow, data=1)
    await hear(client, "r-1", "ok waiting")
    await asyncio.sleep(13)  # open requests are looked at every 5 s, if they were open at the look before
    await client.send({"type": "signal", "id": "r-1", "name": "ok", "data": 3})
    assert (await client.answer("r-1"))["data"] == 3
