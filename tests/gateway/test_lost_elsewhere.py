"""Queued requests that were accepted by a gateway which is gone: their client is told when their records are gone, too."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Consumer, TopicPartition

import podpair.client
from gateway.conftest import Client, Connect, resuming
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.topics import TopicAdmin
from harness.waiting import until

NUMBERS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
PARTITIONS = 2


class Change:
    """What becomes of the requests topic."""

    def __init__(self, broker: Broker, names: dict[str, Any], kind: str) -> None:
        self._topics = TopicAdmin(broker.address)
        self._topic = names["requests"]["topic"]
        self._kind = kind

    def happen(self) -> None:
        if self._kind == "made again":
            self._topics.recreate(self._topic, PARTITIONS)
        elif self._kind == "widened":
            self._topics.widen(self._topic, PARTITIONS + 1)
        else:
            for partition in range(PARTITIONS):
                self._topics.cut(self._topic, partition, -1)

    def noticed_by(self, gateway: Gateway) -> None:
        """Return when the gateway has seen it."""
        change = {"made again": "recreated", "cut": "cut"}.get(self._kind, self._kind)
        until(lambda: gateway.metric("topic_changes_total", topic=self._topic, change=change) >= 1, gateway.lines, 60)


@pytest.fixture
def start(real_gateway: Callable[..., Gateway], model: FakeModel) -> Callable[[], Gateway]:
    """Starts a gateway of one group, at a model that is not ready: what is queued waits in the topic."""

    def begin(requests: dict[str, Any] | None = None) -> Gateway:
        return real_gateway(
            kafka={"probe_seconds": 0.2},
            inference={"url": model.url, "probe_seconds": 0.1},
            requests={"partitions": PARTITIONS, **(requests or {})},
        )

    return begin


@pytest.fixture
def unready(model: FakeModel) -> Callable[[Gateway], None]:
    """From now on nothing more is read."""

    def be(gateway: Gateway) -> None:
        model.ready = False
        until(lambda: gateway.metric("requests_paused") == 1)

    return be


async def queue(client: Client, request_id: str, **members: Any) -> None:
    await client.infer(request_id, route="queue", data=None, **NUMBERS, **members)
    await client.event("accepted", id=request_id)


def committed(broker: Broker, names: dict[str, Any]) -> int:
    """How many records of the requests topic the group has finished."""
    requests = names["requests"]
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": requests["group"], "log_level": 0})
    try:
        places = consumer.committed([TopicPartition(requests["topic"], p) for p in range(PARTITIONS)], 20)
        return sum(max(place.offset, 0) for place in places)
    finally:
        consumer.close()


@pytest.mark.parametrize("kind", ["made again", "cut"])
@pytest.mark.parametrize("when", ["away", "back", "away, and the gateway is another one"])
async def test_who_comes_from_a_gateway_that_is_gone_is_told(
    start: Callable[..., Gateway],
    unready: Callable[[Gateway], None],
    connect: Connect,
    broker: Broker,
    names: dict[str, Any],
    model: FakeModel,
    kind: str,
    when: str,
) -> None:
    """Whether the topic changes before the client is back or after; also where nobody is left who saw the change."""
    change = Change(broker, names, kind)
    first, second = start(), start()
    unready(first)
    unready(second)
    client = await connect(first)
    for number in range(8):
        await queue(client, f"q{number}")
    first.kill()
    if when == "back":
        client = await connect(second, params=resuming(client))
    await asyncio.to_thread(until, lambda: second.metric("request_partitions") == PARTITIONS, second.lines, 60)
    await asyncio.to_thread(change.happen)
    if when != "back":
        await asyncio.to_thread(change.noticed_by, second)
        if when != "away":
            second.stop()
            model.ready = True
            second = start()
        client = await connect(second, params=resuming(client))
    told = await client.event("gap")
    assert told.keys() == {"type", "reason", "resume"}
    assert told["reason"] == "requests"
    model.ready = True
    await client.infer("q3", route="queue", data=None, retry=True, **NUMBERS)
    assert (await client.event("result"))["id"] == "q3"
    # Who has not got the gap, but the welcome before it, is told once more.
    again = await connect(second, params=resuming(client))
    assert (await again.event("gap"))["reason"] == "requests"
    # Who has got it is not. What is lost in the other partition may have been seen later.
    gaps = [told]
    for _ in range(PARTITIONS):
        again = await connect(second, params=resuming(client) | {"resume": gaps[-1]["resume"]})
        await again.infer("d", route="direct")
        await again.event("result")
        gaps = [event for event in again.skipped if event["type"] == "gap"]
        if not gaps:
            break
    assert gaps == []


@pytest.mark.parametrize(("protocol", "exactly_once"), [("classic", False), ("classic", True), ("consumer", False)])
async def test_a_cut_is_told_of_although_reading_goes_on_behind_it(
    start: Callable[..., Gateway],
    unready: Callable[[Gateway], None],
    connect: Connect,
    broker: Broker,
    names: dict[str, Any],
    model: FakeModel,
    protocol: str,
    exactly_once: bool,
) -> None:
    """Its owner commits beyond it at once, and leaves: what it has seen is in its commits, and nobody is told of it twice."""
    own = {"group_protocol": protocol, "exactly_once": exactly_once}
    first = start(requests=own)
    client = await connect(first)
    for number in range(6):  # until both partitions have some
        await queue(client, f"a{number}")
        await client.event("result", id=f"a{number}")
    unready(first)
    for number in range(8):
        await queue(client, f"q{number}")
    await asyncio.to_thread(Change(broker, names, "cut").happen)
    for number in range(8):
        await queue(client, f"b{number}")
    model.ready = True
    for _ in range(8):
        await client.event("result")
    first.stop()
    second = start(requests=own)
    client = await connect(second, params=resuming(client))
    gap = await client.event("gap")
    assert gap["reason"] == "requests"
    client = await connect(second, params=resuming(client) | {"resume": gap["resume"]})
    for number in range(6):
        await queue(client, f"c{number}")
        await client.event("result", id=f"c{number}")
    assert [event for event in client.skipped if event["type"] == "gap"] == []


async def test_nobody_is_told_of_what_is_not_lost(
    start: Callable[..., Gateway],
    unready: Callable[[Gateway], None],
    connect: Connect,
    broker: Broker,
    names: dict[str, Any],
    model: FakeModel,
) -> None:
    """A wider topic has all that it had; a log that was cut up to what was worked on has lost nothing; nor has a restart."""
    first, second = start(), start()
    client = await connect(first)
    for number in range(8):
        await queue(client, f"q{number}")
        await client.event("result", id=f"q{number}")
    await asyncio.to_thread(until, lambda: committed(broker, names) == 8)
    for kind in ("cut", "widened"):
        change = Change(broker, names, kind)
        await asyncio.to_thread(change.happen)
    await asyncio.to_thread(change.noticed_by, first)
    first.stop()
    client = await connect(second, params=resuming(client))
    second.kill()
    third = start()
    client = await connect(third, params=resuming(client))
    await queue(client, "last")
    await client.event("result", id="last")
    assert [e for e in client.skipped if e["type"] == "gap"] == []


@pytest.mark.parametrize("kind", ["made again", "cut"])
async def test_who_has_asked_again_is_answered_although_the_gateway_dies_then(
    start: Callable[..., Gateway],
    unready: Callable[[Gateway], None],
    broker: Broker,
    names: dict[str, Any],
    model: FakeModel,
    kind: str,
) -> None:
    """After a gap a client asks again for what it has queued. The gateway still waits for those records, and is killed before it
    knows that they are gone: its word that they are accepted would be the last that anybody has of them.
    """
    first, second = start(), start()
    unready(first)
    unready(second)
    accepted, gaps = asyncio.Semaphore(0), asyncio.Semaphore(0)

    def note(event: dict[str, Any]) -> None:
        if event["type"] == "accepted":
            accepted.release()

    urls = [f"ws{gateway.url.removeprefix('http')}/v1/ws" for gateway in (first, second)]
    async with (
        aiohttp.ClientSession() as http,
        podpair.client.connect(
            urls, token=token(), http=http, on_event=note, on_gap=lambda _: gaps.release(),
            backoff=podpair.client.Backoff(initial=0.1, maximum=0.5),
        ) as session,
    ):  # fmt: skip
        asked = [
            asyncio.create_task(session.infer("digits", inputs=NUMBERS["inputs"], route="queue")) for _ in range(8)
        ]
        for _ in asked:
            await accepted.acquire()
        await asyncio.to_thread(Change(broker, names, kind).happen)
        await gaps.acquire()
        with pytest.raises(podpair.client.Overloaded):  # what was asked again before this has arrived
            await session.infer("digits", inputs=NUMBERS["inputs"], route="direct")
        first.kill()
        model.ready = True
        async with asyncio.timeout(90):
            ended = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in ended} <= {podpair.client.Result, podpair.client.Lost}
