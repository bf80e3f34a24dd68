"""Whichever way requests are asked, and whoever is connected: they count until they end."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Client, Connect, resuming
from gateway.fake_model import FakeModel
from harness.pair import Gateway, token
from harness.waiting import soon, until

pytestmark = pytest.mark.process

XY = [1.0, 2.0]
V2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": XY}]}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "wait"}]}


@pytest.fixture(scope="module")
def _counting(start_before_fake: Callable[..., Gateway]) -> Gateway:
    rules = [
        {"claim": "plan", "value": "few", "in_flight": 5},
        {"claim": "plan", "value": "low", "priority": "low"},
    ]
    return start_before_fake(
        inference={"timeout_seconds": 60},
        limits={"max_direct_in_flight": 8, "in_flight": 6},
        admission={"load_shedding": False, "rules": rules},
    )


@pytest.fixture
def counting(model: FakeModel, _counting: Gateway) -> Iterator[Gateway]:
    """A gateway with a rule of 5 in flight, sessions of 6 and 8 direct places, in front of `model`, which does not answer."""
    model.open.clear()
    yield _counting
    model.reset()
    _counting.wait_ready()
    for gauge in ("direct_in_flight", "queue_in_flight"):
        until(lambda gauge=gauge: _counting.metric(gauge) == 0)


async def post(http: aiohttp.ClientSession, gateway: Gateway, path: str, body: Any, **claims: Any) -> tuple[int, Any]:
    async with http.post(
        gateway.url + path, json=body, headers={"Authorization": f"Bearer {token(**claims)}"}
    ) as answer:
        return answer.status, await answer.json(content_type=None)


def infer(name: str, route: str, **members: Any) -> dict[str, Any]:
    return {"id": name, "model": "fake", "data": XY, "route": route, **members}


async def posted(http: aiohttp.ClientSession, gateway: Gateway, count: int, route: str, **claims: Any) -> list[int]:
    bodies = [infer(f"p{number}", route) for number in range(count)]
    return [(await post(http, gateway, "/v1/infer", body, **claims))[0] for body in bodies]


@pytest.mark.parametrize("route", ["direct", "queue", "auto"])
@pytest.mark.parametrize("sessions", ["one", "many"])
async def test_a_rule_holds_for_posts_into_sessions_that_nobody_is_connected_to(
    counting: Gateway, model: FakeModel, http: aiohttp.ClientSession, connect: Connect, route: str, sessions: str
) -> None:
    user = f"posts-{route}-{sessions}"
    said = []
    for number in range(9):
        sid = "s" if sessions == "one" else f"s{number}"
        status, answer = await post(
            http, counting, "/v1/infer", infer(f"p{number}", route), sub=user, sid=sid, plan="few"
        )
        said.append(status)
    assert said == [202] * 5 + [429] * 4
    assert answer["error"]["message"] == "5 requests of plan 'few' are in flight"
    # Nor is there room for another way of asking.
    client = await connect(counting, sub=user, sid="else", plan="few")
    await client.infer("w", model="fake", data=XY)
    assert (await client.answer("w"))["code"] == "overloaded"
    assert (await post(http, counting, "/v2/models/fake/infer", V2, sub=user, plan="few"))[0] == 429
    assert (await post(http, counting, "/v1/chat/completions", CHAT, sub=user, plan="few"))[0] == 429
    assert (await post(http, counting, "/v1/infer", infer("o", route), sub="other", sid="s"))[0] == 202
    model.open.set()
    await until_free(client, "w")


async def until_free(client: Client, name: str) -> None:
    """Until a request is taken again: what was in flight has ended."""
    numbers = count()

    async def taken() -> bool:
        request = f"{name}{next(numbers)}"
        await client.infer(request, model="fake", data=XY)
        answer = await client.answer(request)
        assert answer["type"] == "result" or answer["code"] == "overloaded"
        return bool(answer["type"] == "result")

    await soon(taken)


@pytest.mark.parametrize("ways", [("/v2/models/fake/infer", V2), ("/v1/chat/completions", CHAT)])
async def test_calls_passed_on_count_with_all_others(
    counting: Gateway, model: FakeModel, http: aiohttp.ClientSession, connect: Connect, ways: Any
) -> None:
    path, body = ways
    calls = [asyncio.create_task(post(http, counting, path, body, sub="passes", plan="few")) for _ in range(3)]
    await soon(lambda: counting.metric("direct_in_flight") == 3)
    assert await posted(http, counting, 3, "direct", sub="passes", sid=path[1:3], plan="few") == [202, 202, 429]
    model.open.set()
    await asyncio.gather(*calls)
    await until_free(await connect(counting, sub="passes", plan="few"), "w")


@pytest.mark.parametrize("way", ["posts", "reconnects", "resumes"])
async def test_the_limit_of_a_session_is_none_that_a_new_connection_resets(
    counting: Gateway, model: FakeModel, http: aiohttp.ClientSession, connect: Connect, way: str
) -> None:
    """limits.in_flight is 6."""
    accepted = refused = 0
    if way == "posts":
        said = await posted(http, counting, 20, "queue", sub=way, sid="s")
        accepted, refused = said.count(202), said.count(429)
    params: dict[str, str] = {}
    for turn in range(4) if way != "posts" else ():
        client = await connect(counting, sub=way, params=params, **({"sid": "s"} if way == "reconnects" else {}))
        params = resuming(client) if way == "resumes" else {}
        for number in range(5):
            name = f"{turn}.{number}"
            await client.infer(name, model="fake", data=XY, route="queue")
            while (event := await client.next()).get("id") != name:
                pass
            accepted += event["type"] == "accepted"
            refused += event["type"] == "error"
        before = counting.metric("sessions")
        await client.socket.close()
        await soon(lambda before=before: counting.metric("sessions") < before)
    assert (accepted, refused) == (6, 14)
    model.open.set()
    claims = {"sid": "s"} if way != "resumes" else {}
    await until_free(await connect(counting, sub=way, params=params, **claims), "w")


async def test_what_is_answered_while_nobody_is_connected_counts_no_longer(
    counting: Gateway, model: FakeModel, http: aiohttp.ClientSession
) -> None:
    assert await posted(http, counting, 8, "queue", sub="away", sid="s", plan="few") == [202] * 5 + [429] * 3
    model.open.set()
    await soon(lambda: counting.metric("queue_in_flight") == 0)
    numbers = count()

    async def accepted() -> bool:
        asked = infer(f"n{next(numbers)}", "queue")
        return (await post(http, counting, "/v1/infer", asked, sub="away", sid="s", plan="few"))[0] == 202

    await soon(accepted)


async def test_what_is_in_flight_is_asked_for_again_at_no_cost(
    counting: Gateway, model: FakeModel, connect: Connect, http: aiohttp.ClientSession
) -> None:
    client = await connect(counting, sub="asks-again", sid="s", plan="few")
    for number in range(5):
        await client.infer(f"r{number}", model="fake", data=XY, route="direct")
        await client.event("accepted", id=f"r{number}")
    again = await connect(counting, sub="asks-again", sid="s", plan="few")
    for number in range(5):
        await again.infer(f"r{number}", model="fake", data=XY, route="direct", retry=True)
        await again.event("accepted", id=f"r{number}")
    body = infer("r0", "direct", retry=True)
    assert (await post(http, counting, "/v1/infer", body, sub="asks-again", sid="s", plan="few"))[0] == 202
    model.open.set()
    left = {f"r{number}" for number in range(5)}
    while left:
        left.discard((await again.event("result"))["id"])


async def test_priorities_hold_for_posts_too(counting: Gateway, model: FakeModel, http: aiohttp.ClientSession) -> None:
    """Low ones fill half of the 8 direct places."""
    low = {"sub": "low", "plan": "low"}
    said = [
        (await post(http, counting, "/v1/infer", infer("p", "direct"), sid=f"s{number}", **low))[0]
        for number in range(6)
    ]
    assert said == [202] * 4 + [429] * 2
    status, answer = await post(http, counting, "/v1/infer", infer("a", "auto"), sid="auto", **low)
    assert (status, answer["route"]) == (202, "queue")
    assert (await post(http, counting, "/v2/models/fake/infer", V2, **low))[0] == 429
    assert (await post(http, counting, "/v1/chat/completions", CHAT, **low))[0] == 429
    assert await posted(http, counting, 4, "direct", sub="normal", sid="s") == [202] * 4
    model.open.set()
    await soon(lambda: counting.metric("direct_in_flight") == 0)
