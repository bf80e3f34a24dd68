"""Records that land in no session's home, on a real broker: each is counted once, by whichever gateway looks after its partition,
and its producer's likely cause is logged. What is right where it is, for sessions that are away, counts for nothing.
"""

import json
from collections.abc import Callable
from typing import Any

from confluent_kafka import Producer

from gateway.conftest import Connect
from harness.kafka import Broker
from harness.pair import Gateway
from harness.waiting import soon
from podpair.gateway.core.partitions import home_partition

WIDTH = 6
TOPICS = {"requests": {"partitions": WIDTH}, "results": {"partitions": WIDTH, "linger_seconds": 0}}


def counted(*gateways: Gateway, outcome: str) -> float:
    return sum(gateway.metric("results_records_misplaced_total", outcome=outcome) for gateway in gateways)


def write(broker: Broker, topic: str, keys: list[str | None], **settings: Any) -> dict[str | None, int]:
    """By a producer as its library has it; where each key's record is."""
    found: dict[str | None, int] = {}
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0, **settings})
    for key in keys:
        producer.produce(
            topic, b"{}", key, on_delivery=lambda _, message, key=key: found.update({key: message.partition()})
        )
    assert producer.flush(30) == 0
    return found


def owns(gateway: Gateway) -> int:
    return int(gateway.metric("request_partitions"))


async def watched(broker: Broker, topic: str, *gateways: Gateway) -> None:
    """Until the gateways look after their partitions, which they begin with all at once: they see records without a key."""
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})

    def seen() -> bool:
        for partition in range(WIDTH):
            producer.produce(topic, b"{}", partition=partition)
        assert producer.flush(30) == 0
        return all(counted(gateway, outcome="keyless") > 0 for gateway in gateways)

    await soon(seen)


async def test_what_a_librdkafka_producer_writes_by_its_defaults_is_told(
    broker: Broker, names: dict[str, Any], real_gateway: Callable[..., Gateway], connect: Connect
) -> None:
    topic = names["results"]["topic"]
    gateways = [real_gateway(**TOPICS), real_gateway(**TOPICS)]
    await soon(lambda: all(owns(gateway) == WIDTH // 2 for gateway in gateways))
    await watched(broker, topic, *gateways)
    keys: list[str | None] = [f"s-{number:016x}" for number in range(30)] + [f"user:u{number}" for number in range(10)]
    client = await connect(gateways[0])  # its home is read, the others aren't
    right = write(broker, topic, keys, partitioner="murmur2_random")
    assert right == {key: home_partition(str(key), WIDTH) for key in keys}
    astray = write(broker, topic, keys)
    wrong = sum(astray[key] != right[key] for key in keys)
    assert wrong > len(keys) / 2
    await soon(lambda: counted(*gateways, outcome="unclaimed") >= wrong)
    # What was written rightly before it has been looked at by then.
    assert counted(*gateways, outcome="unclaimed") == wrong
    assert counted(*gateways, outcome="dropped") == 0
    warnings = [gateway.wait_for(lambda line: "not in the home partition" in line) for gateway in gateways]
    for told in warnings:
        assert "CRC-32, librdkafka's default (consistent_random)" in told
        assert "partitioner=murmur2_random" in told
        assert "docs/producers.md" in told
    assert "have no key" in gateways[0].wait_for(lambda line: "have no key" in line)
    await client.lives()


async def test_a_record_for_a_client_in_a_partition_that_nobody_reads(
    broker: Broker, names: dict[str, Any], real_gateway: Callable[..., Gateway], connect: Connect
) -> None:
    topic = names["results"]["topic"]
    gateway = real_gateway(**TOPICS)
    await soon(lambda: owns(gateway) == WIDTH)
    await watched(broker, topic, gateway)
    client = await connect(gateway)
    session = client.welcome["session"]
    foreign = (home_partition(session, WIDTH) + 1) % WIDTH
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    producer.produce(topic, b"{}", session, partition=foreign)
    assert producer.flush(30) == 0
    await soon(lambda: counted(gateway, outcome="dropped") == 1)
    line = gateway.wait_for(lambda line: "not in the home partition" in line)
    assert f"{topic}[{foreign}]@" in line
    assert f"has its home in {home_partition(session, WIDTH)}" in line
    assert json.loads(line)["session"] == session
    assert counted(gateway, outcome="unclaimed") == 0
