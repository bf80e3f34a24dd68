"""A session as server-sent events, and requests that are posted into it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest

from gateway.conftest import PATIENCE, ROW, Connect, kafka_of
from harness.pair import Gateway, token


class Event(NamedTuple):
    kind: str
    id: str | None
    data: dict[str, Any]

    @property
    def position(self) -> str | None:
        """The position in the event's id."""
        return self.id.partition("~")[0] if self.id else None


class Stream:
    """text/event-stream, read as the HTML standard says (9.2.6)."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Event:
        found: dict[str, list[str]] = {}
        async with asyncio.timeout(PATIENCE):
            while True:
                line = (await self.response.content.readuntil(b"\n")).decode()
                assert line, "the stream has ended"
                if line == "\n":
                    if "data" in found:
                        break
                    continue
                name, _, value = line.rstrip("\n").partition(":")
                found.setdefault(name, []).append(value.removeprefix(" "))
        data = json.loads("\n".join(found["data"]))
        kind = found.get("event", ["message"])[-1]
        assert data["type"] == kind
        return Event(kind, found["id"][-1] if "id" in found else None, data)

    async def event(self, kind: str) -> Event:
        while (event := await self.next()).kind != kind:
            pass
        return event


@asynccontextmanager
async def stream(
    http: aiohttp.ClientSession, gateway: Gateway, *, last: str | None = None, params: dict[str, str] | None = None,
    **claims: Any,
) -> AsyncIterator[Stream]:  # fmt: skip
    headers = {"Authorization": f"Bearer {token(**claims)}"} | ({"Last-Event-ID": last} if last else {})
    async with http.get(gateway.url + "/v1/events", headers=headers, params=params) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield Stream(response)


async def post(
    http: aiohttp.ClientSession, gateway: Gateway, body: dict[str, Any], params: dict[str, str] | None = None, **claims: Any
) -> tuple[int, dict[str, Any]]:  # fmt: skip
    headers = {"Authorization": f"Bearer {token(**claims)}"}
    async with http.post(gateway.url + "/v1/infer", json=body, headers=headers, params=params) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_posted_request_is_answered_in_the_stream(
    pair: Gateway, http: aiohttp.ClientSession, route: str
) -> None:
    async with stream(http, pair, sid=f"sse-{route}") as events:
        welcome = await events.next()
        assert welcome.data["session"] == f"user/sse-{route}"
        body = {"id": "r", "model": "digits", "data": ROW, "route": route}
        status, answer = await post(http, pair, body, sid=f"sse-{route}")
        assert (status, answer) == (202, {"id": "r", "session": f"user/sse-{route}", "route": route})
        result = await events.event("result")
        assert result.data["id"] == "r"
        assert result.position == result.data.get("position")
        assert (result.id is None) == (route == "direct")


async def test_the_resume_token_of_the_welcome_says_where_to_post(pair: Gateway, http: aiohttp.ClientSession) -> None:
    async with stream(http, pair) as events:
        welcome = (await events.next()).data
        body = {"type": "infer", "id": "r", "model": "digits", "data": ROW}
        status, answer = await post(http, pair, body, {"resume": welcome["resume"]})
        assert (status, answer["session"]) == (202, welcome["session"])
        assert (await events.event("result")).data["id"] == "r"
        assert (await post(http, pair, body, {"resume": welcome["resume"]}, sub="mallory"))[0] == 401


async def test_last_event_id_resumes(pair: Gateway, http: aiohttp.ClientSession, push: Any) -> None:
    async with stream(http, pair, sid="sse-resume") as events:
        first = await events.next()
        # An EventSource that is cut before its first record has the welcome's place to come back with.
        assert first.position == first.data["position"]
        push(kafka_of(pair), "user/sse-resume", b'"one"')
        one = await events.event("push")
    push(kafka_of(pair), "user/sse-resume", b'"two"', b'\n"three"\n')
    async with stream(http, pair, sid="sse-resume", last=one.position) as events:
        assert (await events.next()).data["resumed"] is False  # by sid, not by a resume token
        assert [(await events.next()).data["data"] for _ in range(2)] == ["two", "three"]
    async with stream(http, pair, params={"resume": first.data["resume"], "position": first.position or ""}) as events:
        assert (await events.next()).data["resumed"] is True
        assert [(await events.next()).data["data"] for _ in range(3)] == ["one", "two", "three"]


async def test_last_event_id_alone_says_whose_session_it_was(
    pair: Gateway, http: aiohttp.ClientSession, push: Any
) -> None:
    """An EventSource that reconnects by itself asks for the same address, which is that of the first time."""
    async with stream(http, pair) as events:
        welcome = (await events.next()).data
        push(kafka_of(pair), welcome["session"], b'"one"')
        one = await events.event("push")
    push(kafka_of(pair), welcome["session"], b'"two"')
    before = {"resume": welcome["resume"], "position": welcome["position"]}
    for params in ({}, before):
        async with stream(http, pair, last=one.id, params=params) as events:
            again = (await events.next()).data
            assert (again["session"], again["resumed"], again["position"]) == (welcome["session"], True, one.position)
            assert (await events.event("push")).data["data"] == "two"
    headers = {"Authorization": f"Bearer {token('mallory')}", "Last-Event-ID": one.id or ""}
    async with http.get(pair.url + "/v1/events", headers=headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (401, "unauthorized")


async def test_an_id_from_a_stream_resumes_a_websocket(
    pair: Gateway, http: aiohttp.ClientSession, connect: Connect
) -> None:
    async with stream(http, pair) as events:
        first = await events.next()
    position, _, resume = (first.id or "").partition("~")
    client = await connect(pair, params={"resume": resume, "position": position})
    assert (client.welcome["session"], client.welcome["resumed"]) == (first.data["session"], True)


async def test_a_token_that_expires_ends_the_stream_and_not_the_session(
    start_gateway: Any, inference: Any, http: aiohttp.ClientSession
) -> None:
    settings = {"sessions": {"expiry_jitter_seconds": 0}, "auth": {"leeway_seconds": 0}}
    gateway = start_gateway({"kafka": {"embedded": True}, "inference": {"url": inference.url}} | settings)
    gateway.wait_ready()
    async with stream(http, gateway, exp=int(time.time()) + 3) as events:
        first = await events.next()
        close = await events.event("close")
        assert (close.data["code"], close.id) == (4001, None)
    async with stream(http, gateway, last=first.id) as events:  # with a newer one
        assert (await events.next()).data["session"] == first.data["session"]


@pytest.mark.parametrize(
    ("last", "status", "code"),
    [
        ("yesterday", 400, "invalid"),
        ("e.0.1~bm9uZSBvZiBvdXJz", 401, "unauthorized"),
        ("~", 200, None),
        ("e.0.1~é", 401, "unauthorized"),
    ],
)
async def test_a_bad_last_event_id_is_refused(
    pair: Gateway, http: aiohttp.ClientSession, last: str, status: int, code: str | None
) -> None:
    headers = {"Authorization": f"Bearer {token()}", "Last-Event-ID": last}
    async with http.get(pair.url + "/v1/events", headers=headers) as response:
        assert response.status == status
        assert code is None or (await response.json())["error"]["code"] == code


async def test_a_head_request_opens_no_stream(pair: Gateway, http: aiohttp.ClientSession) -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    async with asyncio.timeout(PATIENCE), http.head(pair.url + "/v1/events", headers=headers) as response:
        assert response.status == 405


async def test_a_newer_connection_ends_the_stream(pair: Gateway, http: aiohttp.ClientSession, connect: Connect) -> None:
    async with stream(http, pair, sid="sse-taken") as events:
        await events.next()
        client = await connect(pair, sid="sse-taken")
        close = await events.next()
        assert close == ("close", "taken-over", {"type": "close", "code": 4009, "reason": close.data["reason"]})
        assert await events.response.content.read() == b""
        await client.lives()
    headers = {"Authorization": f"Bearer {token(sid='sse-taken')}", "Last-Event-ID": close.id or ""}
    async with http.get(pair.url + "/v1/events", headers=headers) as response:
        assert response.status == 204  # an EventSource that comes back by itself stays away
    await client.lives()


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_request_posted_without_a_client_is_answered_when_one_comes(
    pair: Gateway, http: aiohttp.ClientSession, connect: Connect, route: str
) -> None:
    sid = f"later-{route}"
    client = await connect(pair, sid=sid)
    place = {"resume": client.welcome["resume"], "position": client.welcome["position"]}
    await client.socket.close()
    body = {"id": "r", "model": "digits", "data": ROW, "route": route}
    assert (await post(http, pair, body, sid=sid))[0] == 202
    again = await connect(pair, params=place, sid=sid)
    assert (await again.answer("r"))["type"] == "result"


async def test_a_posted_duplicate_is_refused(before_model: Gateway, model: Any, http: aiohttp.ClientSession) -> None:
    model.open.clear()
    body = {"id": "r", "model": "fake", "data": [1, 2]}
    async with stream(http, before_model, sid="sse-dup") as events:
        assert (await post(http, before_model, body, sid="sse-dup"))[0] == 202
        status, answer = await post(http, before_model, body, sid="sse-dup")
        assert (status, "already in flight" in answer["error"]["message"]) == (400, True)
        assert await post(http, before_model, body | {"retry": True}, sid="sse-dup") == (
            202, {"id": "r", "session": "user/sse-dup", "route": "direct"},
        )  # fmt: skip
        model.open.set()
        await events.event("result")
    assert len(model.asked) == 1


async def test_on_a_raw_connection_both_routes_bring_the_value(
    pair: Gateway, http: aiohttp.ClientSession, connect: Connect
) -> None:
    client = await connect(pair, raw=True, sid="raw-post")
    for route in ("direct", "queue"):
        await post(http, pair, {"id": route, "model": "digits", "data": ROW, "route": route}, sid="raw-post")
        value = await client.next()
        assert set(value) == {"data", "model", "model_version", "timing"}


async def test_full_is_429_with_retry_after(before_model: Gateway, model: Any, http: aiohttp.ClientSession) -> None:
    model.open.clear()
    headers = {"Authorization": f"Bearer {token(sid='sse-full')}"}
    for n in range(5):
        body = {"id": f"r{n}", "model": "fake", "data": [1, 2], "route": "direct"}
        async with http.post(before_model.url + "/v1/infer", json=body, headers=headers) as response:
            assert response.status == (202 if n < 4 else 429)
            if n == 4:
                assert int(response.headers["Retry-After"]) >= 1
                assert (await response.json())["error"]["code"] == "overloaded"
