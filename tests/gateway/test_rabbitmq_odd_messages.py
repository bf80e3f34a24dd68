"""Messages that are odd, but well formed: each ends, and none keeps others from being answered."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from gateway.fake_model import FakeModel
from harness.amqp import AmqpClient, amqp_client
from harness.pair import Gateway
from harness.rabbitmq import RabbitMQ
from podpair.common.gateway_config.environment import merged

pytestmark = pytest.mark.process

ROW = {"data": [1, 2]}
_numbers = count(1)


class Nanoseconds(datetime):
    """A time as a producer sends it that takes the wrong unit."""

    def timestamp(self) -> float:
        return super().timestamp() * 1e9


@pytest.fixture
def queue() -> str:
    return f"odd{next(_numbers)}"


@pytest.fixture
def start(
    rabbitmq: RabbitMQ, model: FakeModel, queue: str, start_gateway: Callable[..., Gateway]
) -> Callable[..., Gateway]:
    """`start(amqp={…})` starts a gateway that works on one message at a time."""

    def begin(**config: Any) -> Gateway:
        own: dict[str, Any] = {
            "kafka": {"embedded": True},
            "inference": {"url": model.url, "probe_seconds": 0.1},
            "requests": {"source": "both", "max_attempts": 2, "backoff_seconds": 0.02},
            "amqp": {
                "url": rabbitmq.url,
                "queue": queue,
                "model": "fake",
                "prefetch": 1,
                "celery_tasks": {"t": "fake"},
            },
        }
        gateway = start_gateway(merged(own, config))
        gateway.wait_ready()
        return gateway

    return begin


@pytest.fixture
async def client(rabbitmq: RabbitMQ) -> AsyncIterator[AmqpClient]:
    async with amqp_client(rabbitmq.url) as made:
        yield made


async def test_an_id_of_any_length_is_answered(start: Callable[..., Gateway], client: AmqpClient, queue: str) -> None:
    await asyncio.to_thread(start)
    await client.publish(queue, ROW, headers={"ce_id": "x" * 300})
    await client.publish(queue, b"[[1],{},{}]", headers={"task": "t", "id": "é" * 200}, content_type="application/json")
    await client.publish(queue, ROW, message_id="next")
    found = [await client.answer() for _ in range(3)]
    assert [message.correlation_id for message, _ in found] == [None, None, "next"]
    assert found[0][0].headers["ce_id"] == "x" * 300
    assert found[1][1]["task_id"] == "é" * 200


async def test_a_timestamp_beyond_the_calendar_is_none(
    start: Callable[..., Gateway], client: AmqpClient, queue: str
) -> None:
    await asyncio.to_thread(start)
    await client.publish(queue, ROW, message_id="far", timestamp=Nanoseconds.now(UTC))
    await client.publish(queue, ROW, message_id="farther", headers={"at": Nanoseconds.now(UTC)})
    await client.publish(queue, ROW, message_id="next")
    found = [(await client.answer())[0].headers["ce_id"] for _ in range(3)]
    assert found == ["far", "farther", "next"]


async def test_a_dead_letter_with_headers_as_large_as_a_frame(
    start: Callable[..., Gateway], client: AmqpClient, queue: str
) -> None:
    await asyncio.to_thread(start)
    await client.publish(queue, b"{", headers={"padding": "x" * 130_950}, answered=False)
    await client.publish(queue, ROW, message_id="next")
    message, _ = await client.answer()
    assert message.headers["ce_id"] == "next"
    letter = await client.take(f"{queue}.dlq")
    assert letter.body == b"{"


async def test_an_answer_larger_than_the_broker_takes_ends_with_an_error(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, rabbitmq: RabbitMQ, model: FakeModel
) -> None:
    limit = "application:set_env(rabbit, max_message_size, {})."
    before = rabbitmq.control("eval", "{ok, Size} = application:get_env(rabbit, max_message_size), Size.").strip()
    rabbitmq.control("eval", limit.format(100_000))
    try:
        await asyncio.to_thread(start)
        outputs = [{"name": "y", "datatype": "FP32", "shape": [1, 50_000], "data": [1.0] * 50_000}]
        model.answer = (200, {"outputs": outputs})
        await client.publish(queue, ROW, message_id="large")
        message, body = await client.answer()
        assert (message.headers["ce_id"], body["code"]) == ("large", "internal")
        model.reset()
        await client.publish(queue, ROW, message_id="next")
        assert (await client.answer())[1]["data"] == {"y": [1.0]}
    finally:
        rabbitmq.control("eval", limit.format(before))
