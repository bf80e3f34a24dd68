"""How connections end, and that their client is told why."""

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.conftest import PATIENCE, ROW, UPGRADE, Connect, Refusal, kafka_of, resuming
from gateway.fake_model import FakeModel
from harness.pair import Gateway, token
from harness.waiting import soon


@pytest.fixture
def fresh(start_gateway: Callable[..., Gateway], model: FakeModel) -> Callable[..., Gateway]:
    """`fresh(section={…})`: a gateway of the test's own, before `model`."""

    def start(**config: Any) -> Gateway:
        gateway = start_gateway({"kafka": {"embedded": True}, "inference": {"url": model.url}} | config)
        gateway.wait_ready()
        return gateway

    return start


async def test_a_newer_connection_takes_over(pair: Gateway, connect: Connect, push: Any) -> None:
    first = await connect(pair, sid="taken")
    second = await connect(pair, sid="taken")
    assert await first.closed() == 4009
    push(kafka_of(pair), "user/taken", b"1")
    assert (await second.event("push"))["data"] == 1
    assert first.skipped == []


async def test_a_resume_token_takes_over_too(pair: Gateway, connect: Connect) -> None:
    first = await connect(pair)
    second = await connect(pair, params=resuming(first))
    assert await first.closed() == 4009
    assert second.welcome["resumed"] is True
    assert second.welcome["session"] == first.welcome["session"]
    await second.lives()


async def test_clients_that_leave_while_they_are_let_in_are_nothing_to_tell_of(fresh: Callable[..., Gateway]) -> None:
    gateway = fresh()
    host, port = gateway.url.removeprefix("http://").split(":")
    head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    for number in range(50):
        bearer = f"Authorization: Bearer {token(f'gone-{number}')}\r\n"
        with socket.create_connection((host, int(port))) as wire:
            wire.sendall(f"GET /v1/ws HTTP/1.1\r\nHost: {host}\r\n{bearer}{head}\r\n".encode())
    assert await asyncio.to_thread(gateway.stop) == 0
    assert [record for record in gateway.log if "exc_info" in record] == []


async def test_an_idle_connection_is_closed_with_3001(
    fresh: Callable[..., Gateway], connect: Connect, push: Any
) -> None:
    gateway = fresh(sessions={"idle_seconds": 2})
    idle, asking, receiving = [await connect(gateway, sid=name) for name in ("idle", "asking", "receiving")]
    closing = asyncio.create_task(idle.closed())
    number = 0
    while not closing.done():
        number += 1
        await asking.infer(f"r{number}", model="fake", data=[1, 2])
        push(kafka_of(gateway), "user/receiving", b"1")
        await asyncio.gather(asking.answer(f"r{number}"), receiving.event("push"))
    assert closing.result() == 3001
    for client in (asking, receiving):
        assert not client.socket.closed
        await client.infer("last", model="fake", data=[1, 2])
        assert (await client.answer("last"))["type"] == "result"


async def test_an_expired_token_closes_with_4001_unless_it_was_refreshed(
    fresh: Callable[..., Gateway], connect: Connect
) -> None:
    gateway = fresh(sessions={"expiry_jitter_seconds": 0}, auth={"leeway_seconds": 0})
    expires = int(time.time()) + 12  # time enough for a busy machine to connect three
    expiring, refreshed, refused = [await connect(gateway, sid=s, exp=expires) for s in ("a", "b", "c")]
    later = int(time.time()) + 3600
    await refreshed.send({"type": "refresh", "token": token(exp=later)})
    welcome = await refreshed.event("welcome")
    assert welcome["expires_at"] == later
    assert welcome["session"] == "user/b"
    (before, start), (after, now) = (one["position"].rsplit(".", 1) for one in (refreshed.welcome, welcome))
    assert (after, int(now) >= int(start)) == (before, True)  # what others write moves it
    await refused.send({"type": "refresh", "token": token("mallory", exp=later)})
    error = await refused.event("error")
    assert (error["code"], error["message"]) == ("unauthorized", "the new token is another user's")
    assert await expiring.closed() == 4001
    assert await refused.closed() == 4001
    assert time.time() >= expires
    await refreshed.infer("r", model="fake", data=[1, 2])
    assert (await refreshed.answer("r"))["type"] == "result"
    await asyncio.to_thread(gateway.wait_for, lambda line: '"token expired"' in line and '"session": "user/a"' in line)
    (record,) = [r for r in gateway.log if r["message"] == "token expired" and r["session"] == "user/a"]
    assert record["level"] == "INFO"


async def test_a_newer_token_is_for_the_same_session(before_model: Gateway, connect: Connect) -> None:
    client = await connect(before_model, sid="own")
    taken = before_model.metric("tokens_refreshed_total", outcome="accepted")
    await client.send({"type": "refresh", "token": token(sid="another")})
    error = await client.event("error")
    assert (error["code"], error["message"]) == ("unauthorized", "the new token is for another session (claim sid)")
    await client.send({"type": "refresh", "token": token(sid="own")})
    assert (await client.event("welcome"))["session"] == "user/own"
    assert before_model.metric("tokens_refreshed_total", outcome="accepted") == taken + 1
    assert before_model.metric("tokens_refreshed_total", outcome="rejected") >= 1


async def test_there_is_room_for_so_many_sessions(
    fresh: Callable[..., Gateway], connect: Connect, refused: Callable[..., Awaitable[Refusal]],
    http: aiohttp.ClientSession,
) -> None:  # fmt: skip
    gateway = fresh(limits={"sessions": 2})
    first, second = await connect(gateway), await connect(gateway)
    good = {"Authorization": f"Bearer {token()}"}
    status, error, headers = await refused(gateway, good)
    assert (status, error["code"]) == (503, "overloaded")
    assert error["message"] == "2 sessions are connected (limits.sessions)"
    assert int(headers["Retry-After"]) >= 1
    async with http.get(gateway.url + "/v1/events", headers=good) as answer:
        assert answer.status == 503
    await second.socket.close()
    await soon(lambda: gateway.metric("sessions") <= 1)
    third = await connect(gateway)
    for client in (first, third):
        await client.infer("r", model="fake", data=[1, 2])
        assert (await client.answer("r"))["type"] == "result"


async def test_sigterm_ends_the_work_in_hand_and_tells_everyone(
    fresh: Callable[..., Gateway], model: FakeModel, connect: Connect
) -> None:
    gateway = fresh()
    client = await connect(gateway)
    model.open.clear()
    for route in ("direct", "queue"):
        await client.infer(route, model="fake", data=[1, 2], route=route)
        await client.event("accepted", id=route)
    await soon(lambda: len(model.asked) == 2)
    gateway.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(gateway.wait_for_message, "stopping")
    model.open.set()
    assert await client.closed() == 1012
    status = await asyncio.to_thread(gateway.stop)
    assert status == 0
    assert [r["message"] for r in gateway.log if r["level"] in ("ERROR", "CRITICAL")] == []
    answered = {event["id"] for event in client.skipped if event["type"] == "result"}
    assert answered == {"direct", "queue"}


async def test_an_event_stream_ends_at_sigterm_too(fresh: Callable[..., Gateway], http: aiohttp.ClientSession) -> None:
    gateway = fresh()
    async with http.get(gateway.url + "/v1/events", headers={"Authorization": f"Bearer {token()}"}) as answer:
        assert (await answer.content.readline()).startswith(b"id: ")
        stopped = asyncio.create_task(asyncio.to_thread(gateway.stop))
        async with asyncio.timeout(PATIENCE):
            await answer.content.read()
    assert await stopped == 0


async def test_the_welcome_is_first_whatever_the_session_is_being_told(
    pair: Gateway, connect: Connect, http: aiohttp.ClientSession
) -> None:
    """A client that comes back to a place which only the broker can judge, while requests of its session are answered."""
    first = await connect(pair, sid="busy")
    epoch, partition, _ = first.welcome["position"].split(".")
    headers = {"Authorization": f"Bearer {token(sid='busy')}"}
    ended = False

    async def keep_asking(name: str) -> None:
        number = 0
        while not ended:
            number += 1
            body = {"id": f"{name}{number}", "model": "digits", "data": ROW, "route": "direct"}
            async with http.post(pair.url + "/v1/infer", json=body, headers=headers) as answer:
                assert answer.status == 202

    asking = [asyncio.create_task(keep_asking(name)) for name in "abcd"]
    for _ in range(15):
        await connect(pair, sid="busy", params=resuming(first, f"{epoch}.{partition}.{10**15}"))  # asserts the welcome
    ended = True
    await asyncio.gather(*asking)
