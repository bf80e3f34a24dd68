"""A client that takes nothing harms only itself: it is closed with 3008, and resumes with nothing missing."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from confluent_kafka import Producer

from gateway.conftest import PATIENCE, Connect, resuming, small
from harness.kafka import Broker
from harness.pair import Gateway

RECORDS, ROUND, SIZE = 1200, 20, 20_000


async def test_a_client_that_reads_nothing(
    real_gateway: Callable[..., Gateway], broker: Broker, names: dict[str, Any], connect: Connect
) -> None:
    pair = real_gateway()
    http, slow = await small(pair, "slow")
    quick = await connect(pair, sid="quick")
    connection = slow.socket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.pause_reading()
    producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random"})
    filling = "x" * SIZE
    for n in range(RECORDS):
        for sid in ("slow", "quick"):
            producer.produce(names["results"]["topic"], json.dumps({"n": n, "filling": filling}), f"user/{sid}")
        if n % ROUND == ROUND - 1:  # so much at a time that `quick`, which reads on, is never slow
            assert await asyncio.to_thread(producer.flush, 30) == 0
            received = [(await quick.event("push"))["data"]["n"] for _ in range(ROUND)]
            assert received == list(range(n - ROUND + 1, n + 1))
    await quick.lives()

    async with asyncio.timeout(PATIENCE):
        while not pair.metric("sessions_closed_total", reason="slow"):
            await asyncio.sleep(0.02)
    connection.transport.resume_reading()
    assert await slow.closed() == 3008
    seen = [event for event in slow.skipped if event["type"] == "push"]
    await http.close()

    last = seen[-1]["position"] if seen else slow.welcome["position"]
    again = await connect(pair, sid="slow", params=resuming(slow, last))
    numbers = [event["data"]["n"] for event in seen]
    while len(numbers) < RECORDS:
        numbers.append((await again.event("push"))["data"]["n"])
    assert numbers == list(range(RECORDS))
    await again.lives()
    assert [event["type"] for event in again.skipped] == ["accepted"]


async def test_a_burst_larger_than_its_buffer_does_not_close_a_client_that_reads(
    real_gateway: Callable[..., Gateway], broker: Broker, names: dict[str, Any], connect: Connect
) -> None:
    """What it can't take at once waits in the log, and comes in order."""
    gateway = real_gateway(sessions={"buffer_bytes": 100_000})
    client = await connect(gateway, sid="reads")
    producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "linger.ms": 50})
    for n in range(RECORDS):
        producer.produce(names["results"]["topic"], json.dumps({"n": n, "filling": "x" * SIZE}), "user/reads")
    sent = asyncio.create_task(asyncio.to_thread(producer.flush, 30))
    assert [(await client.event("push"))["data"]["n"] for _ in range(RECORDS)] == list(range(RECORDS))
    assert await sent == 0
    assert gateway.metric("behind_total") >= 1
    await client.lives()
