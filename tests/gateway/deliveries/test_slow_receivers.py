"""Receivers that are slow, away or refuse: what is for them comes once they can take it, and nobody else waits for them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from confluent_kafka import Producer

from gateway.deliveries.conftest import Publish, subscribe
from gateway.deliveries.receiver import SECRET, Hook, Receiver, hang
from harness.fleet import resident_mb
from harness.kafka import Broker
from harness.pair import Gateway
from harness.topics import TopicAdmin
from harness.waiting import soon
from podpair.gateway.core.deliveries.subscriptions import Subscription, encode_subscription

Start = Callable[..., Gateway]


def subscribe_many(broker: Broker, topic: str, urls: dict[str, str]) -> None:
    """Write subscriptions, url by session, to the topic, as gateways do."""
    producer = Producer({"bootstrap.servers": broker.address})
    for number, (session, url) in enumerate(urls.items()):
        name = f"sub_{number}"
        made = Subscription(name, "webhook", url, "session", session, "", 0, 1 << 50, secret=SECRET)
        producer.produce(f"{topic}.subscriptions", encode_subscription(made), name)
    assert producer.flush(30) == 0


async def test_a_receiver_that_hangs_holds_up_nobody(
    start: Start,
    broker: Broker,
    receiver: Receiver,
    bad_receiver: Receiver,
    publish: Publish,
    delivery_config: dict[str, Any],
) -> None:
    """400 subscriptions; those of the host that hangs have more deliveries than all places of the gateway."""
    bad_receiver.behave = hang
    gateway = start(deliveries={"timeout_seconds": 60, "in_flight": 64, "per_host": 4})
    urls = {f"s{number}": (receiver if number % 10 else bad_receiver).url for number in range(400)}
    subscribe_many(broker, delivery_config["deliveries"]["topic"], urls)
    await soon(lambda: gateway.metric("subscriptions") == 400)
    publish(list(urls), b"1", b"2")
    await receiver.has(720)
    assert set(receiver.counts().values()) == {360}
    assert len({hook.id for hook in receiver.taken}) == 720
    assert (bad_receiver.most_open, bad_receiver.taken) == (4, [])
    assert gateway.metric("deliveries_waiting") >= 80


async def test_a_receiver_that_is_down_gets_everything_once_it_is_back(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, bad_receiver: Receiver, publish: Publish
) -> None:
    gateway = start()
    await subscribe(http, gateway, receiver)
    await subscribe(http, gateway, bad_receiver, sid="t")
    await receiver.stop()
    publish("ann/s", *(b"%d" % number for number in range(50)))
    publish("ann/t", *(b"%d" % number for number in range(50)))
    await bad_receiver.has(50)
    await soon(lambda: gateway.metric("deliveries_circuit_open_seconds", host=receiver.url.split("/")[2]) > 0)
    assert gateway.metric("delivery_retries_total", reason="circuit") > 0
    await receiver.start()
    await receiver.has(50)
    assert sorted(receiver.data()) == list(range(50))
    await soon(lambda: gateway.metric("deliveries_circuit_open_seconds") == 0)
    await soon(lambda: gateway.metric("deliveries_waiting") == 0)
    assert gateway.metric("deliveries_total", outcome="delivered") == 100


async def test_errors_and_slow_answers_are_retried_with_the_same_id(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    async def behave(hook: Hook) -> web.Response | None:
        if hook.attempt == 1:
            return web.Response(status=(500, 502, 404, 302)[hook.event["data"]["data"] % 4])
        if hook.attempt == 2 and hook.event["data"]["data"] == 0:
            await hang(hook)
        return None

    receiver.behave = behave
    gateway = start(deliveries={"circuit_failures": 1000})
    await subscribe(http, gateway, receiver)
    publish("ann/s", *(b"%d" % number for number in range(20)))
    await receiver.has(20)
    assert sorted(receiver.data()) == list(range(20))
    assert len({hook.id for hook in receiver.seen}) == 20
    assert sorted(hook.attempt for hook in receiver.taken) == [2] * 19 + [3]


async def test_nobody_is_asked_again_sooner_than_they_say(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, bad_receiver: Receiver, publish: Publish
) -> None:
    async def behave(hook: Hook) -> web.Response | None:
        return web.Response(status=429, headers={"Retry-After": "2"}) if hook.attempt == 1 else None

    bad_receiver.behave = behave
    gateway = start()
    await subscribe(http, gateway, receiver, sid="t")
    await subscribe(http, gateway, bad_receiver)
    publish("ann/s", b"1", b"2")
    publish("ann/t", b"3")
    await receiver.has(1)
    await bad_receiver.has(2)
    first, second = (
        {hook.id: hook.time for hook in bad_receiver.seen if hook.attempt == attempt} for attempt in (1, 2)
    )
    assert all(second[name] - first[name] >= 2 for name in first)
    assert gateway.metric("deliveries_circuit_open_seconds") == 0  # to be busy is no failure of a host


async def test_what_waits_survives_restarts_and_the_end_of_the_results_topic(
    start: Start,
    http: aiohttp.ClientSession,
    broker: Broker,
    receiver: Receiver,
    publish: Publish,
    names: dict[str, Any],
) -> None:
    gateway = start()
    await subscribe(http, gateway, receiver)
    await subscribe(http, gateway, receiver, ordered=True)
    await receiver.stop()
    publish("ann/s", *(b"%d" % number for number in range(20)))
    await soon(lambda: gateway.metric("delivery_retries_total") >= 20)
    assert gateway.stop() == 0
    admin = TopicAdmin(broker.address)
    for partition in range(8):
        admin.cut(names["results"]["topic"], partition, -1)
    gateway = start()
    await receiver.start()
    await receiver.has(40)
    assert set(receiver.counts().values()) == {2}
    await soon(lambda: gateway.metric("deliveries_waiting") == 0)
    assert len(receiver.taken) == 40


@pytest.mark.slow
async def test_what_waits_takes_little_memory(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, bad_receiver: Receiver, publish: Publish
) -> None:
    bad_receiver.behave = hang
    gateway = start(deliveries={"retry_seconds": [0.3, 600]})
    await subscribe(http, gateway, receiver, sid="t")
    await subscribe(http, gateway, bad_receiver)
    before = resident_mb(gateway) or 0
    value = b'"%b"' % (b"x" * 50_000)
    for _ in range(40):  # 200 MB
        await asyncio.to_thread(publish, "ann/s", *([value] * 100))
    publish("ann/t", b"1")
    await receiver.has(1)
    await soon(lambda: gateway.metric("deliveries_waiting") >= 3900)
    await soon(lambda: gateway.metric("delivery_retries_total") >= 4000)
    grown = (resident_mb(gateway) or 0) - before
    assert grown < 150


async def test_many_for_one_receiver_that_works_are_soon_there(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    """More than wait here: what is put off for that is no failure, and its waits don't grow."""
    gateway = start(deliveries={"per_host": 2, "retry_seconds": [0.3, 600]})
    await subscribe(http, gateway, receiver)
    began = time.monotonic()
    publish("ann/s", *(b"%d" % number for number in range(600)))
    await receiver.has(600)
    assert len(receiver.taken) == 600
    assert gateway.metric("delivery_retries_total", reason="crowded") > 0
    assert time.monotonic() - began < 60
