"""A partition that was taken away while it was paused is read on when it comes back: librdkafka keeps its pause."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from confluent_kafka import Consumer

import podpair.client
from harness.kafka import Broker
from harness.pair import Gateway, Inference, token
from harness.waiting import until

_CLIENTS = 40  # so many sessions have homes in every partition


@contextmanager
def another_member(broker: Broker, names: dict[str, Any]) -> Iterator[Consumer]:
    """A member of the group that does nothing with what it is given."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": names["requests"]["group"],
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 6000,
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.subscribe([names["requests"]["topic"]])
        yield consumer
    finally:
        consumer.close()


async def test_what_comes_back_is_read_on(
    start_pair: Any, start_inference: Any, broker: Broker, names: dict[str, Any]
) -> None:
    model: Inference = start_inference()
    gateway: Gateway = start_pair(inference={"url": model.url})
    until(lambda: gateway.metric("request_partitions") == 8)

    def lose_and_get_back() -> None:
        model.kill()
        until(lambda: gateway.metric("requests_paused") == 1)
        with another_member(broker, names) as member:
            until(lambda: member.poll(0.1) is None and gateway.metric("request_partitions") == 4, timeout=60)
            start_inference(model.port)
            until(lambda: member.poll(0.1) is None and gateway.metric("requests_paused") == 0)
        until(lambda: gateway.metric("request_partitions") == 8, timeout=60)

    await asyncio.to_thread(lose_and_get_back)

    async def ask(number: int, http: aiohttp.ClientSession) -> None:
        async with podpair.client.connect(gateway.ws, token=token(f"p-{number}"), http=http) as session:
            assert (await session.infer("digits", [0.5] * 64, route="queue")).data["label"]

    async with asyncio.timeout(60), aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        for number in range(_CLIENTS):
            tasks.create_task(ask(number, http))
