"""A session is one user's and one connection's, whichever gateways are come to."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gateway.conftest import PATIENCE, ROW, UPGRADE, Client, Connect, resuming
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.topics import TopicAdmin
from harness.waiting import soon
from podpair.client import TakenOver
from podpair.client import connect as connect_client


@pytest.fixture
def two(real_gateway: Callable[..., Gateway]) -> list[Gateway]:
    """Two gateways on the same topics."""
    return [real_gateway(), real_gateway()]


async def test_users_with_the_same_claim_at_two_gateways_have_sessions_of_their_own(
    two: list[Gateway], connect: Connect, push: Any, broker: Broker, names: Any
) -> None:
    ann = await connect(two[0], sub="ann", sid="tab")
    bob = await connect(two[1], sub="bob", sid="tab")
    assert (ann.welcome["session"], bob.welcome["session"]) == ("ann/tab", "bob/tab")
    topic = names["results"]["topic"]
    push(broker.address, "tab", b'"nobody\'s"', topic=topic)
    push(broker.address, "ann/tab", b'"for ann"', topic=topic)
    push(broker.address, "bob/tab", b'"for bob"', topic=topic)
    await ann.infer("r", route="queue")
    await bob.infer("r", route="queue")
    for client, said in ((ann, "for ann"), (bob, "for bob")):
        assert (await client.event("push"))["data"] == said
        assert (await client.answer("r"))["type"] == "result"
        await client.lives()
        pushes = [event for event in client.skipped if event["type"] == "push"]
        assert pushes == []


@pytest.mark.parametrize("kind", ["minted", "claimed", "claimed, resumed"])
async def test_a_session_that_goes_on_elsewhere_ends_where_it_was(
    two: list[Gateway], connect: Connect, push: Any, broker: Broker, names: Any, kind: str
) -> None:
    claims = {} if kind == "minted" else {"sid": "moves"}
    first = await connect(two[0], **claims)
    second = await connect(two[1], params={} if kind == "claimed" else resuming(first), **claims)
    assert await first.closed() == 4009
    third = await connect(two[0], params={} if kind == "claimed" else resuming(second), **claims)
    assert await second.closed() == 4009
    push(broker.address, third.welcome["session"], b'"still here"', topic=names["results"]["topic"])
    assert (await third.event("push"))["data"] == "still here"
    await third.lives()
    # What it is made with is nobody's event.
    assert [e["type"] for c in (first, second, third) for e in c.skipped if e["type"] != "accepted"] == []


async def test_announcements_that_are_read_again_end_nobody(
    two: list[Gateway], connect: Connect, push: Any, broker: Broker, names: Any
) -> None:
    """A client comes back to the very first place: behind it all announcements of its session stand."""
    client = await connect(two[0], sid="again")
    place = client.welcome["position"]
    for number in range(6):
        push(broker.address, "user/again", b"%d" % number, topic=names["results"]["topic"])
        before, client = client, await connect(two[number % 2], sid="again", params=resuming(client, place))
        assert await before.closed() == 4009
    assert [(await client.event("push"))["data"] for _ in range(6)] == list(range(6))
    await client.lives()


async def test_a_client_that_reads_nothing_is_told_too(
    two: list[Gateway], connect: Connect, broker: Broker, names: Any, push: Any
) -> None:
    """Its session is not live: it has to catch up, and does not."""
    first = await connect(two[0], sid="stuck")
    connection = first.socket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.pause_reading()
    for _ in range(10):
        push(broker.address, "user/stuck", b'"%b"' % (b"x" * 900_000), topic=names["results"]["topic"])
    await soon(lambda: two[0].metric("slow_consumer_total") >= 1)
    second = await connect(two[1], sid="stuck")
    await soon(lambda: two[0].metric("sessions_closed_total", reason="replaced") == 1)
    connection.transport.resume_reading()
    assert await first.closed() == 4009
    await second.lives()


@pytest.mark.parametrize("form", ["raw", "events"])
async def test_every_kind_of_connection_lets_go(
    two: list[Gateway], connect: Connect, http: aiohttp.ClientSession, form: str
) -> None:
    if form == "raw":
        raw = await connect(two[0], sid="raw", raw=True)
        await connect(two[1], sid="raw")
        message = await raw.frame()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4009)
        return
    headers = {"Authorization": f"Bearer {token(sid='sse')}"}
    async with http.get(two[0].url + "/v1/events", headers=headers) as events:
        assert b"welcome" in await events.content.readuntil(b"\n\n")
        second = await connect(two[1], sid="sse")
        async with asyncio.timeout(PATIENCE):
            end = await events.content.read()
        assert end.startswith(b"id: taken-over\nevent: close\ndata: ")
        assert b'"code":4009' in end
        assert end.count(b"\n\n") == 1
        await second.lives()


async def test_what_was_asked_where_it_was_is_answered_where_it_is(
    real_gateway: Callable[..., Gateway], model: FakeModel, connect: Connect
) -> None:
    old, new = [real_gateway(inference={"url": model.url, "probe_seconds": 0.1}) for _ in range(2)]
    first = await connect(old)
    model.open.clear()
    await first.infer("stays", model="fake", data=[1.0, 2.0], route="direct")
    await first.event("accepted", id="stays")
    await first.infer("goes", model="fake", data=[1.0, 2.0], route="direct", on_disconnect="cancel")
    await first.event("accepted", id="goes")
    second = await connect(new, params=resuming(first))
    assert await first.closed() == 4009
    assert (await second.answer("goes"))["code"] == "cancelled"
    model.open.set()
    assert (await second.answer("stays"))["type"] == "result"


async def test_an_older_resume_token_makes_the_newest_connection_too(two: list[Gateway], connect: Connect) -> None:
    """A page that was restored from a copy, or whose store missed the last welcome."""
    first = await connect(two[0])
    second = await connect(two[1], params=resuming(first))
    assert await first.closed() == 4009
    third = await connect(two[1], params=resuming(second))
    assert await second.closed() == 4009
    for older in (first, second, first):
        newest = await connect(two[0], params=resuming(older))
        assert await third.closed() == 4009
        await newest.lives()
        third = await connect(two[1], params=resuming(older))
        assert await newest.closed() == 4009
    await third.lives()


async def test_a_client_that_is_cut_before_its_welcome_keeps_the_connection_that_it_has(
    two: list[Gateway], connect: Connect
) -> None:
    """It comes back with the same token to another gateway, whose announcement stands in the log before that of the first."""
    for number in range(10):
        sid = f"cut-{number}"
        place = resuming(await connect(two[0], sid=sid))
        cut = await connect(two[0], sid=sid, params=place, raw=True)
        os.kill(two[0].process.pid, signal.SIGSTOP)
        try:
            assert cut.socket._response.connection is not None
            assert cut.socket._response.connection.transport is not None
            cut.socket._response.connection.transport.abort()
            client = await connect(two[1], sid=sid, params=place)
            await client.lives()
        finally:
            os.kill(two[0].process.pid, signal.SIGCONT)
        await soon(lambda: two[0].metric("sessions_connected") == 0)
        await client.lives()


async def test_what_a_frozen_gateway_finds_when_it_comes_to_ends_nobody(
    two: list[Gateway], connect: Connect, http: aiohttp.ClientSession, push: Any, broker: Broker, names: Any
) -> None:
    frozen, other = two
    client = await connect(other, sid="patient", params=resuming(await connect(frozen, sid="patient")))
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        bearer = {"Authorization": f"Bearer {token(sid='patient')}"}
        for path, more in (("ws", UPGRADE), ("events", {})):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await http.get(f"{frozen.url}/v1/{path}", headers=bearer | more, params=resuming(client))
        client = await connect(other, sid="patient", params=resuming(client))
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    await soon(lambda: frozen.metric("sessions_connected") == 0)
    push(broker.address, "user/patient", b'"later"', topic=names["results"]["topic"])
    assert (await client.event("push"))["data"] == "later"
    await client.lives()


async def test_one_connection_is_left_where_the_topic_is_widened_meanwhile(
    two: list[Gateway], connect: Connect, broker: Broker, names: Any
) -> None:
    topics = TopicAdmin(broker.address)
    newest: dict[str, Client] = {}
    older: list[Client] = []
    for width in (12, 18, 24):
        widening = asyncio.create_task(asyncio.to_thread(topics.widen, names["results"]["topic"], width))
        for number in range(60):
            sid = f"w-{number % 20}"
            client = await connect(two[(number // 20 + number) % 2], sid=sid)
            older += [newest[sid]] if sid in newest else []
            newest[sid] = client
        await widening
    await asyncio.gather(*(client.lives() for client in newest.values()))
    assert set(await asyncio.gather(*(client.closed() for client in older))) == {4009}
    await asyncio.gather(*(client.lives() for client in newest.values()))


async def test_podpair_s_client_that_was_taken_over_does_not_take_it_back(
    two: list[Gateway], connect: Connect, http: aiohttp.ClientSession
) -> None:
    async with connect_client([two[0].ws], token=token(sid="mine"), http=http) as session:
        assert session.session == "user/mine"
        other = await connect(two[1], sid="mine")
        with pytest.raises(TakenOver):
            async for _ in session.pushes():
                pass
        await other.lives()
    await other.lives()


async def test_without_the_setting_no_claim_names_a_session(
    real_gateway: Callable[..., Gateway], connect: Connect
) -> None:
    """The `sid` of an OIDC issuer is the login: two pages of it don't throw each other out."""
    gateway = real_gateway(auth={"session_claim": None})
    one, other = [await connect(gateway, sid=sid) for sid in ("one login", "one login")]
    assert one.welcome["session"] != other.welcome["session"]
    odd = await connect(gateway, sid={"any": ["thing", 5]})
    for client in (one, other, odd):
        assert client.welcome["session"].startswith("s-")
        await client.lives()


async def test_the_claim_has_the_name_that_is_set(
    real_gateway: Callable[..., Gateway], connect: Connect, http: aiohttp.ClientSession
) -> None:
    gateway = real_gateway(auth={"session_claim": "https://podpair.dev/tab"})
    client = await connect(gateway, **{"sub": "auth0|5f7", "sid": "a b", "https://podpair.dev/tab": "t:1"})
    assert client.welcome["session"] == "auth0%7C5f7/t:1"
    bearer = {"Authorization": f"Bearer {token('auth0|5f7', **{'https://podpair.dev/tab': 't:1'})}"}
    body = {"id": "posted", "model": "digits", "data": ROW}
    async with http.post(gateway.url + "/v1/infer", json=body, headers=bearer) as answer:
        assert (answer.status, (await answer.json())["session"]) == (202, "auth0%7C5f7/t:1")
    assert (await client.answer("posted"))["type"] == "result"
    for wrong in ("", "a b", "x" * 129, "é", 5, ["t"], {"t": 1}, True):
        bearer = {"Authorization": f"Bearer {token(**{'https://podpair.dev/tab': wrong})}"}
        async with http.get(gateway.url + "/v1/ws", headers=bearer) as answer:
            message = (await answer.json())["error"]["message"]
            assert answer.status == 401, message
            assert "claim https://podpair.dev/tab (auth.session_claim) does not name a session" in message
