"""The results topic is deleted and made again, narrower, wider or cut, while clients are there or away.

What stands in the log that is the topic's from then on reaches its session, and what can't be had any more is declared.
"""

import asyncio
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from gateway.conftest import Client, Connect, resuming
from harness.kafka import Broker
from harness.pair import Gateway
from harness.topics import TopicAdmin
from harness.waiting import soon
from podpair.gateway.core.partitions import home_partition

_PROBE = 0.2


@pytest.fixture
def topics(broker: Broker) -> TopicAdmin:
    return TopicAdmin(broker.address)


@pytest.fixture
def gateway(real_gateway: Callable[..., Gateway]) -> Gateway:
    return real_gateway(kafka={"probe_seconds": _PROBE}, requests={"partitions": 4}, results={"partitions": 4})


def sid_of(session: str) -> str:
    """The claim that names a session of the tests' user."""
    return session.removeprefix("user/")


def epoch_of(position: str) -> str:
    return position.split(".")[0]


def offset_of(position: str) -> int:
    return int(position.rsplit(".", 1)[1])


async def pushes(client: Client, last: int) -> list[int]:
    """The numbers that are pushed, up to this one."""
    numbers: list[int] = []
    while not numbers or numbers[-1] != last:
        numbers.append((await client.event("push"))["data"])
    return numbers


async def told(gateway: Gateway, change: str) -> None:
    """The gateway has seen the change, and has brought its clients up to date."""
    await soon(lambda: gateway.metric("topic_changes_total", change=change))
    await soon(lambda: gateway.get("/readyz")[0] == 200)


@pytest.mark.parametrize("partitions", [4, 2, 6])
async def test_made_again_while_a_client_is_there(
    gateway: Gateway,
    topics: TopicAdmin,
    connect: Connect,
    push: Any,
    broker: Broker,
    names: dict[str, Any],
    partitions: int,
) -> None:
    results = names["results"]["topic"]
    client = await connect(gateway, sid="there")
    push(broker.address, "user/there", *(b"%d" % n for n in range(30)), topic=results)
    assert await pushes(client, 29) == list(range(30))
    await asyncio.to_thread(topics.recreate, results, partitions)
    push(broker.address, "user/there", *(b"%d" % n for n in range(100, 150)), topic=results)
    gap = await client.event("gap", reason="epoch")
    assert epoch_of(gap["from"]) == epoch_of(client.welcome["position"]) != epoch_of(gap["to"])
    # The connection's announcement stands among the pushes; some of the new log may have come before the change was noticed.
    assert offset_of(gap["from"]) >= 29
    assert offset_of(gap["to"]) == -1
    seen = [await client.event("push") for _ in range(50)]
    assert [event["data"] for event in seen] == list(range(100, 150)), "all that is in the new log, from its start"
    offsets = [offset_of(event["position"]) for event in seen]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] <= 50, "beside them there is the connection's announcement only"
    assert {epoch_of(event["position"]) for event in seen} == {epoch_of(gap["to"])}
    await told(gateway, "recreated")
    fresh = await connect(gateway)
    await fresh.infer("q", route="queue")
    assert (await fresh.answer("q"))["type"] == "result"
    await client.infer("q", route="queue")
    assert (await client.answer("q"))["type"] == "result"


async def test_every_client_is_told_of_each_change_however_many_it_has_seen(
    gateway: Gateway, topics: TopicAdmin, connect: Connect, push: Any, broker: Broker, names: dict[str, Any]
) -> None:
    """Those that came before another change, and those that came after it, have the same home."""
    results = names["results"]["topic"]
    clients, connected = {}, 0
    for change in range(3):
        homes = [name for name in map(str, range(100)) if home_partition(f"user/{name}", 4) == 0]
        for name in homes[connected : connected + 2]:
            clients[name] = await connect(gateway, sid=name)
        connected += 2
        await asyncio.to_thread(topics.recreate, results, 4)
        await soon(lambda: gateway.metric("topic_changes_total", change="recreated") == len(clients) / 2)
        await soon(lambda: gateway.get("/readyz")[0] == 200)
        for name, client in clients.items():
            push(broker.address, f"user/{name}", b"%d" % change, topic=results)
            await client.event("gap", reason="epoch")
            assert await pushes(client, change) == [change]


async def test_made_again_with_a_longer_log(
    gateway: Gateway, topics: TopicAdmin, connect: Connect, push: Any, broker: Broker, names: dict[str, Any]
) -> None:
    """librdkafka goes on at its old offset then, and reports nothing."""
    results = names["results"]["topic"]
    client = await connect(gateway, sid="there")
    push(broker.address, "user/there", *(b"%d" % n for n in range(5)), topic=results)
    assert await pushes(client, 4) == list(range(5))
    await asyncio.to_thread(topics.recreate, results, 4)
    push(broker.address, "user/there", *(b"%d" % n for n in range(1000, 1400)), topic=results)
    await client.event("gap", reason="epoch")
    assert await pushes(client, 1399) == list(range(1000, 1400))


async def test_made_again_while_a_client_is_away(
    gateway: Gateway, topics: TopicAdmin, connect: Connect, push: Any, broker: Broker, names: dict[str, Any]
) -> None:
    results = names["results"]["topic"]
    client = await connect(gateway, sid="away")
    push(broker.address, "user/away", *(b"%d" % n for n in range(30)), topic=results)
    last = (await client.event("push", data=29))["position"]
    await client.socket.close()
    await asyncio.to_thread(topics.recreate, results, 4)
    push(broker.address, "user/away", *(b"%d" % n for n in range(100, 150)), topic=results)
    await told(gateway, "recreated")
    again = await connect(gateway, sid="away", params=resuming(client, last))
    gap = await again.event("gap")
    assert (gap["reason"], gap["from"]) == ("epoch", last)
    assert await pushes(again, 149) == list(range(100, 150))


async def test_widened_from_outside(
    gateway: Gateway, topics: TopicAdmin, connect: Connect, push: Any, broker: Broker, names: dict[str, Any]
) -> None:
    """Half of the sessions have another home then, where keyed records are from now on."""
    results = names["results"]["topic"]
    moving = next(
        name for name in (f"user/s-{n}" for n in range(100)) if home_partition(name, 8) != home_partition(name, 4)
    )
    staying = next(
        name for name in (f"user/s-{n}" for n in range(100)) if home_partition(name, 8) == home_partition(name, 4)
    )
    clients = {name: await connect(gateway, sid=sid_of(name)) for name in (moving, staying)}
    for name in clients:
        push(broker.address, name, *(b"%d" % n for n in range(10)), topic=results)
    for client in clients.values():
        assert await pushes(client, 9) == list(range(10))
    await asyncio.to_thread(topics.widen, results, 8)
    for name in clients:
        push(broker.address, name, *(b"%d" % n for n in range(10, 60)), topic=results)
    positions: dict[str, str] = {}
    for name, client in clients.items():
        found: list[Any] = []
        while not {59, "gap"} <= set(found):  # those of one that stays may come before the gap
            event = await client.next()
            positions[name] = event.get("position") or event["to"]
            if event["type"] == "gap":
                assert event["reason"] == "epoch"
                assert event["to"].split(".")[1] == str(home_partition(name, 8))
            found.append(event["data"] if event["type"] == "push" else event["type"])
        assert [number for number in found if number != "gap"] == list(range(10, 60))
    await told(gateway, "widened")
    # A producer that has not learnt of it writes where the session's home was: its client gets it, without a position.
    late = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    late.produce(results, b'"late"', moving, partition=home_partition(moving, 4))
    assert late.flush(10) == 0
    event = await clients[moving].event("push")
    assert event == {"type": "push", "data": "late"}
    assert gateway.metric("results_records_misplaced_total", outcome="delivered") == 1
    # An answer, of a worker that has not learnt of it, is written to where its client finds it after a reconnect, too.
    about = [("ce_type", b"dev.podpair.result"), ("ce_id", b"elsewhere")]
    late.produce(results, b'{"data":1}', moving, partition=home_partition(moving, 4), headers=about)
    assert late.flush(10) == 0
    client = clients[moving]
    for _ in range(2):
        answer = await client.event("result", id="elsewhere")
        assert answer["data"] == 1
        assert answer["position"].split(".")[1] == str(home_partition(moving, 8))
        client = await connect(gateway, sid=sid_of(moving), params=resuming(clients[moving], positions[moving]))
    for number in range(8):
        fresh = await connect(gateway, sub=f"u{number}")
        await fresh.infer("q", route="queue")
        assert (await fresh.answer("q"))["type"] == "result"


async def test_resuming_where_it_was_widened_meanwhile(
    gateway: Gateway, topics: TopicAdmin, connect: Connect, push: Any, broker: Broker, names: dict[str, Any]
) -> None:
    results = names["results"]["topic"]
    moving = next(
        name for name in (f"user/s-{n}" for n in range(100)) if home_partition(name, 8) != home_partition(name, 4)
    )
    staying = next(
        name for name in (f"user/s-{n}" for n in range(100)) if home_partition(name, 8) == home_partition(name, 4)
    )
    left = {}
    for name in (moving, staying):
        client = await connect(gateway, sid=sid_of(name))
        push(broker.address, name, *(b"%d" % n for n in range(10)), topic=results)
        left[name] = client, (await client.event("push", data=9))["position"]
        await client.socket.close()
    await asyncio.to_thread(topics.widen, results, 8)
    for name in left:
        push(broker.address, name, *(b"%d" % n for n in range(10, 60)), topic=results)
    await told(gateway, "widened")
    for name, (client, last) in left.items():
        again = await connect(gateway, sid=sid_of(name), params=resuming(client, last))
        assert (await again.event("gap"))["reason"] == "epoch"
        assert await pushes(again, 59) == list(range(10, 60))


@pytest.mark.parametrize("change", ["widened", "recreated"])
async def test_resuming_at_a_gateway_that_has_not_seen_the_change(
    gateway: Gateway,
    real_gateway: Callable[..., Gateway],
    topics: TopicAdmin,
    connect: Connect,
    push: Any,
    broker: Broker,
    names: dict[str, Any],
    change: str,
) -> None:
    """It looks, for the client comes from an epoch that it doesn't know; nothing comes for the second time."""
    late = real_gateway(kafka={"probe_seconds": 120})
    results = names["results"]["topic"]
    moving = next(
        name for name in (f"user/s-{n}" for n in range(100)) if home_partition(name, 8) != home_partition(name, 4)
    )
    client = await connect(gateway, sid=sid_of(moving))
    push(broker.address, moving, *(b"%d" % n for n in range(10)), topic=results)
    assert await pushes(client, 9) == list(range(10))
    await asyncio.to_thread(topics.widen if change == "widened" else topics.recreate, results, 8)
    gap = await client.event("gap", reason="epoch")
    push(broker.address, moving, *(b"%d" % n for n in range(10, 20)), topic=results)
    last = (await client.event("push", data=19))["position"]
    assert epoch_of(last) == epoch_of(gap["to"])
    again = await connect(late, sid=sid_of(moving), params=resuming(client, last))
    assert epoch_of(again.welcome["position"]) == epoch_of(last)
    push(broker.address, moving, b"20", topic=results)
    event = await again.next()
    assert (event["type"], event.get("data")) == ("push", 20), event
    assert late.metric("topic_changes_total", change=change) == 1


async def test_cut_while_a_client_is_there(
    gateway: Gateway, topics: TopicAdmin, connect: Connect, push: Any, broker: Broker, names: dict[str, Any]
) -> None:
    """What was cut had been delivered: nothing is missed, and nothing comes twice."""
    results = names["results"]["topic"]
    client = await connect(gateway, sid="cut")
    push(broker.address, "user/cut", *(b"%d" % n for n in range(30)), topic=results)
    last = (await client.event("push", data=9))["position"]
    assert await pushes(client, 29) == list(range(10, 30))
    await asyncio.to_thread(topics.cut, results, home_partition("user/cut", 4), 20)
    push(broker.address, "user/cut", *(b"%d" % n for n in range(30, 60)), topic=results)
    assert await pushes(client, 59) == list(range(30, 60))
    assert [event for event in client.skipped if event["type"] == "gap"] == []
    other = await connect(gateway, sid="cut", params=resuming(client, last))
    assert await pushes(other, 59) == list(range(10, 60)), "this gateway has it in its tail"


async def test_cut_while_clients_come_back(
    gateway: Gateway, topics: TopicAdmin, connect: Connect, push: Any, broker: Broker, names: dict[str, Any]
) -> None:
    """Before the gateway has seen the cut: who was let in by what it knew then is told, too."""
    results = names["results"]["topic"]
    homed = [name for name in (f"s{n}" for n in range(200)) if home_partition(f"user/{name}", 4) == 0][:16]
    places = {}
    for name in homed:
        client = await connect(gateway, sid=name)
        push(broker.address, f"user/{name}", b"0", topic=results)
        places[name] = resuming(client, (await client.event("push", data=0))["position"])
        await client.socket.close()
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(1.0)  # the fetch that was under way has ended: what comes now, the gateway doesn't read
        for name in homed:
            push(broker.address, f"user/{name}", b"1", topic=results)
        await asyncio.to_thread(topics.cut, results, 0, -1)
        coming = [asyncio.create_task(connect(gateway, sid=name, params=places[name])) for name in homed]
        await asyncio.sleep(0)
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    clients = await asyncio.gather(*coming)
    for name in homed:
        push(broker.address, f"user/{name}", b"2", topic=results)
    first = [await client.next() for client in clients]
    assert [event for event in first if event["type"] != "gap" and event["data"] != 1] == []


async def test_deleted_for_good(
    real_gateway: Callable[..., Gateway], topics: TopicAdmin, connect: Connect, names: dict[str, Any]
) -> None:
    """It is told in readiness, and where it may be created it is, as it is at the start."""
    results = names["results"]["topic"]
    allowed = real_gateway(kafka={"probe_seconds": _PROBE}, results={"partitions": 3}, requests={"partitions": 3})
    client = await connect(allowed, sid="there")
    await asyncio.to_thread(topics.delete, results)
    gap = await client.event("gap", reason="epoch")
    await told(allowed, "created")
    found = topics.admin.list_topics(results, timeout=10).topics[results]
    assert len(found.partitions) == 3
    await client.infer("q", route="queue")
    answer = await client.answer("q")
    assert answer["type"] == "result"
    assert epoch_of(answer["position"]) == epoch_of(gap["to"])


async def test_missing_where_it_may_not_be_created(
    real_gateway: Callable[..., Gateway], topics: TopicAdmin, connect: Connect, names: dict[str, Any], refused: Any
) -> None:
    from harness.pair import token

    results = names["results"]["topic"]
    for name in (results, names["requests"]["topic"], names["requests"]["topic"] + ".dlq"):
        topics.create(name, 2)
    gateway = real_gateway(kafka={"probe_seconds": _PROBE, "create_topics": False})
    await asyncio.to_thread(topics.delete, results)

    def kafka() -> str:
        return str(json.loads(gateway.get("/readyz")[1])["checks"]["kafka"])

    await soon(lambda: "missing" in kafka())
    assert results in kafka()
    assert gateway.get("/readyz")[0] == 503
    status, error, _ = await refused(gateway, {"Authorization": f"Bearer {token()}"})
    assert status == 503
    assert results in error["message"]
    assert results not in topics.admin.list_topics(timeout=10).topics, "nobody's client has created it"
    await asyncio.to_thread(topics.create, results, 3)
    await soon(lambda: gateway.get("/readyz")[0] == 200)
    await (await connect(gateway)).lives()


@pytest.mark.parametrize("kind", ["push", "result"])
async def test_a_record_in_a_partition_that_is_not_its_sessions_home(
    gateway: Gateway, connect: Connect, push: Any, broker: Broker, names: dict[str, Any], kind: str
) -> None:
    """It is not delivered, and what comes in the home at smaller offsets is."""
    results = names["results"]["topic"]
    mine = "user/mine"
    other = next(
        name for name in (f"user/o-{n}" for n in range(99)) if home_partition(name, 4) != home_partition(mine, 4)
    )
    client, neighbour = await connect(gateway, sid=sid_of(mine)), await connect(gateway, sid=sid_of(other))
    foreign = home_partition(other, 4)
    push(broker.address, other, *(b"%d" % n for n in range(50)), topic=results)
    assert await pushes(neighbour, 49) == list(range(50))
    headers = {"ce_type": "dev.podpair.result", "ce_id": "q", "ce_subject": mine} if kind == "result" else None
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    producer.produce(results, b'{"data":"astray"}', mine, partition=foreign, headers=headers)
    assert producer.flush(10) == 0
    await soon(lambda: gateway.metric("results_records_misplaced_total", outcome="dropped"))
    warning = gateway.wait_for(lambda line: "not in the home partition" in line)
    assert f"{results}[{foreign}]@51" in warning
    assert f"has its home in {home_partition(mine, 4)}" in warning
    push(broker.address, mine, b"1", b"2", topic=results)
    assert await pushes(client, 2) == [1, 2]
    await client.infer("q", route="queue")
    answer = await client.answer("q")
    assert "label" in answer["data"]
    assert answer["position"].split(".")[1] == str(home_partition(mine, 4))
    again = await connect(gateway, sid=sid_of(mine), params=resuming(client))
    assert await pushes(again, 2) == [1, 2], "nor is it when the session resumes"
