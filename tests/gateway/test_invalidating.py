"""Records of the invalidation topic take answers out of the caches of all gateways, and once one is in force none is given."""

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from gateway.conftest import Client, Connect
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway
from harness.processes import BIN
from harness.topics import TopicAdmin
from harness.waiting import soon, until
from podpair.common.gateway_config.environment import merged

XY = [1.0, 2.0]
LEASE = 0.4  # seconds

Start = Callable[..., Gateway]


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker that no other test needs."""
    running = Broker("256m")
    yield running
    running.child.process.send_signal(signal.SIGCONT)
    running.stop()


@pytest.fixture
def topic(names: dict[str, Any]) -> str:
    return f"{names['requests']['topic']}.cache"


@pytest.fixture
def start(model: FakeModel, broker: Broker, names: dict[str, Any], topic: str, start_gateway: Start) -> Start:
    """`start()` starts a gateway that caches `fake` for all, `rows` by subject, on the real broker."""

    def begin(at: Broker = broker, **config: Any) -> Gateway:
        models = [{"model": "fake", "scope": "shared"}, {"model": "rows"}]
        own = {
            "kafka": {"bootstrap_servers": at.address},
            "inference": {"url": model.url, "probe_seconds": 0.1},
            "cache": {"models": models, "topic": topic, "lease_seconds": LEASE},
        }
        gateway = start_gateway(merged(merged(own, names), config))
        gateway.wait_ready()
        until(lambda: gateway.metric("cache_current") == 1)
        return gateway

    return begin


async def ask(client: Client, request_id: str, **members: Any) -> None:
    await client.infer(request_id, **{"model": "fake", "data": XY, "route": "direct", **members})


async def answer(client: Client, request_id: str, **members: Any) -> str | None:
    """What the answer says of the cache."""
    await ask(client, request_id, **members)
    event = await client.answer(request_id)
    assert event["type"] == "result", event
    found: str | None = event.get("cache")
    return found


async def invalidate(broker: Broker, topic: str, value: bytes | None) -> None:
    """Write a record as any service would; return once it is in force."""
    producer = Producer({"bootstrap.servers": broker.address})
    producer.produce(topic, value)
    assert producer.flush(15) == 0
    await asyncio.sleep(LEASE)  # which is what being in force means


@pytest.mark.parametrize("value", [b'{"model":"fake"}', b'{"model":"*"}', b"what is this", None])
async def test_no_gateway_gives_an_answer_that_is_invalidated(
    start: Start, broker: Broker, topic: str, model: FakeModel, connect: Connect, value: bytes | None
) -> None:
    gateways = [start(), start()]
    clients = [await connect(gateway, sub="ann") for gateway in gateways]
    for client in clients:
        assert [await answer(client, "a"), await answer(client, "b")] == [None, "hit"]
    await invalidate(broker, topic, value)
    for client in clients:
        assert [await answer(client, "c"), await answer(client, "d")] == [None, "hit"]
    outcome = "applied" if value and value.startswith(b"{") else "malformed"
    assert gateways[0].metric("cache_invalidations_total", outcome=outcome) == 1
    assert gateways[0].metric("cache_removed_total", reason="invalidated", model="fake") == 1


async def test_of_one_model_and_of_one_subject(start: Start, broker: Broker, topic: str, connect: Connect) -> None:
    gateway = start()
    ann, bob = await connect(gateway, sub="ann"), await connect(gateway, sub="bob")
    for client in (ann, bob):
        await answer(client, "a", model="rows")
    await answer(ann, "b")
    await invalidate(broker, topic, b'{"model":"rows","subject":"ann"}')
    assert [await answer(client, "c", model="rows") for client in (ann, bob)] == [None, "hit"]
    assert await answer(ann, "d") == "hit"


async def test_the_command_returns_once_it_is_in_force(
    start: Start, broker: Broker, topic: str, connect: Connect
) -> None:
    client = await connect(start())
    assert [await answer(client, "a"), await answer(client, "b")] == [None, "hit"]
    command = [BIN / "podpair-gateway", "invalidate", "--kafka", broker.address, "--topic", topic, "--model", "fake"]
    await asyncio.to_thread(subprocess.run, [*command, "--lease", str(LEASE)], check=True, timeout=60)
    assert await answer(client, "c") is None


@pytest.mark.process
def test_the_command_says_what_is_missing() -> None:
    command = [BIN / "podpair-gateway", "invalidate", "--model", "fake"]
    for more, said in ([], "missing broker"), (["--kafka", "127.0.0.1:1"], "missing topic"):
        found = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=False)
        assert (found.returncode, said in found.stderr) == (2, True), found.stderr


async def test_a_call_that_began_before_is_not_kept_and_not_waited_for(
    start: Start, broker: Broker, topic: str, model: FakeModel, connect: Connect
) -> None:
    gateway = start()
    client = await connect(gateway)
    model.open.clear()
    await ask(client, "a")
    await soon(lambda: len(model.asked) == 1)
    await invalidate(broker, topic, b'{"model":"fake"}')
    await ask(client, "b")
    await soon(lambda: len(model.asked) == 2)
    await ask(client, "c")
    await soon(lambda: gateway.metric("cache_requests_total", model="fake", outcome="wait") == 1)
    model.open.set()
    answers = [await client.event("result") for _ in range(3)]
    assert {event["id"]: event.get("cache") for event in answers} == {"a": None, "b": None, "c": "wait"}
    assert await answer(client, "d") == "hit"


async def test_a_gateway_that_can_not_read_the_topic_gives_nothing_that_it_has_kept(
    start: Start, own_broker: Broker, model: FakeModel, connect: Connect
) -> None:
    gateway = start(own_broker, kafka={"probe_seconds": 0.2})
    client = await connect(gateway)
    assert [await answer(client, "a"), await answer(client, "b")] == [None, "hit"]
    own_broker.child.process.send_signal(signal.SIGSTOP)
    await soon(lambda: gateway.metric("cache_current") == 0)
    assert await answer(client, "c") is None
    assert gateway.metric("cache_requests_total", model="fake", outcome="bypass") == 1
    assert "answers that are kept are not given" in gateway.get("/readyz")[1]
    own_broker.child.process.send_signal(signal.SIGCONT)
    await soon(lambda: gateway.metric("cache_current") == 1)
    assert await answer(client, "d") == "hit"  # nothing has invalidated it


async def test_a_topic_that_is_made_again(start: Start, broker: Broker, topic: str, connect: Connect) -> None:
    gateway = start(kafka={"probe_seconds": 0.2})
    client = await connect(gateway)
    for number in range(3):  # the log that follows is shorter
        await invalidate(broker, topic, b'{"model":"another"}')
        assert gateway.metric("cache_invalidations_total") == number + 1
    assert [await answer(client, "a"), await answer(client, "b")] == [None, "hit"]
    await asyncio.to_thread(TopicAdmin(broker.address).recreate, topic, 1)
    await soon(lambda: gateway.renewals(topic) > 0)
    await soon(lambda: gateway.metric("cache_current") == 1)
    assert [await answer(client, "c"), await answer(client, "d")] == [None, "hit"]  # it knows nothing of what was there
    await invalidate(broker, topic, b'{"model":"fake"}')
    assert await answer(client, "e") is None


async def test_a_topic_that_is_widened(start: Start, broker: Broker, topic: str, connect: Connect) -> None:
    gateway = start(kafka={"probe_seconds": 0.2})
    client = await connect(gateway)
    assert [await answer(client, "a"), await answer(client, "b")] == [None, "hit"]
    await asyncio.to_thread(TopicAdmin(broker.address).widen, topic, 3)
    await soon(lambda: gateway.metric("topic_changes_total", topic=topic, change="widened") == 1)
    producer = Producer({"bootstrap.servers": broker.address})
    for partition in (1, 2, 0):
        await soon(lambda: gateway.metric("cache_current") == 1)
        await answer(client, f"c{partition}")
        assert await answer(client, f"d{partition}") == "hit"
        producer.produce(topic, b'{"model":"fake"}', partition=partition)
        assert producer.flush(15) == 0
        await asyncio.sleep(LEASE)  # which is what being in force means
        assert await answer(client, f"e{partition}") is None
