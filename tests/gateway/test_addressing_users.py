"""A record whose key is `user:<sub>` reaches all sessions of that user, wherever they are connected, and those that come back."""

import asyncio
import json
import random
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from gateway.conftest import Client, Connect, resuming, small
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.processes import BIN, completed
from harness.topics import TopicAdmin
from harness.waiting import soon
from podpair.gateway.core.partitions import home_partition
from podpair.gateway.core.positions import Position
from podpair.gateway.core.session_ids import user_key

_PROBE = 0.2


@pytest.fixture
def start(real_gateway: Callable[..., Gateway]) -> Callable[..., Gateway]:
    def begin(**results: Any) -> Gateway:
        return real_gateway(
            kafka={"probe_seconds": _PROBE},
            requests={"partitions": 4},
            results={"partitions": 4, "users": True} | results,
        )

    return begin


@pytest.fixture
def write(broker: Broker, names: dict[str, Any]) -> Callable[..., None]:
    """`write(key, value, …)` to the results topic, as any service could."""

    def to(key: str, *values: Any, headers: dict[str, str] | None = None) -> None:
        producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "log_level": 0})
        for value in values:
            producer.produce(names["results"]["topic"], json.dumps(value), key, headers=headers)
        assert producer.flush(20) == 0

    return to


async def pushes(client: Client, count: int) -> list[Any]:
    return [(await client.event("push"))["data"] for _ in range(count)]


async def gone(gateway: Gateway, client: Client) -> None:
    await client.socket.close()
    await soon(lambda: gateway.metric("sessions") == 0)


@pytest.mark.parametrize(
    ("subject", "key"),
    [
        ("alice", "user:alice"),
        ("auth0|5f7c8ec7", "user:auth0%7C5f7c8ec7"),
        ("zoë@example.com", "user:zo%C3%AB@example.com"),
        ("a/b~c", "user:a%2Fb%7Ec"),
        ("user:alice", "user:user:alice"),
        ("x" * 251, "user:" + "x" * 251),
        ("x" * 252, "user:~" + sha256(b"x" * 252).hexdigest()),
    ],
)
def test_the_key_of_a_user(subject: str, key: str) -> None:
    assert user_key(subject) == key


async def test_all_sessions_of_a_user_at_all_gateways(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """Minted ones, and those that a claim names; nobody else's."""
    one, other = start(), start()
    alice = [await connect(at, sub="alice") for at in (one, one, other)]
    alice.append(await connect(other, sub="alice", sid="phone"))
    bob = await connect(one, sub="bob")
    write("user:alice", *range(100))
    write("user:bob", "for bob")
    for client in alice:
        assert await pushes(client, 100) == list(range(100))
    assert await pushes(bob, 1) == ["for bob"]
    for client in (*alice, bob):
        await client.lives()
        assert not [event for event in client.skipped if event["type"] == "push"]


async def test_one_that_comes_back_has_missed_nothing(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """From memory, from the log at a gateway that has nothing of it, and to a new session of the same user."""
    first = start()
    client = await connect(first, sub="carol", sid="tab")
    # One after the other: the last event's position names its own log last.
    seen = []
    for key, data in (("user:carol", 1), ("carol/tab", "own")):
        write(key, data)
        seen.append(await client.event("push"))
    assert [event["data"] for event in seen] == [1, "own"]
    position = seen[-1]["position"]
    await gone(first, client)
    write("user:carol", 2, 3)
    write("carol/tab", "own too")
    for gateway in (first, start(tail_cache_bytes=1)):
        back = await connect(gateway, sub="carol", sid="tab", params=resuming(client, position))
        assert back.welcome["position"] == position
        assert sorted(await pushes(back, 3), key=str) == [2, 3, "own too"]
        await gone(gateway, back)


async def test_events_of_both_logs_come_once_whenever_a_client_is_cut(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """A client that comes back with the position of any event that it was given goes on behind that event in both logs."""
    gateways = [start(), start(tail_cache_bytes=1)]
    chosen = random.Random(16)
    client = await connect(gateways[0], sub="dan", sid="tab")
    place, got = client.welcome["position"], []

    async def writing() -> None:
        for n in range(60):
            await asyncio.to_thread(write, *(("user:dan", f"u{n}") if chosen.random() < 0.5 else ("dan/tab", f"s{n}")))

    written = asyncio.create_task(writing())
    while len(got) < 60:
        for _ in range(min(chosen.randint(1, 7), 60 - len(got))):
            event = await client.event("push")
            place = event["position"]
            got.append(event["data"])
        await client.socket.close()
        client = await connect(chosen.choice(gateways), sub="dan", sid="tab", params=resuming(client, place))
    await written
    assert sorted(got, key=lambda name: int(name[1:])) == sorted(set(got), key=lambda name: int(name[1:]))
    for log in "us":
        mine = [int(name[1:]) for name in got if name[0] == log]
        assert mine == sorted(mine)
        assert len(mine) > 10
    await client.lives()
    assert not [event for event in client.skipped if event["type"] in ("push", "gap")]


async def test_a_user_and_his_session_in_one_partition(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    gateway = start()
    home = home_partition("user:erin", 4)
    sid = next(f"t{n}" for n in range(100) if home_partition(f"erin/t{n}", 4) == home)
    client = await connect(gateway, sub="erin", sid=sid)
    for n in range(20):
        write(("user:erin", f"erin/{sid}")[n % 2], n)
    assert sorted(await pushes(client, 20)) == list(range(20))


async def test_a_slow_client_gets_all_of_it(start: Callable[..., Gateway], write: Callable[..., None]) -> None:
    """What is more than its buffer takes comes from the log at its own pace; an event of its own session beside it."""
    gateway = start()
    http, client = await small(gateway, "slow")
    async with http:
        write("user:user", *({"n": n, "filling": "x" * 10_000} for n in range(600)))
        write("user/slow", "own")
        got = await pushes(client, 601)
        assert [item["n"] for item in got if item != "own"] == list(range(600))
        assert got.count("own") == 1


async def test_only_pushes_are_passed(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """A user has no requests: what calls itself an answer, or announces a connection, is nobody's."""
    client = await connect(start(), sub="fay")
    for kind in ("request", "partial", "result", "error", "takeover", "cancel"):
        write(
            "user:fay", {"code": "internal"}, headers={"ce_type": f"dev.podpair.{kind}", "ce_id": "9999999999999999.x"}
        )
    write("user:fay", "a push", headers={"ce_type": "dev.podpair.push", "ce_id": "1"})
    write("user:fay", "another", headers={"ce_type": "com.example.order", "ce_id": "2"})
    found: list[Any] = []
    while "another" not in found:
        event = await client.event("push")
        found.append(event["data"])
    assert [item for item in found if isinstance(item, str)] == ["a push", "another"]
    assert not [event for event in client.skipped if event["type"] in ("result", "error", "partial")]
    await client.lives()


async def test_a_raw_connection_and_an_event_stream(
    start: Callable[..., Gateway], connect: Connect, http: aiohttp.ClientSession, write: Callable[..., None]
) -> None:
    gateway = start()
    raw = await connect(gateway, sub="gil", raw=True)
    write("user:gil", "nobody's", headers={"ce_type": "dev.podpair.result", "ce_id": "1"})
    headers = {"Authorization": f"Bearer {token(sub='gil', sid='stream')}"}
    async with http.get(gateway.url + "/v1/events", headers=headers) as stream:
        welcome = await _server_sent(stream)
        assert welcome["data"]["type"] == "welcome"
        write("user:gil", {"a": 1}, {"a": 2})
        assert [(await raw.frame()).data for _ in range(2)] == ['{"a": 1}', '{"a": 2}']
        first = await _server_sent(stream)
        assert first["data"]["data"] == {"a": 1}
    query = {"resume": welcome["data"]["resume"]}
    async with http.get(
        gateway.url + "/v1/events", headers=headers | {"Last-Event-ID": first["id"]}, params=query
    ) as stream:
        assert (await _server_sent(stream))["data"]["type"] == "welcome"
        assert (await _server_sent(stream))["data"]["data"] == {"a": 2}


async def _server_sent(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    event: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while True:
            line = (await stream.content.readline()).decode().rstrip("\n")
            if not line and "data" in event:
                return event | {"data": json.loads(event["data"])}
            name, colon, value = line.partition(": ")
            if name and colon:
                event[name] = value


@pytest.mark.parametrize("partitions", [4, 2, 6])
async def test_the_topic_is_made_again(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None], broker: Broker, names: dict[str, Any],
    partitions: int,
) -> None:  # fmt: skip
    """A client that is there, and one that comes back later, are told of a gap and get all that the new log has for both."""
    gateway, topic = start(), names["results"]["topic"]
    client = await connect(gateway, sub="hal", sid="here")
    away = await connect(gateway, sub="hal", sid="away")
    write("user:hal", "before")
    place = (await away.event("push"))["position"]
    await client.event("push")
    await away.socket.close()
    topics = TopicAdmin(broker.address)
    topics.delete(topic)
    topics.create(topic, partitions)
    write("user:hal", 1, 2)
    write("hal/here", "own")
    gap = await client.event("gap")
    assert gap["reason"] == "epoch"
    found = await pushes(client, 3)
    assert (found.count("own"), [n for n in found if n != "own"]) == (1, [1, 2])
    back = await connect(gateway, sub="hal", sid="away", params=resuming(away, place))
    assert (await back.event("gap"))["reason"] == "epoch"
    assert await pushes(back, 2) == [1, 2]
    write("user:hal", "live")
    assert await pushes(client, 1) == await pushes(back, 1) == ["live"]


async def test_what_was_cut_away_is_declared(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None], broker: Broker, names: dict[str, Any]
) -> None:
    gateway, topic = start(), names["results"]["topic"]
    client = await connect(gateway, sub="ida", sid="tab")
    place = client.welcome["position"]
    await gone(gateway, client)
    write("user:ida", *range(20))
    home = home_partition("user:ida", 4)
    admin = AdminClient({"bootstrap.servers": broker.address})
    for future in admin.delete_records([TopicPartition(topic, home, 12)]).values():
        future.result(10)
    back = await connect(start(), sub="ida", sid="tab", params=resuming(client, place))
    gap = await back.event("gap")
    assert (gap["reason"], gap["from"]) == ("retention", place)
    assert await pushes(back, 8) == list(range(12, 20))
    # Who was told of the gap goes on behind it.
    again = await connect(start(), sub="ida", sid="tab", params=resuming(client, gap["to"]))
    assert await pushes(again, 1) == [12]
    assert not [event for event in again.skipped if event["type"] == "gap"]


async def test_a_place_in_a_log_goes_on_where_nothing_is_said(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None], broker: Broker, names: dict[str, Any]
) -> None:
    """What is read of one log, and is for others, moves the place that events of the other log name: retention does not
    overtake a client that was given all there was.
    """
    gateway, topic = start(), names["results"]["topic"]
    sid = next(f"t{n}" for n in range(100) if home_partition(f"mia/t{n}", 4) != home_partition("user:mia", 4))
    client = await connect(gateway, sub="mia", sid=sid)
    homes = home_partition("user:mia", 4), home_partition(f"mia/{sid}", 4)
    others = [next(f"o{n}" for n in range(100) if home_partition(f"o{n}", 4) == home) for home in homes]
    for addressed, other in ((f"mia/{sid}", others[0]), ("user:mia", others[1])):
        write(other, *range(10))
        reached = -1
        while reached < 9:
            write(addressed, "again")
            place = Position.parse((await client.event("push"))["position"])
            assert place.user is not None
            reached = place.user[1] if other == others[0] else place.offset
    await gone(gateway, client)
    admin = AdminClient({"bootstrap.servers": broker.address})
    cut = [TopicPartition(topic, home, 10) for home in homes]
    for future in admin.delete_records(cut).values():
        future.result(10)
    write("user:mia", "later")
    back = await connect(start(), sub="mia", sid=sid, params=resuming(client, str(place)))
    assert await pushes(back, 1) == ["later"]
    assert not [event for event in back.skipped if event["type"] == "gap"]


async def test_without_the_setting_they_are_not_read(
    start: Callable[..., Gateway], connect: Connect, write: Callable[..., None]
) -> None:
    """A position that names a place in the user's home is good all the same: the setting may change between two visits."""
    on, off = start(), start(users=False)
    client = await connect(on, sub="jo", sid="tab")
    plain = await connect(off, sub="jo", sid="other")
    assert "u" not in plain.welcome["position"].split(".", 1)[1]
    write("user:jo", "a push")
    place = (await client.event("push"))["position"]
    back = await connect(off, sub="jo", sid="tab", params=resuming(client, place))
    write("jo/tab", "own")
    assert await pushes(back, 1) == ["own"]
    await plain.lives()
    assert not [event for event in (*plain.skipped, *back.skipped) if event["type"] in ("push", "gap")]


async def test_who_writes_to_users_is_told_that_they_are_not_read(
    start: Callable[..., Gateway], write: Callable[..., None]
) -> None:
    """Also where nobody reads that partition; what was written before the gateway had looked at it first is not seen."""
    gateway = start(users=False)

    async def writing() -> None:
        while True:
            await asyncio.to_thread(write, "user:leo", 1)
            await asyncio.sleep(1)  # the gateway looks at intervals: something new is there at each look

    written = asyncio.create_task(writing())
    told = await asyncio.to_thread(gateway.wait_for_message, "records of")
    written.cancel()
    assert "user:leo" in told["message"]
    assert "results.users" in told["message"]
    assert gateway.metric("results_records_misplaced_total") == 0


async def test_from_a_shell(
    start: Callable[..., Gateway], connect: Connect, broker: Broker, names: dict[str, Any]
) -> None:
    client = await connect(start(), sub="kim|1")
    command = [BIN / "podpair-gateway", "push", "--kafka", broker.address, "--topic", names["results"]["topic"]]
    done = await asyncio.to_thread(completed, *command, "--user", "kim|1", '{"hi": 1}')
    assert (done.returncode, done.stderr) == (0, "")
    assert await pushes(client, 1) == [{"hi": 1}]
    done = await asyncio.to_thread(completed, *command, "1")
    assert done.returncode == 2
    assert "--session, --user or --channel" in done.stderr
