"""Who is asked for first where requests wait in the model's queue: direct before queued, by the priority of their tokens."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from gateway.conftest import Client, Connect
from harness.pair import Gateway, Inference, token
from harness.waiting import soon

pytestmark = pytest.mark.process

MODELS = Path(__file__).parent / "models"
RULES = [{"claim": "plan", "value": "gold", "priority": "high"}, {"claim": "plan", "value": "free", "priority": "low"}]


@pytest.fixture(scope="module")
def gate() -> Iterator[Inference]:
    running = Inference(models=MODELS)
    yield running
    running.stop()


@pytest.fixture(scope="module", params=["rest", "grpc"])
def gateway(
    request: pytest.FixtureRequest, gate: Inference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    url = gate.url if request.param == "rest" else gate.grpc
    config = {"kafka": {"embedded": True}, "inference": {"url": url}, "batching": {"exclude": ["gate"]}}
    running = Gateway(tmp_path_factory.mktemp("lanes"), config | {"admission": {"rules": RULES}})
    running.wait_ready()
    yield running
    running.stop()


async def test_direct_requests_go_before_queued_ones_each_by_its_tokens_priority(
    gateway: Gateway, gate: Inference, connect: Connect, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    asked = 0

    async def ask(client: Client, name: str, route: str) -> None:
        nonlocal asked
        await client.infer(name, model="gate", data=str(tmp_path / name), route=route)
        await soon(lambda: gate.queue_depth("gate") == asked)
        asked += 1

    ended: set[str] = set()

    def at_work() -> set[str]:
        """What the model has begun and not ended."""
        return {name.removesuffix(".began") for name in os.listdir(tmp_path) if name.endswith(".began")} - ended

    async def run(*names: str) -> None:
        """Let these end, which are next, in whatever order."""
        while not ended.issuperset(names):
            found = await soon(at_work, timeout=20)
            assert found <= set(names)
            ended.update(found)
            for name in found:
                (tmp_path / f"{name}.open").touch()

    plain, free, gold = await connect(gateway), await connect(gateway, plan="free"), await connect(gateway, plan="gold")
    await ask(plain, "first", "direct")
    await soon(at_work)
    for client, name, route in (
        (plain, "queued", "queue"), (free, "free-queued", "queue"), (free, "free", "direct"), (gold, "gold-queued", "queue"),
        (plain, "plain", "direct"), (gold, "gold", "direct"), (plain, "queued-too", "queue"),
    ):  # fmt: skip
        await ask(client, name, route)
    # Whoever asks for more than its token gives it gets no more.
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": [str(tmp_path / "bold")]}
    headers = {"Authorization": f"Bearer {token()}", "podpair-priority": "high"}
    bold = asyncio.create_task(
        http.post(f"{gateway.url}/v2/models/gate/infer", json={"inputs": [tensor]}, headers=headers)
    )
    await soon(lambda: gate.queue_depth("gate") == asked)

    await run("first")
    await run("gold")
    await run("plain", "gold-queued", "bold")
    await run("queued", "free-queued", "free", "queued-too")
    assert (await bold).status == 200
    for client, count in ((plain, 4), (gold, 2), (free, 2)):
        left = count
        while left:
            event = await client.next()
            assert event["type"] in ("accepted", "result")
            left -= event["type"] == "result"
