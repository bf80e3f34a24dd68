"""How large a record may be is the topic's to say: the gateway's own clients follow it, and what is refused names it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from gateway.conftest import Connect
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway
from harness.topics import TopicAdmin

MB = 1_000_000


def large(size: int) -> tuple[int, Any]:
    output = {"name": "y", "datatype": "BYTES", "shape": [1, 1], "data": ["x" * size]}
    return 200, {"outputs": [output], "model_version": "1"}


def inputs(size: int) -> list[dict[str, Any]]:
    """Some tensors of a request that is about this large."""
    return [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["x" * size]}]


@pytest.fixture
def topics(broker: Broker) -> TopicAdmin:
    return TopicAdmin(broker.address)


@pytest.fixture
def gateway_with(
    real_gateway: Callable[..., Gateway], model: FakeModel, topics: TopicAdmin, names: dict[str, Any]
) -> Callable[..., Gateway]:
    """A gateway whose topics take records of these sizes."""

    def start(request_bytes: int, result_bytes: int, dead_bytes: int = 5 * MB, **config: Any) -> Gateway:
        topic = names["requests"]["topic"]
        for name, size in (
            (topic, request_bytes),
            (names["results"]["topic"], result_bytes),
            (f"{topic}.dlq", dead_bytes),
        ):
            topics.create(name, 2, max_message_bytes=size)
        inference = {"url": model.url, "probe_seconds": 0.1}
        return real_gateway(inference=inference, limits={"message_bytes": 4 * MB}, **config)

    return start


@pytest.mark.parametrize("once", [False, True], ids=["", "exactly_once"])
async def test_an_answer_that_the_topic_takes_arrives(
    gateway_with: Callable[..., Gateway], model: FakeModel, connect: Connect, once: bool
) -> None:
    gateway = gateway_with(5 * MB, 5 * MB, requests={"exactly_once": once})
    model.answer = large(3 * MB)
    client = await connect(gateway)
    await client.infer("q", route="queue", data=None, inputs=inputs(3 * MB))
    answer = await client.answer("q")
    assert answer["type"] == "result", answer
    assert len(answer["outputs"][0]["data"][0]) == 3 * MB


async def test_an_answer_that_the_topic_does_not_take_ends_in_an_error_that_names_it(
    gateway_with: Callable[..., Gateway], model: FakeModel, connect: Connect, names: dict[str, Any]
) -> None:
    gateway = gateway_with(5 * MB, MB)
    model.answer = large(2 * MB)
    client = await connect(gateway)
    await client.infer("q", route="queue", data=None, inputs=inputs(10))
    answer = await client.answer("q")
    assert answer["code"] == "internal"
    assert f"larger than topic {names['results']['topic']} takes: {MB} (max.message.bytes)" in answer["message"]


async def test_a_dead_letter_that_is_too_large_is_kept_without_its_value(
    gateway_with: Callable[..., Gateway], model: FakeModel, connect: Connect, names: dict[str, Any], broker: Broker
) -> None:
    topic = names["requests"]["topic"] + ".dlq"
    gateway = gateway_with(5 * MB, 5 * MB, MB // 2, requests={"max_attempts": 1})
    model.answer = 500, {"error": "told to fail"}
    client = await connect(gateway)
    await client.infer("q", route="queue", data=None, inputs=inputs(MB))
    assert (await client.answer("q"))["type"] == "error"
    reader = Consumer({"bootstrap.servers": broker.address, "group.id": "r", "log_level": 0})
    reader.assign([TopicPartition(topic, partition, 0) for partition in range(2)])
    letter: Any = await asyncio.to_thread(reader.poll, 30)
    reader.close()
    headers = dict(letter.headers())
    assert (letter.value(), headers["ce_id"]) == (b"", b"q")
    assert f"larger than topic {topic} takes".encode() in headers["dead_reason"]


async def test_a_request_between_the_two_limits_is_refused_by_the_topics_name(
    gateway_with: Callable[..., Gateway], model: FakeModel, connect: Connect, names: dict[str, Any]
) -> None:
    gateway = gateway_with(MB // 2, 5 * MB)
    client = await connect(gateway)
    limits = client.welcome["limits"]
    assert (limits["message_bytes"], limits["queue_message_bytes"]) == (4 * MB, MB // 2 - 2048)
    await client.infer("q", route="queue", data=None, inputs=inputs(MB))
    answer = await client.answer("q")
    assert answer["code"] == "invalid"
    assert f"topic {names['requests']['topic']} takes: {MB // 2} bytes" in answer["message"]
    await client.infer("d", route="direct", data=None, inputs=inputs(MB))
    assert (await client.answer("d"))["type"] == "result"
    for number in range(200):  # a batch of small records must not be larger than the topic takes, either
        await client.infer(f"s{number}", route="queue", data=None, inputs=inputs(20_000))
    ended = [await client.event("result") for _ in range(200)]
    assert len({event["id"] for event in ended}) == 200
    assert json.loads(gateway.get("/readyz")[1])["checks"]["kafka"] == "ok"
