"""Requests that come by a queue of RabbitMQ are answered at their reply queues and sessions, or kept with the reason."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.conftest import Connect
from gateway.fake_model import FakeModel
from harness.amqp import AmqpClient, amqp_client
from harness.certificates import Authority
from harness.pair import Gateway
from harness.processes import free_port
from harness.rabbitmq import RabbitMQ
from harness.waiting import until
from podpair.common.gateway_config.environment import merged

pytestmark = pytest.mark.process

ROW = {"data": [1, 2]}
_numbers = count(1)


@pytest.fixture
def queue() -> str:
    return f"q{next(_numbers)}"


@pytest.fixture
def start(
    rabbitmq: RabbitMQ, model: FakeModel, queue: str, start_gateway: Callable[..., Gateway]
) -> Callable[..., Gateway]:
    """`start(amqp={…})` starts a gateway that takes requests from the test's queue."""

    def begin(*, ready: bool = True, **config: Any) -> Gateway:
        own: dict[str, Any] = {
            "kafka": {"embedded": True},
            "inference": {"url": model.url, "probe_seconds": 0.1},
            "requests": {"source": "both", "max_attempts": 2, "backoff_seconds": 0.02},
            "amqp": {"url": rabbitmq.url, "queue": queue, "probe_seconds": 0.1},
        }
        gateway = start_gateway(merged(own, config))
        if ready:
            gateway.wait_ready()
        return gateway

    return begin


@pytest.fixture
async def client(rabbitmq: RabbitMQ) -> AsyncIterator[AmqpClient]:
    async with amqp_client(rabbitmq.url) as made:
        yield made


async def finished(gateway: Gateway, outcome: str, times: int = 1) -> None:
    await asyncio.to_thread(until, lambda: gateway.metric("queue_requests_total", outcome=outcome) == times)


async def test_a_request_is_answered_where_it_says(
    start: Callable[..., Gateway], client: AmqpClient, queue: str
) -> None:
    gateway = await asyncio.to_thread(start)
    await client.publish(queue, ROW, headers={"model": "fake"}, message_id="r1", correlation_id="c1")
    message, body = await client.answer()
    assert (message.correlation_id, message.type, message.content_type) == (
        "c1",
        "dev.podpair.result",
        "application/json",
    )
    assert body["data"] == {"y": [1.0]}
    assert message.headers["ce_id"] == "r1"
    await finished(gateway, "result")
    assert await client.length(queue) == 0
    assert gateway.metric("amqp_replies_total", outcome="confirmed") == 1


async def test_v2_inputs_and_a_cloud_event_are_requests_too(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    await asyncio.to_thread(start)
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [3, 4]}]
    await client.publish(queue, {"inputs": inputs}, headers={"model": "fake"}, correlation_id="v2")
    message, body = await client.answer()
    assert (message.correlation_id, body["outputs"][0]["name"]) == ("v2", "y")
    event = {"specversion": "1.0", "id": "e1", "source": "/s", "type": "t", "model": "fake", "data": ROW}
    await client.publish(queue, event, content_type="application/cloudevents+json")
    message, body = await client.answer()
    assert (message.correlation_id, body["data"]) == ("e1", {"y": [1.0]})


async def test_the_model_is_named_by_header_routing_key_or_setting(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    exchange = await client.channel.declare_exchange(f"{queue}.in", "topic", durable=True)
    by = {"exchange": exchange.name, "routing_keys": ["*"], "model_by_routing_key": True, "model": "by-setting"}
    await asyncio.to_thread(start, amqp=by)
    await client.publish(queue, ROW)
    assert (await client.answer())[1]["model"] == "by-setting"
    await client.publish("by-key", ROW, exchange=exchange.name)
    assert (await client.answer())[1]["model"] == "by-key"
    await client.publish("by-key", ROW, exchange=exchange.name, headers={"model": "by-header"})
    assert (await client.answer())[1]["model"] == "by-header"


async def test_a_session_gets_its_answer_through_the_log(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, connect: Connect
) -> None:
    gateway = await asyncio.to_thread(start)
    session = await connect(gateway, sid="s1")
    headers = {"model": "fake", "session": session.welcome["session"]}
    await client.publish(queue, ROW, answered=False, headers=headers, message_id="by-rabbit")
    event = await session.event("result", id="by-rabbit")
    assert event["data"] == {"y": [1.0]}
    assert event["position"]


async def test_what_is_no_request_is_kept_with_the_reason_and_its_sender_is_notified(
    start: Callable[..., Gateway], client: AmqpClient, queue: str
) -> None:
    gateway = await asyncio.to_thread(start)
    await client.publish(queue, ROW, message_id="m1", correlation_id="c1")
    message, body = await client.answer()
    assert (message.correlation_id, message.type) == ("c1", "dev.podpair.error")
    assert body == {"code": "invalid", "message": "header 'model' is missing"}
    letter = await client.take(f"{queue}.dlq")
    assert letter.headers["podpair_dlq_reason"] == "invalid: header 'model' is missing"
    assert (letter.message_id, letter.headers["podpair_dlq_origin"]) == ("m1", queue)
    for body, headers, why in (
        (b"\xff", {"model": "fake"}, "not UTF-8"),
        (b"{", {"model": "fake"}, "not JSON"),
        (b"{}", {"model": "fake", "deadline": "soon"}, "header deadline"),
    ):
        await client.publish(queue, body, answered=False, headers=headers)
        letter = await client.take(f"{queue}.dlq")
        assert why in letter.headers["podpair_dlq_reason"]
        assert letter.body == body
    await client.publish(queue, ROW, headers={"model": "fake"}, reply_to=queue)
    assert "reply_to is the queue" in (await client.take(f"{queue}.dlq")).headers["podpair_dlq_reason"]
    assert await client.length(queue) == 0
    assert gateway.metric("dead_letters_total") == 5


async def test_what_the_model_fails_is_tried_again_then_kept_and_answered(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    await asyncio.to_thread(start)
    model.answer = (500, {"error": "out of memory"})
    await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id="c1")
    _, body = await client.answer()
    assert (body["code"], body["message"]) == ("upstream", "the model failed 2 times: out of memory")
    letter = await client.take(f"{queue}.dlq")
    assert letter.headers["podpair_dlq_attempts"] == "2"
    assert len(model.asked) == 2


async def test_a_model_that_is_not_ready_pauses_consumption_and_costs_no_attempt(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    gateway = await asyncio.to_thread(start)
    model.ready = False
    await asyncio.to_thread(until, lambda: gateway.metric("amqp_paused") == 1)
    for number in range(3):
        await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id=str(number))
    await asyncio.to_thread(until, lambda: gateway.metric("amqp_queue_messages") == 3)
    assert model.asked == []
    model.ready = True
    assert {(await client.answer())[0].correlation_id for _ in range(3)} == {"0", "1", "2"}
    assert gateway.metric("queue_retries_total") == 0


async def test_a_poison_message_is_given_up_after_its_deaths(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    await asyncio.to_thread(start, requests={"max_model_crashes": 2})
    model.dies_of = 666
    await client.publish(queue, {"data": [666, 0]}, headers={"model": "fake"})
    assert (await client.answer())[1]["message"] == "the model died 2 times while it had this request"
    assert "the model died" in (await client.take(f"{queue}.dlq")).headers["podpair_dlq_reason"]


async def test_prefetch_bounds_what_is_in_hand(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    gateway = await asyncio.to_thread(start, amqp={"prefetch": 3})
    model.open.clear()
    for number in range(10):
        await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id=str(number))
    await asyncio.to_thread(until, lambda: gateway.metric("amqp_in_flight") == 3)
    await asyncio.to_thread(until, lambda: gateway.metric("amqp_queue_messages") == 7)
    assert gateway.metric("queue_in_flight") == 3
    model.open.set()
    assert {(await client.answer())[0].correlation_id for _ in range(10)} == set(map(str, range(10)))


async def test_a_time_to_live_is_a_deadline(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    gateway = await asyncio.to_thread(start, amqp={"prefetch": 1})
    model.open.clear()
    # In hand: the broker doesn't look at it any more.
    await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id="held", expiration=0.2)
    message, body = await client.answer()
    assert (message.correlation_id, body["code"]) == ("held", "deadline_exceeded")
    # In the queue: the broker makes it a dead letter.
    await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id="first")
    await asyncio.to_thread(until, lambda: gateway.metric("amqp_in_flight") == 1)
    await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id="late", expiration=0.1)
    letter = await client.take(f"{queue}.dlq")
    assert letter.correlation_id == "late"
    assert letter.headers["x-death"][0]["reason"] == "expired"
    model.open.set()
    assert (await client.answer())[0].correlation_id == "first"


async def test_a_deadline_in_the_header_counts_for_more(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    await asyncio.to_thread(start)
    late = {"model": "fake", "deadline": str(int((time.time() - 1) * 1000))}
    await client.publish(queue, ROW, answered=False, headers=late, expiration=60)
    letter = await client.take(f"{queue}.dlq")  # nobody can be notified
    assert letter.headers["podpair_dlq_reason"].startswith("deadline_exceeded")
    assert model.asked == []


async def test_higher_priorities_come_first(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    config = {"queue_type": "classic", "max_priority": 10, "prefetch": 1}
    gateway = await asyncio.to_thread(start, amqp=config)
    model.open.clear()
    await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id="in-hand")
    await asyncio.to_thread(until, lambda: gateway.metric("amqp_in_flight") == 1)
    for name, priority in (("low", None), ("middle", 4), ("high", 9)):
        await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id=name, priority=priority)
    model.open.set()
    came = [(await client.answer())[0].correlation_id for _ in range(4)]
    assert came == ["in-hand", "high", "middle", "low"]


async def test_whoever_asked_and_is_gone_holds_nothing_up(
    start: Callable[..., Gateway], client: AmqpClient, queue: str
) -> None:
    gateway = await asyncio.to_thread(start)
    await client.publish(queue, ROW, headers={"model": "fake"}, reply_to="nobody.here")
    await finished(gateway, "result")
    assert gateway.metric("amqp_replies_total", outcome="unroutable") == 1
    assert await client.length(queue) == 0


async def test_a_full_reply_queue_is_tried_for_a_while_and_harms_no_other(
    start: Callable[..., Gateway], client: AmqpClient, queue: str
) -> None:
    full = await client.channel.declare_queue(
        f"{queue}.full", exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
    )
    gateway = await asyncio.to_thread(start, amqp={"reply_timeout_seconds": 0.5})
    await client.publish(queue, ROW, headers={"model": "fake"}, reply_to=full.name)
    await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id="other")
    assert (await client.answer())[0].correlation_id == "other"
    await finished(gateway, "result", 2)
    assert gateway.metric("amqp_replies_total", outcome="refused") == 1


async def test_a_queue_that_is_missing_or_another_is_reported(
    start: Callable[..., Gateway], client: AmqpClient, queue: str
) -> None:
    gateway = await asyncio.to_thread(start, ready=False, amqp={"declare": False})
    status = lambda: gateway.get("/readyz")  # noqa: E731
    await asyncio.to_thread(until, lambda: "missing" in status()[1], status)
    assert status()[0] == 503
    assert gateway.metric("amqp_ready") == 0
    declared = await client.channel.declare_queue(queue, auto_delete=True)
    await client.channel.declare_exchange(f"{queue}.dlx", "fanout", auto_delete=True)
    await asyncio.to_thread(gateway.wait_ready)
    await client.publish(queue, ROW, headers={"model": "fake"})
    assert (await client.answer())[1]["data"] == {"y": [1.0]}
    assert declared.name == queue


async def test_a_queue_that_is_deleted_is_declared_again(
    start: Callable[..., Gateway], client: AmqpClient, queue: str
) -> None:
    gateway = await asyncio.to_thread(start)
    made = gateway.metric("amqp_connections_total", connection="consumer")
    await client.channel.queue_delete(queue)
    await asyncio.to_thread(until, lambda: gateway.metric("amqp_connections_total", connection="consumer") > made)
    await client.publish(queue, ROW, headers={"model": "fake"})
    assert (await client.answer())[1]["data"] == {"y": [1.0]}


async def test_a_gateway_that_stops_finishes_what_it_has_and_leaves_the_rest(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, model: FakeModel
) -> None:
    gateway = await asyncio.to_thread(start, amqp={"prefetch": 2})
    model.open.clear()
    for number in range(4):
        await client.publish(queue, ROW, headers={"model": "fake"}, correlation_id=str(number))
    await asyncio.to_thread(until, lambda: gateway.metric("amqp_in_flight") == 2)
    stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
    await asyncio.to_thread(gateway.wait_for_message, "stopping")
    model.open.set()
    assert await stopping == 0
    assert {(await client.answer())[0].correlation_id for _ in range(2)} == {"0", "1"}
    assert await client.length(queue) == 2


async def test_with_rabbitmq_only_clients_have_the_direct_route(
    start: Callable[..., Gateway], client: AmqpClient, queue: str, connect: Connect, model: FakeModel
) -> None:
    gateway = await asyncio.to_thread(start, requests={"source": "amqp"}, limits={"max_direct_in_flight": 1})
    await client.publish(queue, ROW, headers={"model": "fake"})
    assert (await client.answer())[1]["data"] == {"y": [1.0]}
    session = await connect(gateway)
    await session.infer("queued", model="fake", data=[1, 2], route="queue")
    assert (await session.answer("queued"))["code"] == "invalid"
    model.open.clear()
    await session.infer("first", model="fake", data=[1, 2])
    await session.infer("second", model="fake", data=[1, 2])
    assert (await session.answer("second"))["code"] == "overloaded"
    model.open.set()
    assert (await session.answer("first"))["type"] == "result"


async def test_over_tls_with_the_address_and_certificates_from_files(
    rabbitmq: RabbitMQ, start: Callable[..., Gateway], client: AmqpClient, queue: str, tmp_path: Path
) -> None:
    made = rabbitmq.authority.issue("gateway")
    files = {
        "url": rabbitmq.tls_url,
        "ca": rabbitmq.authority.certificate,
        "certificate": made.certificate,
        "key": made.key,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    config = {f"{name}_file": str(tmp_path / name) for name in files}
    gateway = await asyncio.to_thread(start, amqp=config)
    await client.publish(queue, ROW, headers={"model": "fake"})
    assert (await client.answer())[1]["data"] == {"y": [1.0]}
    assert "guest:guest" not in "\n".join(gateway.lines)


async def test_a_broker_that_isnt_trusted_is_reported_without_secrets(
    rabbitmq: RabbitMQ, start: Callable[..., Gateway], tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_text(Authority("another").certificate)
    gateway = await asyncio.to_thread(start, ready=False, amqp={"url": rabbitmq.tls_url, "ca_file": str(other)})
    status = lambda: gateway.get("/readyz")  # noqa: E731
    await asyncio.to_thread(until, lambda: "CERTIFICATE_VERIFY_FAILED" in status()[1], status)
    assert "guest" not in status()[1]
    warnings = [record for record in gateway.log if "RabbitMQ can't be used (consumer)" in record["message"]]
    assert len(warnings) == 1


async def test_a_broker_that_is_away_is_no_reason_where_it_is_not_required(
    start: Callable[..., Gateway], connect: Connect, model: FakeModel
) -> None:
    away = {"url": f"amqp://127.0.0.1:{free_port()}/", "required_for_readiness": False}
    gateway = await asyncio.to_thread(start, amqp=away)
    assert "refused" in gateway.get("/readyz")[1].lower()
    session = await connect(gateway)
    await session.infer("direct", model="fake", data=[1, 2])
    assert (await session.answer("direct"))["type"] == "result"
