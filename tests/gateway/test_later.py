"""Jobs that begin later: they are kept in Kafka until then, whatever becomes of the gateways."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from gateway.conftest import Connect
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.waiting import soon
from podpair import client

pytestmark = pytest.mark.process

Start = Callable[..., Gateway]


@pytest.fixture
def start(real_gateway: Callable[..., Gateway], model: FakeModel) -> Start:
    """Start a gateway that keeps requests."""

    def begin(**config: Any) -> Gateway:
        own = {"inference": {"url": model.url, "probe_seconds": 0.1}, "workflows": {"enabled": True}}
        return real_gateway(**(own | config))

    return begin


async def submitted(gateway: Gateway, **options: Any) -> str:
    return await client.submit(gateway.url, "fake", [1.0, 2.0], token=token(), **options)


async def answer(gateway: Gateway, reference: str) -> Any:
    async with client.attach(gateway.url, reference, token=token()) as job:
        return (await job.result()).data


def kept(*gateways: Gateway) -> float:
    return sum(gateway.metric("kept_requests") for gateway in gateways)


async def test_it_begins_when_its_time_has_come_and_not_before(start: Start, model: FakeModel) -> None:
    gateway = start()
    began = time.monotonic()
    reference = await submitted(gateway, delay=1.5, parameters={"k": 7})
    assert await answer(gateway, reference) == {"y": [1.0]}
    assert time.monotonic() - began >= 1.5
    assert [asked["parameters"]["k"] for asked in model.asked] == [7]
    assert kept(gateway) == 0
    assert gateway.metric("queue_requests_total", outcome="kept") == 1


async def test_others_go_on_after_the_gateway_that_keeps_them_was_killed(start: Start, model: FakeModel) -> None:
    two = [start(), start()]
    references = [await submitted(two[0], delay=6) for _ in range(8)]
    await soon(lambda: kept(*two) == 8)
    two[0].kill()
    for reference in references:
        assert await answer(two[1], reference) == {"y": [1.0]}
    assert len(model.asked) == 8
    assert kept(two[1]) == 0


async def test_one_whose_time_passes_while_no_gateway_runs_begins_afterwards_once(
    start: Start, model: FakeModel
) -> None:
    first = start()
    reference = await submitted(first, delay=1)
    await soon(lambda: kept(first) == 1 or model.asked)
    first.kill()
    second = start()
    assert await answer(second, reference) == {"y": [1.0]}
    # Its own record may have been read twice, and is dealt with before what was written behind it.
    assert await answer(second, await submitted(second)) == {"y": [1.0]}
    assert len(model.asked) == 2


async def test_it_is_cancelled_while_it_waits(start: Start, model: FakeModel) -> None:
    two = [start(), start()]
    reference = await submitted(two[0], delay=3600)
    await soon(lambda: kept(*two) == 1)
    async with client.attach(two[1].url, reference, token=token()) as job:
        assert await job.cancel()
        with pytest.raises(client.Cancelled):
            await job.result()
    await soon(lambda: kept(*two) == 0)
    assert not model.asked


async def test_a_client_that_stays_gets_its_answer_and_may_cancel(start: Start, connect: Connect) -> None:
    gateway = start()
    session = await connect(gateway)
    await session.infer("later", model="fake", data=[1.0, 2.0], delay_ms=1000)
    await session.infer("never", model="fake", data=[1.0, 2.0], delay_ms=3_600_000)
    for _ in range(2):
        assert (await session.event("accepted"))["route"] == "queue"
    await session.send({"type": "cancel", "id": "never"})
    assert (await session.answer("never"))["code"] == "cancelled"
    assert (await session.answer("later"))["type"] == "result"


REFUSED = [
    ({"delay_ms": 5000, "deadline_ms": 4000}, "its deadline passes before it is to begin"),
    ({"delay_ms": 5000, "route": "direct"}, "goes through the queue"),
    ({"delay_ms": 90_000_000}, "it is to begin in 90000 s; at most 86400 s are possible (sessions.resume_seconds)"),
    ({"delay_ms": 0}, "delay_ms"),
    ({"delay_ms": "soon"}, "delay_ms"),
]


async def test_what_can_not_be_is_refused_where_it_enters(start: Start, connect: Connect) -> None:
    session = await connect(start())
    for number, (members, message) in enumerate(REFUSED):
        await session.infer(f"r-{number}", model="fake", data=[1.0, 2.0], **members)
        error = await session.answer(f"r-{number}")
        assert (error["code"], message in error["message"]) == ("invalid", True), error


async def test_a_gateway_without_workflows_keeps_none(
    start: Start, connect: Connect, broker: Broker, names: dict[str, Any], http: aiohttp.ClientSession
) -> None:
    gateway = start(workflows={"enabled": False})
    session = await connect(gateway, sid="s-1")
    await session.infer("r-1", model="fake", data=[1.0, 2.0], delay_ms=1000)
    assert "workflows.enabled" in (await session.answer("r-1"))["message"]
    produce(broker, names, "r-2", notbefore=str(int(time.time() * 1000) + 60_000))
    assert "workflows.enabled" in (await session.answer("r-2"))["message"]
    produce(broker, names, "r-3", notbefore="1")  # that has passed
    assert (await session.answer("r-3"))["type"] == "result"


async def test_records_of_other_producers_say_when_they_are_to_begin(
    start: Start, connect: Connect, broker: Broker, names: dict[str, Any]
) -> None:
    session = await connect(start(), sid="s-1")
    produce(broker, names, "r-1", notbefore=str(int(time.time() * 1000) + 500))
    produce(broker, names, "r-2", ce_notbefore="2020-02-02T02:02:02Z")
    produce(broker, names, "r-3", notbefore="tomorrow")
    produce(broker, names, "r-4", notbefore=str(int(time.time() * 1000) + 10**9))
    for name in ("r-1", "r-2"):
        assert (await session.answer(name))["type"] == "result"
    for name, said in (("r-3", "header deadline, ce_time or notbefore"), ("r-4", "sessions.resume_seconds")):
        assert said in (await session.answer(name))["message"]


@pytest.mark.slow
async def test_each_is_handed_over_once_whenever_gateways_are_killed(
    start: Start, model: FakeModel, broker: Broker, names: dict[str, Any]
) -> None:
    """Two gateways, of which one is killed all the time while 300 requests become due one after the other."""
    gateways = [start(), start()]
    due, ids = time.time() + 5, [f"r-{number}" for number in range(300)]
    for number, name in enumerate(ids):
        produce(broker, names, name, notbefore=str(int((due + number * 0.1) * 1000)))
    for turn in range(8):
        asked = len(model.asked)
        await soon(lambda asked=asked: len(model.asked) >= min(asked + 25, 300))
        gateways[turn % 2].kill()
        gateways[turn % 2] = start()
    await soon(lambda: kept(*gateways) == 0)
    await soon(lambda: len({asked["id"] for asked in model.asked}) == 300, lambda: len(model.asked))
    written = records(broker, names["requests"]["topic"])
    assert faults(ids, written) == []
    assert faults(ids, [*written, "r-7"]) == ["r-7: 3 records"]
    written.remove("r-8")
    assert faults(ids, written) == ["r-8: 1 records"]


def faults(ids: list[str], written: list[str]) -> list[str]:
    """Each has its own record, and the one that was written when its time had come."""
    counts = Counter(written)
    return [f"{name}: {counts[name]} records" for name in ids if counts[name] != 2]


def records(broker: Broker, topic: str) -> list[str]:
    """The ids of all committed records of a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": "checker",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    found, ended = [], 0
    while ended < len(partitions):
        message = consumer.poll(60)
        assert message is not None
        if message.error() is None:
            found.append(dict(message.headers() or ())["ce_id"].decode())
        else:
            assert message.error().code() == KafkaError._PARTITION_EOF
            ended += 1
    consumer.close()
    return found


def produce(broker: Broker, names: dict[str, Any], name: str, **headers: str) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    common = {"ce_id": name, "ce_type": "dev.podpair.request", "ce_subject": "user/s-1", "model": "fake"}
    producer.produce(names["requests"]["topic"], b'{"data":[1.0,2.0]}', headers=common | headers)
    assert producer.flush(30) == 0
