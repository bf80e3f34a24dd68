"""An id that is asked again gets the answer that it had, and the model does not see it a second time."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Producer

from gateway.conftest import PATIENCE, Client, Connect, kafka_of, resuming
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.waiting import soon

XY = [1.0, 2.0]


async def ask(client: Client, request_id: str, **members: Any) -> None:
    await client.infer(request_id, **{"model": "fake", "data": XY, **members})


def without_position(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "position"}


def times(model: FakeModel, request_id: str) -> int:
    return [asked["id"] for asked in model.asked].count(request_id)


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_the_same_answer_and_no_second_run(
    before_model: Gateway, model: FakeModel, connect: Connect, route: str, retry: bool
) -> None:
    client = await connect(before_model)
    await ask(client, "twice", route=route)
    first = await client.answer("twice")
    model.answer = (500, {"error": "it was asked again"})
    repeated = before_model.metric("requests_repeated_total")
    for _ in range(3):
        await ask(client, "twice", route=route, retry=retry)
        # Whichever way the first went: this answer comes no second time by itself.
        assert (await client.event("accepted", id="twice"))["route"] == "direct"
        again = await client.answer("twice")
        assert again == without_position(first)  # which it has had
    assert times(model, "twice") == 1
    assert before_model.metric("requests_repeated_total") == repeated + 3


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_an_error_is_an_answer_too(before_model: Gateway, model: FakeModel, connect: Connect, route: str) -> None:
    model.answer = (400, {"error": "bad shape"})
    client = await connect(before_model)
    await ask(client, "bad", route=route)
    first = await client.answer("bad")
    model.reset()
    await ask(client, "bad", route=route)
    assert await client.answer("bad") == without_position(first)
    assert first["code"] == "invalid"


async def test_one_that_was_refused_for_want_of_room_may_be_asked_again(
    before_model: Gateway, model: FakeModel, connect: Connect
) -> None:
    model.answer = (429, {"error": "full"})
    client = await connect(before_model)
    await ask(client, "full", route="direct")
    assert (await client.answer("full"))["code"] == "overloaded"
    model.reset()
    await ask(client, "full", route="direct")
    assert (await client.answer("full"))["type"] == "result"


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_after_a_cut(before_model: Gateway, model: FakeModel, connect: Connect, route: str) -> None:
    """The answer was on the wire: the gateway has sent it, and the client comes back not knowing."""
    first = await connect(before_model)
    await ask(first, "cut", route=route)
    answer = await first.answer("cut")
    connected = before_model.metric("sessions")
    first.socket._response.connection.transport.abort()  # type: ignore[union-attr]
    await soon(lambda: before_model.metric("sessions") < connected)
    second = await connect(before_model, params=resuming(first, answer.get("position")))
    await ask(second, "cut", route=route, retry=True)
    assert without_position(await second.answer("cut")) == without_position(answer)
    assert times(model, "cut") == 1


async def test_another_user_with_that_session_s_id_is_told_nothing(
    before_model: Gateway, model: FakeModel, connect: Connect
) -> None:
    first = await connect(before_model, sid="handed-on", sub="ann")
    await ask(first, "secret", route="direct")
    await first.answer("secret")
    connected = before_model.metric("sessions")
    await first.socket.close()
    await soon(lambda: before_model.metric("sessions") < connected)
    second = await connect(before_model, sid="handed-on", sub="bob")
    await ask(second, "secret", route="direct")
    await second.answer("secret")
    assert times(model, "secret") == 2


async def test_an_answer_that_went_to_kafka_while_another_still_ran_is_delivered_from_there(
    before_model: Gateway, model: FakeModel, connect: Connect
) -> None:
    """The session stays at this gateway, which has ended the request and yet must not take the record for a second copy."""
    model.open.clear()
    first = await connect(before_model)
    for name in ("a", "b"):
        await ask(first, name, route="direct")
        await first.event("accepted", id=name)
    connected = before_model.metric("sessions")
    written = before_model.metric("records_written_total", topic="podpair.results")
    await first.socket.close()
    await soon(lambda: before_model.metric("sessions") < connected)
    model.open.set()
    await soon(lambda: before_model.metric("records_written_total", topic="podpair.results") >= written + 2)
    model.open.clear()
    second = await connect(before_model, params=resuming(first))
    async with asyncio.timeout(PATIENCE):
        assert {(await second.event("result"))["id"] for _ in range(2)} == {"a", "b"}
    model.open.set()


async def test_over_plain_http(
    before_model: Gateway, model: FakeModel, connect: Connect, http: aiohttp.ClientSession
) -> None:
    client = await connect(before_model, sid="posting-twice")
    body = {"id": "posted", "model": "fake", "data": XY, "route": "queue"}
    bearer = {"Authorization": f"Bearer {token(sid='posting-twice')}"}
    answers = []
    for _ in range(2):
        async with http.post(before_model.url + "/v1/infer", json=body, headers=bearer) as response:
            assert response.status == 202
        answers.append(without_position(await client.answer("posted")))
    assert answers[0] == answers[1]
    assert times(model, "posted") == 1


async def test_a_record_that_is_queued_twice_is_asked_once_and_answered_twice(
    before_model: Gateway, model: FakeModel, connect: Connect
) -> None:
    """As by a client that never heard that its first one was accepted. Nobody here has it open: the topic has two answers."""
    model.open.clear()
    client = await connect(before_model)
    session = client.welcome["session"]
    headers = {"ce_id": "queued", "ce_subject": session, "model": "fake"}
    finished = before_model.metric("queue_requests_total")
    producer = Producer({"bootstrap.servers": kafka_of(before_model)})
    for partition in (0, 1, 1):
        producer.produce("podpair.requests", b'{"data":[1,2]}', headers=headers, partition=partition)
    assert producer.flush(15) == 0
    await soon(lambda: times(model, "queued"))
    model.open.set()
    assert (await client.answer("queued"))["type"] == "result"
    await soon(lambda: before_model.metric("queue_requests_total") >= finished + 3)
    await soon(lambda: before_model.metric("queue_requests_total", outcome="repeated") >= 2)
    assert times(model, "queued") == 1
    await ask(client, "after")
    await client.answer("after")
    assert [event for event in client.skipped if event["type"] == "result"] == []


async def test_an_answer_that_was_lost_on_its_way_does_not_keep_back_the_one_in_the_log(
    real_gateway: Callable[..., Gateway], connect: Connect
) -> None:
    """Its client never got it, asked again at another gateway, and came back before that had answered."""
    one, two = real_gateway(), real_gateway()
    first = await connect(one)
    await first.infer("lost", route="direct")
    await first.answer("lost")
    await first.socket.close()
    second = await connect(two, params=resuming(first))
    await second.infer("lost", route="queue", retry=True)
    answer = await second.answer("lost")
    await second.socket.close()
    third = await connect(one, params=resuming(first))
    assert await third.answer("lost") == answer


async def test_at_another_gateway_a_queued_answer_is_found_in_the_log(
    real_gateway: Callable[..., Gateway], connect: Connect
) -> None:
    one, two = real_gateway(), real_gateway()
    first = await connect(one)
    await first.infer("moved", route="queue")
    answer = await first.answer("moved")
    second = await connect(two, params=resuming(first))
    assert await second.answer("moved") == answer
    await second.infer("moved", route="queue", retry=True)
    assert await second.answer("moved") == without_position(answer)
    # An answer may be read before the gateway that wrote it hears that the broker has it.
    await soon(lambda: sum(gateway.metric("queue_requests_total") for gateway in (one, two)) == 1)


async def test_one_that_goes_on_through_kafka_is_not_accepted_there_before_its_record_is(
    real_gateway: Callable[..., Gateway], model: FakeModel, connect: Connect, broker: Broker
) -> None:
    """Its client had it as direct. If it were accepted as queued, and the gateway died then, nobody would know of it."""
    gateway = real_gateway(inference={"url": model.url, "probe_seconds": 30})
    model.open.clear()
    first = await connect(gateway)
    xy = [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [13.0, 2.0]}]
    await first.infer("spills", route="auto", data=None, inputs=xy)
    assert (await first.event("accepted", id="spills"))["route"] == "direct"
    spilled = gateway.metric("spilled_total")
    broker.child.process.send_signal(signal.SIGSTOP)
    try:
        model.dies_of = 13.0
        model.open.set()
        await soon(lambda: gateway.metric("spilled_total") > spilled)
        first.socket._response.connection.transport.abort()  # type: ignore[union-attr]
        second = await connect(gateway, params=resuming(first))
        await second.infer("spills", route="auto", data=None, inputs=xy, retry=True)
        await second.infer("unknown", route="direct", model="no such model", data=None, inputs=xy)
        await second.event("error", id="unknown")
        assert "spills" not in {event.get("id") for event in second.skipped}
        model.dies_of = None
    finally:
        broker.child.process.send_signal(signal.SIGCONT)
    assert (await second.event("accepted", id="spills"))["route"] == "queue"
    assert (await second.answer("spills"))["type"] == "result"
