"""What nobody wants any more is not computed: cancellations, clients that leave and deadlines reach the model's own queue."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Client, Connect, resuming
from gateway.fake_model import FakeModel
from harness.pair import Gateway, Inference, token
from harness.waiting import soon

pytestmark = pytest.mark.process

MODELS = Path(__file__).parent / "models"
BEARER = {"Authorization": f"Bearer {token()}"}


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
    running = Gateway(tmp_path_factory.mktemp("gate"), config)
    running.wait_ready()
    yield running
    running.stop()


@asynccontextmanager
async def busy(gateway: Gateway, connect: Connect, folder: Path) -> AsyncIterator[None]:
    """The model is at work on another's request."""
    other = await connect(gateway)
    await other.infer("first", model="gate", data=str(folder / "first"), route="direct")
    await soon((folder / "first.began").exists)
    yield
    (folder / "first.open").touch()
    assert (await other.answer("first"))["type"] == "result"


async def ask(client: Client, folder: Path, **members: Any) -> None:
    await client.infer("unwanted", model="gate", data=str(folder / "unwanted"), **members)


@pytest.mark.parametrize("route", ["direct", "queue"])
@pytest.mark.parametrize("how", ["cancel", "leave"])
async def test_what_is_cancelled_leaves_the_models_queue(
    gateway: Gateway, gate: Inference, connect: Connect, tmp_path: Path, route: str, how: str
) -> None:
    async with busy(gateway, connect, tmp_path):
        client = await connect(gateway)
        await ask(client, tmp_path, route=route, on_disconnect="cancel")
        await soon(lambda: gate.queue_depth("gate") == 1)
        if how == "cancel":
            await client.send({"type": "cancel", "id": "unwanted"})
            assert (await client.answer("unwanted"))["code"] == "cancelled"
        else:
            await client.socket.close()
        await soon(lambda: gate.queue_depth("gate") == 0)
    (tmp_path / "last.open").touch()
    last = await connect(gateway)
    await last.infer("last", model="gate", data=str(tmp_path / "last"), route=route)
    assert (await last.answer("last"))["type"] == "result"
    assert not (tmp_path / "unwanted.began").exists()


async def test_who_leaves_and_is_to_be_detached_is_answered_all_the_same(
    gateway: Gateway, gate: Inference, connect: Connect, tmp_path: Path
) -> None:
    async with busy(gateway, connect, tmp_path):
        client = await connect(gateway)
        await ask(client, tmp_path, route="direct")
        await soon(lambda: gate.queue_depth("gate") == 1)
        await client.socket.close()
        (tmp_path / "unwanted.open").touch()
    await soon((tmp_path / "unwanted.began").exists)


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_deadline_passes_in_the_models_queue(
    gateway: Gateway, gate: Inference, connect: Connect, tmp_path: Path, route: str
) -> None:
    async with busy(gateway, connect, tmp_path):
        client = await connect(gateway)
        await ask(client, tmp_path, route=route, deadline_ms=1500)
        assert (await client.answer("unwanted"))["code"] == "deadline_exceeded"
        await soon(lambda: gate.queue_depth("gate") == 0)
    assert not (tmp_path / "unwanted.began").exists()


async def test_a_caller_of_v2_that_hangs_up_leaves_the_models_queue(
    gateway: Gateway, gate: Inference, connect: Connect, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": [str(tmp_path / "unwanted")]}
    url = f"{gateway.url}/v2/models/gate/infer"
    async with busy(gateway, connect, tmp_path):
        calling = asyncio.create_task(http.post(url, json={"inputs": [tensor]}, headers=BEARER))
        await soon(lambda: gate.queue_depth("gate") == 1)
        calling.cancel()
        await soon(lambda: gate.queue_depth("gate") == 0)
        late = {"podpair-deadline": "1"}
        async with http.post(url, json={"inputs": [tensor]}, headers=BEARER | late) as answer:
            assert answer.status == 504
    assert not (tmp_path / "unwanted.began").exists()


@pytest.mark.parametrize("route", ["direct", "queue"])
@pytest.mark.parametrize("ordering", ["none", "session"])
async def test_a_client_that_has_moved_takes_back_what_its_first_gateway_accepted(
    real_gateway: Callable[..., Gateway], gate: Inference, connect: Connect, tmp_path: Path, ordering: str, route: str
) -> None:
    config: dict[str, Any] = {
        "inference": {"url": gate.url}, "batching": {"exclude": ["gate"]}, "requests": {"ordering": ordering, "partitions": 4},
    }  # fmt: skip
    first = await asyncio.to_thread(lambda: real_gateway(**config))
    second = await asyncio.to_thread(lambda: real_gateway(**config))
    async with busy(first, connect, tmp_path):
        client = await connect(first)
        await ask(client, tmp_path, route=route)
        await client.event("accepted", id="unwanted")
        await soon(lambda: gate.queue_depth("gate") == 1)
        await client.socket.close()
        moved = await connect(second, params=resuming(client))
        await moved.send({"type": "cancel", "id": "unwanted"})
        assert (await moved.answer("unwanted"))["code"] == "cancelled"
        await soon(lambda: gate.queue_depth("gate") == 0)
        # Its end is known here now: there is nothing to look for.
        await moved.send({"type": "cancel", "id": "unwanted"})
        (tmp_path / "next.open").touch()
        await moved.infer("next", model="gate", data=str(tmp_path / "next"), route="queue")
    assert (await moved.answer("next"))["type"] == "result"
    assert not (tmp_path / "unwanted.began").exists()
    assert second.metric("cancellations_total", scope="broadcast") == 1
    both = (first, second)
    await soon(lambda: sum(g.metric("queue_requests_total", outcome="cancellation") for g in both) == 4)


async def test_what_is_asked_behind_its_own_cancellation_is_not_meant_by_it(
    gateway: Gateway, connect: Connect, tmp_path: Path
) -> None:
    """A client takes an id back that this gateway does not know, and asks it at once: the word comes back here from Kafka."""

    def passed() -> float:
        return gateway.metric("queue_requests_total", outcome="cancellation")

    before = passed()
    async with busy(gateway, connect, tmp_path):
        client = await connect(gateway)
        await client.send({"type": "cancel", "id": "unwanted"})
        await ask(client, tmp_path, route="direct")
        await soon(lambda: passed() >= before + 4)
        (tmp_path / "unwanted.open").touch()
    assert (await client.answer("unwanted"))["type"] == "result"


async def test_a_session_looks_for_no_more_requests_than_it_may_have(
    start_gateway: Callable[..., Gateway], model: FakeModel, connect: Connect
) -> None:
    config = {"kafka": {"embedded": True}, "inference": {"url": model.url}, "limits": {"in_flight": 6}}
    gateway = await asyncio.to_thread(start_gateway, config)
    await asyncio.to_thread(gateway.wait_ready)

    def count(scope: str) -> float:
        return gateway.metric("cancellations_total", scope=scope)

    client, other = await connect(gateway), await connect(gateway)
    for number in [*range(8), 0, 1]:
        await client.send({"type": "cancel", "id": f"unknown-{number}"})
    await soon(lambda: count("too_many") == 2)
    assert count("broadcast") == 6
    await other.send({"type": "cancel", "id": "unknown-0"})
    await soon(lambda: count("broadcast") == 7)
    # What is asked behind its own cancellation is not meant by it.
    await client.infer("unknown-0", model="fake", data=[1.0, 2.0], route="queue")
    assert (await client.answer("unknown-0"))["type"] == "result"
