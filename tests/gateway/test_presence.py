"""Who is connected, anywhere in the fleet: a query, events, and gateways that die."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Consumer, TopicPartition

from gateway.conftest import Client, Connect
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.processes import PATIENCE
from harness.waiting import soon, until

pytestmark = pytest.mark.process
_RULES = [{}, {"claim": "role", "value": "admin", "subjects": ["*"]}]


@pytest.fixture
def start(real_gateway: Callable[..., Gateway], names: dict[str, Any]) -> Callable[..., Gateway]:
    topic = names["results"]["topic"].replace("results", "presence")

    def begin(**more: Any) -> Gateway:
        own = {"enabled": True, "topic": topic, "rules": _RULES, "heartbeat_seconds": 0.3, "lease_seconds": 1.5}
        gateway = real_gateway(presence=own | more, results={"partitions": 4}, requests={"partitions": 4})
        until(lambda: gateway.metric("presence_ready") == 1)
        return gateway

    return begin


async def ask(client: Client, subject: str, **more: Any) -> list[str]:
    await client.send({"type": "presence", "id": "q", "subject": subject, **more})
    answer = await client.event("presence", id="q")
    return sorted(one["session"] for one in answer["sessions"])


async def knows(client: Client, subject: str, *sessions: str) -> None:
    """Its presence is written and read a moment after a session has connected."""
    async with asyncio.timeout(PATIENCE):
        while await ask(client, subject) != sorted(sessions):
            await asyncio.sleep(0.05)


async def test_all_sessions_of_a_subject_at_all_gateways(
    start: Callable[..., Gateway], connect: Connect, http: aiohttp.ClientSession
) -> None:
    """Who watches hears of each that comes and goes; a session that moves on has never gone."""
    here, there = start(), start()
    watcher = await connect(here, sub="root", role="admin")
    assert await ask(watcher, "alice", watch=True) == []
    one = await connect(here, sub="alice", sid="tab")
    two = await connect(there, sub="alice", sid="phone")
    joined = {(await watcher.event("join", subject="alice"))["session"] for _ in range(2)}
    assert joined == {"alice/tab", "alice/phone"}
    assert await ask(watcher, "alice") == ["alice/phone", "alice/tab"]
    bearer = {"Authorization": f"Bearer {token(sub='alice')}"}
    await soon(lambda: there.metric("presence_sessions") == 3)  # it reads for itself
    async with http.get(f"{there.url}/v1/presence/alice", headers=bearer) as answer:
        assert answer.status == 200
        assert {item["session"] for item in (await answer.json())["sessions"]} == joined
    moved = await connect(there, sub="alice", sid="tab")
    assert await one.closed() == 4009
    await two.socket.close()
    assert (await watcher.event("leave"))["session"] == "alice/phone"
    await moved.socket.close()
    assert (await watcher.event("leave"))["session"] == "alice/tab"
    assert not [event for event in watcher.skipped if event["type"] in ("join", "leave")]


async def test_a_gateway_that_starts_knows_who_is_there_already(
    start: Callable[..., Gateway], connect: Connect
) -> None:
    here = start()
    watcher = await connect(here, sub="root", role="admin")
    for name in ("a", "b"):
        await connect(here, sub="fay", sid=name)
    await knows(watcher, "fay", "fay/a", "fay/b")
    there = start()  # ready: it has read what was there
    assert await ask(await connect(there, sub="fay", sid="c"), "fay") in (
        ["fay/a", "fay/b"],
        ["fay/a", "fay/b", "fay/c"],
    )


async def test_a_gateway_that_is_killed(start: Callable[..., Gateway], connect: Connect) -> None:
    """Its sessions are gone after a lease, and its records after three: nobody else would remove them."""
    here, there = start(), start()
    watcher = await connect(here, sub="root", role="admin")
    await ask(watcher, "bob", watch=True)
    await connect(there, sub="bob", sid="a")
    await watcher.event("join", subject="bob")
    there.kill()
    assert (await watcher.event("leave", subject="bob"))["session"] == "bob/a"
    assert await ask(watcher, "bob") == []
    await soon(lambda: here.metric("presence_sessions") == 1)  # the watcher's own


async def test_a_gateway_that_was_frozen_is_there_again(start: Callable[..., Gateway], connect: Connect) -> None:
    """Others removed its records meanwhile."""
    here, there = start(), start()
    watcher = await connect(here, sub="root", role="admin")
    await ask(watcher, "cleo", watch=True)
    await connect(there, sub="cleo", sid="a")
    await watcher.event("join")
    os.kill(there.process.pid, signal.SIGSTOP)
    await watcher.event("leave")
    await soon(lambda: here.metric("presence_sessions") == 1)
    os.kill(there.process.pid, signal.SIGCONT)
    assert (await watcher.event("join"))["session"] == "cleo/a"


async def test_who_may_see_whom(start: Callable[..., Gateway], connect: Connect, http: aiohttp.ClientSession) -> None:
    gateway = start(watches=1)
    client = await connect(gateway, sub="dan", sid="a")
    await knows(client, "dan", "dan/a")
    await client.send({"type": "presence", "id": "q", "subject": "erin"})
    error = await client.event("error", id="q")
    assert (error["code"], error["subject"]) == ("forbidden", "erin")
    async with http.get(
        f"{gateway.url}/v1/presence/erin", headers={"Authorization": f"Bearer {token(sub='dan')}"}
    ) as answer:
        assert answer.status == 403
    admin = await connect(gateway, sub="root", role="admin")
    await ask(admin, "dan", watch=True)
    await admin.send({"type": "presence", "id": "q", "subject": "erin", "watch": True})
    assert (await admin.event("error", id="q"))["code"] == "overloaded"
    await ask(admin, "dan", watch=False)
    assert await ask(admin, "erin", watch=True) == []


async def test_what_comes_and_goes_at_once_is_not_written(
    start: Callable[..., Gateway], connect: Connect, broker: Broker, names: dict[str, Any]
) -> None:
    """Nor is a reconnect; a gateway that stops takes its records with it."""
    gateway = start(coalesce_seconds=1)
    stays = await connect(gateway, sub="fay", sid="a")
    await knows(stays, "fay", "fay/a")
    written = gateway.metric("presence_records_total")
    for _ in range(10):
        await (await connect(gateway, sub="fay", sid="b")).socket.close()
        stays = await connect(gateway, sub="fay", sid="a")
    await soon(lambda: gateway.metric("sessions") == 1)
    marker = await connect(gateway, sub="fay", sid="c")
    await knows(marker, "fay", "fay/a", "fay/c")
    assert gateway.metric("presence_records_total") == written + 1
    gateway.stop()
    left: dict[bytes, bytes | None] = {}
    topic = names["results"]["topic"].replace("results", "presence")
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "x", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    while (message := consumer.poll(20)) is not None and message.error() is None:
        left[message.key()] = message.value()
    consumer.close()
    assert left
    assert set(left.values()) == {None}
