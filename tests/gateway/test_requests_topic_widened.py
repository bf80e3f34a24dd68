"""The requests topic is widened from outside: what is queued in its new partitions is answered, within seconds."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Producer

from gateway.conftest import ROW, Connect
from harness.kafka import Broker
from harness.pair import Gateway
from harness.topics import TopicAdmin
from harness.waiting import soon
from podpair.gateway.core.record_headers import request_headers


async def test_requests_in_new_partitions_are_answered(
    real_gateway: Callable[..., Gateway], connect: Connect, broker: Broker, names: dict[str, Any]
) -> None:
    """librdkafka learns of them when it asks for metadata, every 300 s by default: longer than anybody waits here."""
    topic = names["requests"]["topic"]
    gateway = real_gateway(kafka={"probe_seconds": 0.2}, requests={"partitions": 2})
    client = await connect(gateway, sid="wide")
    await asyncio.to_thread(TopicAdmin(broker.address).widen, topic, 4)
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    for partition in range(4):
        headers = request_headers(
            request_id=f"p{partition}",
            session="user/wide",
            model="digits",
            source="test",
            now=time.time(),
            deadline=None,
        )
        producer.produce(topic, b'{"data":%b}' % str(ROW).encode(), partition=partition, headers=headers)
    assert producer.flush(10) == 0
    answered = {(await client.event("result"))["id"] for _ in range(4)}
    assert answered == {"p0", "p1", "p2", "p3"}
    await soon(lambda: gateway.metric("request_partitions") == 4)
    assert gateway.metric("topic_changes_total", change="widened") == 1
