"""A record whose key is `channel:<name>` reaches all sessions that subscribe to the channel, and those that come back to it."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from gateway.conftest import Client, Connect, small
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.processes import BIN, completed
from harness.topics import TopicAdmin
from harness.waiting import soon
from podpair.gateway.core.channels import InvalidChannel, channel_key
from podpair.gateway.core.partitions import home_partition
from podpair.gateway.core.positions import Position

pytestmark = pytest.mark.process
_RULES = [
    {"subscribe": ["news", "room.*", "user.{sub}.*"]},
    {"claim": "role", "value": "editor", "subscribe": ["drafts"], "publish": ["news", "room.*"]},
]


@pytest.fixture
def start(real_gateway: Callable[..., Gateway]) -> Callable[..., Gateway]:
    def begin(channels: dict[str, Any] | None = None, **more: Any) -> Gateway:
        return real_gateway(
            kafka={"probe_seconds": 0.2},
            requests={"partitions": 4},
            results={"partitions": 4} | more.pop("results", {}),
            channels={"enabled": True, "rules": _RULES, "publishes_per_second": 1000} | (channels or {}),
            **more,
        )

    return begin


@pytest.fixture
def write(broker: Broker, names: dict[str, Any]) -> Callable[..., None]:
    """`write(channel, value, …)` to the results topic, as any service could."""

    def to(channel: str, *values: Any, headers: dict[str, str] | None = None) -> None:
        producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "log_level": 0})
        for value in values:
            raw = value if isinstance(value, bytes) or value is None else json.dumps(value)
            producer.produce(names["results"]["topic"], raw, f"channel:{channel}", headers=headers)
        assert producer.flush(20) == 0

    return to


async def subscribe(client: Client, channel: str, position: str | None = None) -> dict[str, Any]:
    place = {} if position is None else {"position": position}
    await client.send({"type": "subscribe", "channel": channel} | place)
    return await client.event("subscribed", channel=channel)


async def publications(client: Client, count: int) -> list[Any]:
    return [(await client.event("publication"))["data"] for _ in range(count)]


async def gone(gateway: Gateway, client: Client) -> None:
    await client.socket.close()
    await soon(lambda: gateway.metric("sessions") == 0)


@pytest.mark.parametrize("name", ["", "a/b", "a~b", "/x", ".x", "x" * 201, "a b", "zoë"])
def test_what_no_channel_is_called(name: str) -> None:
    """A slash would make its key the id of a session of a user `channel:…`."""
    with pytest.raises(InvalidChannel):
        channel_key(name)


async def test_all_subscribers_at_all_gateways(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """Each once and in order, whoever they are; those that have not subscribed get nothing."""
    gateways = [start(), start()]
    clients = [await connect(at, sub=sub) for at in gateways for sub in ("alice", "bob")]
    for client in clients:
        await subscribe(client, "news")
    other = await connect(gateways[0], sub="carol")
    await subscribe(other, "room.1")
    write("news", *range(100))
    for client in clients:
        events = [await client.event("publication") for _ in range(100)]
        assert [event["data"] for event in events] == list(range(100))
        assert {event["channel"] for event in events} == {"news"}
    await other.lives()
    assert not [event for event in other.skipped if event["type"] == "publication"]
    assert sum(gateway.metric("channel_subscriptions") for gateway in gateways) == 5
    await clients[0].send({"type": "unsubscribe", "channel": "news"})
    await clients[0].event("unsubscribed", channel="news")
    write("news", "later")
    assert await publications(clients[1], 1) == ["later"]
    await clients[0].lives()
    assert not [event for event in clients[0].skipped if event.get("data") == "later"]


async def test_events_come_once_whenever_a_client_is_cut(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """It comes back to either gateway with the position of the last event that it has: in memory, or only in the log."""
    gateways = [start(), start(results={"tail_cache_bytes": 1})]
    chosen = random.Random(20)
    client = await connect(gateways[0], sub="dan")
    place, got = (await subscribe(client, "news"))["position"], []

    async def writing() -> None:
        for n in range(80):
            await asyncio.to_thread(write, "news", n)

    written = asyncio.create_task(writing())
    while len(got) < 80:
        for _ in range(min(chosen.randint(1, 7), 80 - len(got))):
            event = await client.event("publication")
            place = event["position"]
            got.append(event["data"])
        assert not [event for event in client.skipped if event["type"] == "gap"]
        await client.socket.close()
        client = await connect(chosen.choice(gateways), sub="dan", params={"subscribe": f"news~{place}"})
        assert (await client.event("subscribed"))["position"] == place
    await written
    assert got == list(range(80))


async def test_what_a_token_may_do(
    start: Callable[..., Gateway], connect: Connect, http: aiohttp.ClientSession
) -> None:
    gateway = start()
    client = await connect(gateway, sub="eve*")
    refused = [
        ({"type": "subscribe", "channel": "drafts"}, "forbidden"),
        ({"type": "subscribe", "channel": "user.alice.mail"}, "forbidden"),
        ({"type": "subscribe", "channel": "a/b"}, "invalid"),
        ({"type": "subscribe", "channel": "news", "position": "nowhere"}, "invalid"),
        ({"type": "unsubscribe", "channel": "news"}, "not_found"),
        ({"type": "publish", "channel": "news", "data": 1, "id": "p"}, "forbidden"),
    ]
    for message, code in refused:
        await client.send(message)
        error = await client.event("error")
        assert (error["channel"], error["code"]) == (message["channel"], code)
    await client.send(
        {"type": "subscribe", "channel": "user.eve*.mail"}
    )  # the claim stands for itself; the name is none
    assert (await client.event("error"))["code"] == "invalid"
    for status, role in ((403, "reader"), (201, "editor")):
        bearer = {"Authorization": f"Bearer {token(role=role)}"}
        async with http.post(f"{gateway.url}/v1/channels/news", json={"x": 1}, headers=bearer) as answer:
            assert answer.status == status, await answer.text()
    # A token that allows less ends what it does not allow.
    editor = await connect(gateway, sub="frank", role="editor")
    await subscribe(editor, "drafts")
    await subscribe(editor, "news")
    await editor.send({"type": "refresh", "token": token(sub="frank")})
    assert (await editor.event("unsubscribed"))["channel"] == "drafts"
    await client.lives()


async def test_publishing(start: Callable[..., Gateway], connect: Connect, http: aiohttp.ClientSession) -> None:
    """By a frame and over HTTP: acknowledged with the position that its subscribers see; at the other gateway, too."""
    here, there = start(), start()
    reader = await connect(there, sub="gina")
    await subscribe(reader, "room.7")
    writer = await connect(here, sub="hal", role="editor")
    await writer.send({"type": "publish", "id": "p-1", "channel": "room.7", "data": {"text": "hello"}})
    written = await writer.event("published", id="p-1")
    event = await reader.event("publication")
    assert (event["data"], event["position"]) == ({"text": "hello"}, written["position"])
    bearer = {"Authorization": f"Bearer {token(role='editor')}"}
    async with http.post(f"{here.url}/v1/channels/room.7", data=b"[1, 2]", headers=bearer) as answer:
        place = (await answer.json())["position"]
    event = await reader.event("publication")
    assert (event["data"], event["position"]) == ([1, 2], place)
    async with http.post(f"{here.url}/v1/channels/room.7", data=b"[1, ", headers=bearer) as answer:
        assert answer.status == 400


async def test_limits(start: Callable[..., Gateway], connect: Connect) -> None:
    gateway = start(channels={"per_session": 2, "publishes_per_second": 0.5})
    client = await connect(gateway, role="editor")
    await subscribe(client, "room.1")
    await subscribe(client, "room.2")
    await client.send({"type": "subscribe", "channel": "room.3"})
    assert (await client.event("error"))["code"] == "overloaded"
    for n in range(3):
        await client.send({"type": "publish", "id": f"p{n}", "channel": "room.9", "data": n})
    error = await client.event("error", id="p2")
    assert error["code"] == "overloaded"
    assert error["retry_after_ms"] > 0


async def test_to_all_by_the_command(
    start: Callable[..., Gateway], connect: Connect, broker: Broker, names: dict[str, Any]
) -> None:
    """A channel that every session has without asking."""
    gateway = start(channels={"automatic": ["all"], "rules": []})
    clients = [await connect(gateway, sub=sub) for sub in ("ida", "jan")]
    for client in clients:
        await client.event("subscribed", channel="all")
    where = ["--kafka", broker.address, "--topic", names["results"]["topic"], "--channel", "all"]
    await asyncio.to_thread(completed, BIN / "podpair-gateway", "push", *where, '"maintenance"')
    for client in clients:
        assert await publications(client, 1) == ["maintenance"]


async def test_records_of_every_kind(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """What is no JSON comes as base64; what calls itself an answer is passed to nobody."""
    gateway = start()
    client = await connect(gateway)
    await subscribe(client, "news")
    write("news", b"\xff", None)
    write("news", {"x": 1}, headers={"ce_type": "dev.podpair.result", "ce_id": "r-1"})
    write("news", b"{", headers={"content-type": "application/cloudevents+json"})
    write("news", "end")
    events = []
    while not events or events[-1].get("data") != "end":
        events.append(await client.next())
    assert [event["type"] for event in events] == ["publication", "publication", "error", "publication"]
    assert events[0]["data_base64"] == "/w=="
    assert events[1]["data"] is None
    assert (events[2]["channel"], events[2]["code"]) == ("news", "invalid")


async def test_a_gap_where_records_are_gone(
    start: Callable[..., Gateway],
    connect: Connect,
    write: Callable[..., None],
    broker: Broker,
    names: dict[str, Any],
) -> None:
    """Retention passed a client that was away: it hears which channel, and from where to where."""
    gateway = start()
    client = await connect(gateway, sub="kim")
    place = (await subscribe(client, "news"))["position"]
    write("news", *range(10))
    await publications(client, 10)
    await gone(gateway, client)
    home, start_offset = home_partition("channel:news", 4), Position.parse(place).offset + 1
    cut = TopicPartition(names["results"]["topic"], home, start_offset + 5)
    admin = AdminClient({"bootstrap.servers": broker.address})
    for future in admin.delete_records([cut]).values():
        future.result(10)
    other = start(results={"tail_cache_bytes": 1})
    back = await connect(other, sub="kim", params={"subscribe": f"news~{place}"})
    gap = await back.event("gap")
    assert (gap["channel"], gap["from"], gap["reason"]) == ("news", place, "retention")
    assert Position.parse(gap["to"]).offset == start_offset + 4
    assert await publications(back, 5) == [5, 6, 7, 8, 9]


async def test_another_topic(
    start: Callable[..., Gateway],
    connect: Connect,
    write: Callable[..., None],
    broker: Broker,
    names: dict[str, Any],
) -> None:
    """The results topic is deleted and made again: a gap of the channel, and then all of the new log."""
    gateway = start()
    client = await connect(gateway, sub="lea")
    await subscribe(client, "news")
    write("news", "before")
    assert await publications(client, 1) == ["before"]
    await asyncio.to_thread(TopicAdmin(broker.address).recreate, names["results"]["topic"], 8)
    gap = await client.event("gap", channel="news")
    assert gap["reason"] == "epoch"
    write("news", "after")
    assert await publications(client, 1) == ["after"]


async def test_a_slow_client_holds_up_nobody(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """It gets all of it at its own pace, from the tail; what others get doesn't wait."""
    gateway = start(sessions={"buffer_bytes": 65_536, "slow_consumer_timeout_seconds": 30})
    http, slow = await small(gateway, "slow")
    async with http:
        await subscribe(slow, "news")
        quick = await connect(gateway)
        await subscribe(quick, "news")
        filling = "x" * 20_000
        write("news", *([n, filling] for n in range(200)))
        assert [data[0] for data in await publications(quick, 200)] == list(range(200))
        assert gateway.metric("slow_consumer_total") >= 1
        assert [data[0] for data in await publications(slow, 200)] == list(range(200))


async def test_server_sent_events(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None], http: aiohttp.ClientSession
) -> None:
    """A channel's events have no `id:`, for that is the place in the session."""
    gateway = start()
    bearer = {"Authorization": f"Bearer {token()}"}
    async with http.get(f"{gateway.url}/v1/events", params={"subscribe": "news"}, headers=bearer) as stream:
        await soon(lambda: gateway.metric("channel_subscriptions") == 1)
        seen = b""
        async with asyncio.timeout(20):
            while b"event: subscribed" not in seen:
                seen += await stream.content.readany()
            write("news", {"n": 1})
            seen = b""
            while not seen.endswith(b"\n\n"):
                seen += await stream.content.readany()
        assert seen.startswith(b'event: publication\ndata: {"type":"publication","channel":"news","data":{"n": 1}')
