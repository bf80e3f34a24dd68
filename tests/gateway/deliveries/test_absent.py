"""Subscriptions for those who are away: what a client has received is not delivered to it a second time."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Connect
from gateway.deliveries.conftest import Publish, subscribe
from gateway.deliveries.receiver import Receiver
from gateway.deliveries.test_subscriptions import ask
from harness.pair import Gateway
from harness.waiting import soon
from podpair.gateway.core.deliveries.receipts import Receipt, Receipts, encode_receipt
from podpair.gateway.sessions.socket_queue import is_acknowledged

Start = Callable[..., Gateway]
ABSENT = {"when": "absent"}


def test_a_receipt_covers_what_one_connection_was_given() -> None:
    receipts = Receipts()
    for begin, end in ((4, 7), (4, 9), (20, 25)):
        assert receipts.apply("a/s", encode_receipt(Receipt("t", 3, begin, end)))
    covered = [offset for offset in range(30) if receipts.covers("a/s", "t", 3, offset)]
    assert covered == [5, 6, 7, 8, 9, 21, 22, 23, 24, 25]
    assert not receipts.covers("a/s", "other", 3, 5)
    assert not receipts.covers("a/s", "t", 2, 5)
    assert not receipts.covers("b/s", "t", 3, 5)
    assert not receipts.apply("a/s", b"{")
    assert receipts.apply("a/s", None)
    assert (receipts.covers("a/s", "t", 3, 5), receipts.sessions()) == (False, [])


def test_receipts_of_a_session_that_connects_all_the_time_are_bounded() -> None:
    receipts = Receipts()
    for number in range(1000):
        receipts.apply("a/s", encode_receipt(Receipt("t", 0, 10 * number, 10 * number + 5)))
    assert sum(receipts.covers("a/s", "t", 0, offset) for offset in range(10_000)) == 8 * 5


async def test_what_the_other_machine_has_not_taken_is_not_acknowledged() -> None:
    """Its buffers are full, as when its network is gone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, writer = await asyncio.open_connection(*server.getsockname())
        client, _ = server.accept()
        writer.write(b"x")
        await soon(lambda: is_acknowledged(writer.transport))
        writer.write(b"x" * 20_000_000)
        await asyncio.sleep(0)
        assert not is_acknowledged(writer.transport)
        client.close()
        writer.transport.abort()
        assert not is_acknowledged(writer.transport)


async def test_who_is_away_is_told_once_and_who_is_there_is_not(
    start: Start, http: aiohttp.ClientSession, connect: Connect, receiver: Receiver, publish: Publish
) -> None:
    gateways = [start(deliveries={"absent_seconds": 3}) for _ in range(2)]  # whichever delivers, both know
    for sub in ("ann", "bob"):
        await subscribe(http, gateways[0], receiver, sub=sub, **ABSENT)
    client = await connect(gateways[1], sub="ann", sid="s")
    publish(["ann/s", "bob/s"], b"1")
    assert (await client.event("push"))["data"] == 1
    await receiver.has(1)
    await soon(lambda: sum(one.metric("deliveries_total", outcome="received") for one in gateways) == 1)
    assert [(hook.event["session"], hook.event["data"]["data"]) for hook in receiver.taken] == [("bob/s", 1)]
    await client.socket.close()
    publish("ann/s", b"2")
    await receiver.has(2)
    again = await connect(gateways[0], sub="ann", sid="s")  # without a position: it is not given what came before
    publish("ann/s", b"3")
    assert (await again.event("push"))["data"] == 3
    await soon(lambda: sum(one.metric("deliveries_total", outcome="received") for one in gateways) == 2)
    assert receiver.data() == [1, 2]


@pytest.mark.parametrize("members", [{"ordered": True}, {"scope": "subject"}])
async def test_what_can_not_be_for_who_is_away(
    start: Start, http: aiohttp.ClientSession, members: dict[str, Any]
) -> None:
    status, answer = await ask(http, start(), **ABSENT, **members)
    assert (status, answer["error"]["code"]) == (400, "invalid")
    assert "when" in answer["error"]["message"]
