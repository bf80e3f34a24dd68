"""Results, errors and pushes reach the webhooks that are subscribed, signed, once, in order where that is asked for."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web
from confluent_kafka import Consumer

from gateway.conftest import Connect
from gateway.deliveries.conftest import Publish, subscribe
from gateway.deliveries.receiver import Hook, Receiver
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.waiting import soon

Start = Callable[..., Gateway]


async def test_a_result_reaches_a_webhook(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, connect: Connect
) -> None:
    gateway = start()
    await subscribe(http, gateway, receiver, sub="ann", sid="s")
    client = await connect(gateway, sub="ann", sid="s")
    await client.infer("q", model="fake", data=[1.0, 2.0], route="queue")
    assert (await client.answer("q"))["type"] == "result"
    await receiver.has(1)
    event = receiver.taken[0].event
    assert (event["type"], event["session"], event["data"]["type"], event["data"]["id"]) == (
        "podpair.result", "ann/s", "result", "q",
    )  # fmt: skip
    await soon(lambda: gateway.metric("deliveries_total", kind="webhook", outcome="delivered") == 1)


async def test_each_event_comes_once_with_an_id_of_its_own(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    gateways = [start(), start()]
    await subscribe(http, gateways[0], receiver)
    await soon(lambda: [gateway.metric("subscriptions") for gateway in gateways] == [1, 1])
    publish("ann/s", *(b"%d" % number for number in range(200)))
    publish("bob/s", b"7")
    await receiver.has(200)
    assert set(receiver.counts().values()) == {1}
    assert len({hook.id for hook in receiver.taken}) == 200
    assert gateways[0].stop() == gateways[1].stop() == 0
    assert len(receiver.taken) == 200


async def test_events_from_before_are_not_delivered(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    gateway = start()
    publish("ann/s", b"1")
    await asyncio.sleep(0.01)  # timestamps are in milliseconds
    await subscribe(http, gateway, receiver)
    publish("ann/s", b"2")
    await receiver.has(1)
    assert receiver.data() == [2]


async def test_all_sessions_of_a_subject_and_what_comes_for_the_user(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    gateway = start()
    await subscribe(http, gateway, receiver, sub="ann", scope="subject")
    for key in ("ann/a", "ann/b", "user:ann", "anna/a", "bob/ann", "user:anna"):
        publish(key, json.dumps(key).encode())
    await receiver.has(3)
    assert sorted(receiver.data()) == ["ann/a", "ann/b", "user:ann"]


async def test_only_the_events_and_models_that_are_asked_for(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    gateway = start()
    await subscribe(http, gateway, receiver, events=["result"], models=["a"])

    def answer(kind: str, value: dict[str, Any]) -> None:
        headers = {"ce_specversion": b"1.0", "ce_id": b"1", "ce_type": b"dev.podpair." + kind.encode()}
        publish("ann/s", json.dumps(value).encode(), headers=headers)

    answer("result", {"model": "b", "data": 1})
    answer("error", {"code": "internal", "message": "no"})
    answer("partial", {"data": 1})
    publish("ann/s", b"1")
    answer("result", {"model": "a", "data": 2})
    await receiver.has(1)
    assert [hook.event["data"]["model"] for hook in receiver.taken] == ["a"]


async def test_order_is_kept_where_it_is_asked_for(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    failures = {3: 2, 4: 1, 50: 1}

    async def behave(hook: Hook) -> web.Response | None:
        number = hook.event["data"]["data"]
        return web.Response(status=500) if hook.attempt <= failures.get(number, 0) else None

    receiver.behave = behave
    gateway = start()
    await subscribe(http, gateway, receiver, ordered=True)
    await subscribe(http, gateway, receiver, sid="t", ordered=True)
    publish("ann/s", *(b"%d" % number for number in range(60)))
    publish("ann/t", *(b"%d" % number for number in range(100, 110)))
    await receiver.has(70)
    data = receiver.data()
    assert [number for number in data if number < 100] == list(range(60))
    assert [number for number in data if number >= 100] == list(range(100, 110))
    assert data.index(109) < data.index(3)  # which did not wait for the other session's


async def test_what_is_too_old_becomes_a_dead_letter(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish, broker: Broker, names: dict[str, Any],
    delivery_config: dict[str, Any],
) -> None:  # fmt: skip
    async def behave(_: Hook) -> web.Response:
        return web.Response(status=500)

    receiver.behave = behave
    gateway = start(deliveries={"max_age_seconds": 20, "retry_seconds": [0.1, 0.2, 60], "circuit_failures": 100})
    await subscribe(http, gateway, receiver)
    publish("ann/s", b'"kept"')
    await soon(lambda: gateway.metric("deliveries_total", outcome="failed") == 1)
    assert len(receiver.seen) == 3
    assert len({hook.id for hook in receiver.seen}) == 1
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "look", "auto.offset.reset": "earliest"})
    consumer.subscribe([delivery_config["deliveries"]["topic"] + ".dlq"])
    letter = await asyncio.to_thread(consumer.poll, 30)
    consumer.close()
    assert letter is not None
    headers = dict(letter.headers() or ())
    assert headers["dead_reason"] == b"status: status 500"
    assert headers["delivery_id"].decode() == receiver.seen[0].id
    assert json.loads(letter.value() or b"")["data"]["data"] == "kept"


async def test_who_unsubscribes_gets_nothing_more(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, bad_receiver: Receiver, publish: Publish
) -> None:
    async def behave(_: Hook) -> web.Response:
        return web.Response(status=500)

    bad_receiver.behave = behave
    gateway = start(deliveries={"retry_seconds": [1]})
    await subscribe(http, gateway, receiver)
    gone = await subscribe(http, gateway, bad_receiver)
    publish("ann/s", b"1")
    await receiver.has(1)
    await soon(lambda: gateway.metric("delivery_retries_total", reason="status") == 1)
    headers = {"Authorization": f"Bearer {token('ann', sid='s')}"}
    async with http.delete(f"{gateway.url}/v1/subscriptions/{gone['id']}", headers=headers) as answer:
        assert answer.status == 204
    publish("ann/s", b"2")
    await receiver.has(2)
    await soon(lambda: gateway.metric("deliveries_total", outcome="unsubscribed") == 1)
    assert len(bad_receiver.seen) == 1


async def test_a_redirect_is_not_followed(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, bad_receiver: Receiver, publish: Publish
) -> None:
    async def behave(hook: Hook) -> web.Response | None:
        return web.Response(status=307, headers={"Location": receiver.url}) if hook.attempt == 1 else None

    bad_receiver.behave = behave
    gateway = start()
    await subscribe(http, gateway, bad_receiver)
    publish("ann/s", b"1")
    await bad_receiver.has(1)
    assert (receiver.seen, len(bad_receiver.seen)) == ([], 2)


async def test_a_receiver_that_is_gone_for_good(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    async def behave(_: Hook) -> web.Response:
        return web.Response(status=410)

    receiver.behave = behave
    gateway = start()
    await subscribe(http, gateway, receiver)
    publish("ann/s", b"1")
    await soon(lambda: gateway.metric("deliveries_total", outcome="failed") == 1)
    assert len(receiver.seen) == 1
