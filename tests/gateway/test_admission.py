"""Limits by user and by claim, permissions, and what is shed: each is told at once, on every way in."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Client, Connect, Refusal, resuming
from gateway.fake_model import FakeModel
from harness.pair import Gateway, token
from harness.waiting import soon

RULES = [
    {"claim": "plan", "value": "narrow", "models": ["fake"], "routes": ["queue"]},
    {"claim": "plan", "value": "slow", "requests_per_second": 0.001, "burst": 2},
    {"claim": "plan", "value": "low", "priority": "low"},
    {"claim": "tenant", "in_flight": 3},
    {"claim": "plan", "value": "single", "sessions": 1},
]


@pytest.fixture(scope="module")
def _limited(start_before_fake: Callable[..., Gateway]) -> Gateway:
    return start_before_fake(limits={"max_direct_in_flight": 4}, admission={"rules": RULES})


@pytest.fixture
def limited(model: FakeModel, _limited: Gateway) -> Iterator[Gateway]:
    """A gateway with RULES in front of `model`."""
    yield _limited
    model.reset()
    _limited.wait_ready()


async def ask(client: Client, request_id: str, **members: Any) -> None:
    await client.infer(request_id, **{"model": "fake", "data": [1.0, 2.0], **members})


async def all_answered(client: Client, *names: str) -> None:
    """Each ends in a result, in whatever order."""
    left = set(names)
    while left:
        event = await client.next()
        if event["type"] != "accepted":
            assert event["type"] == "result", event
            left.remove(event["id"])


async def v2(http: aiohttp.ClientSession, gateway: Gateway, model: str = "fake", **claims: Any) -> tuple[int, str, Any]:
    url = f"{gateway.url}/v2/models/{model}/infer"
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
    async with http.post(url, json=body, headers={"Authorization": f"Bearer {token(**claims)}"}) as response:
        return response.status, await response.text(), response.headers


@pytest.mark.process
async def test_models_and_routes_of_a_plan(limited: Gateway, connect: Connect, http: aiohttp.ClientSession) -> None:
    client = await connect(limited, plan="narrow")
    await ask(client, "other", model="secret-model")
    error = await client.answer("other")
    assert (error["code"], error["message"]) == ("forbidden", "this token does not allow model 'secret-model'")
    await ask(client, "direct", route="direct")
    assert (await client.answer("direct"))["code"] == "forbidden"
    await ask(client, "auto")
    assert (await client.event("accepted", id="auto"))["route"] == "queue"
    assert (await client.answer("auto"))["type"] == "result"
    status, text, _ = await v2(http, limited, plan="narrow")
    assert (status, "does not allow route 'direct'" in text) == (403, True)
    body = {"id": "posted", "model": "secret-model", "data": [1.0, 2.0]}
    bearer = {"Authorization": f"Bearer {token(plan='narrow', sid='narrow')}"}
    async with http.post(limited.url + "/v1/infer", json=body, headers=bearer) as response:
        assert response.status == 403
    assert limited.metric("rejected_total", reason="models") >= 2


async def test_a_rate_is_kept_over_sessions_and_plain_http(
    limited: Gateway, connect: Connect, http: aiohttp.ClientSession
) -> None:
    clients = [await connect(limited, plan="slow") for _ in range(2)]
    await ask(clients[0], "one")
    assert (await clients[0].answer("one"))["type"] == "result"
    assert (await v2(http, limited, plan="slow"))[0] == 200
    await ask(clients[1], "three")
    error = await clients[1].answer("three")
    assert error["code"] == "overloaded"
    assert error["retry_after_ms"] > 100_000
    status, _, headers = await v2(http, limited, plan="slow")
    assert (status, int(headers["Retry-After"]) > 100) == (429, True)


async def test_what_a_tenant_has_in_flight(limited: Gateway, model: FakeModel, connect: Connect) -> None:
    model.open.clear()
    ann, bob = [await connect(limited, sub=name, tenant="acme") for name in ("ann", "bob")]
    other = await connect(limited, sub="eve", tenant="other")
    for client, name in ((ann, "a1"), (ann, "a2"), (bob, "b1")):
        await ask(client, name, route="queue")
        await client.event("accepted", id=name)
    await ask(bob, "b2", route="queue")
    error = await bob.answer("b2")
    assert (error["code"], error["message"]) == ("overloaded", "3 requests of tenant 'acme' are in flight")
    await ask(other, "o", route="queue")
    await other.event("accepted", id="o")
    model.open.set()
    await all_answered(ann, "a1", "a2")
    await all_answered(bob, "b1")
    await all_answered(other, "o")
    await ask(bob, "b2", route="queue")
    assert (await bob.answer("b2"))["type"] == "result"


async def test_the_number_of_sessions(
    limited: Gateway, connect: Connect, refused: Callable[..., Awaitable[Refusal]]
) -> None:
    first = await connect(limited, plan="single")
    bearer = {"Authorization": f"Bearer {token(plan='single')}"}
    status, error, headers = await refused(limited, bearer)
    assert (status, error["code"]) == (429, "overloaded")
    assert error["message"] == "1 sessions of plan 'single' are connected"
    assert int(headers["Retry-After"]) >= 1
    second = await connect(limited, plan="single", params=resuming(first))  # it takes its own place
    assert second.welcome["session"] == first.welcome["session"]
    connected = limited.metric("sessions")
    await second.socket.close()
    await soon(lambda: limited.metric("sessions") < connected)
    await connect(limited, plan="single")


async def test_low_priority_leaves_room(limited: Gateway, model: FakeModel, connect: Connect) -> None:
    """limits.max_direct_in_flight is 4: those of low priority fill half of it."""
    model.open.clear()
    low, normal = await connect(limited, plan="low"), await connect(limited)
    for name in ("l1", "l2"):
        await ask(low, name, route="direct")
        await low.event("accepted", id=name, route="direct")
    await ask(low, "l3", route="direct")
    assert (await low.answer("l3"))["code"] == "overloaded"
    await ask(low, "l4")
    assert (await low.event("accepted", id="l4"))["route"] == "queue"
    for name in ("n1", "n2"):
        await ask(normal, name, route="direct")
        await normal.event("accepted", id=name, route="direct")
    model.open.set()
    await all_answered(low, "l1", "l2", "l4")
    await all_answered(normal, "n1", "n2")


async def test_a_deadline_that_can_not_be_met_is_refused_before_it_costs_anything(
    limited: Gateway, model: FakeModel, connect: Connect
) -> None:
    """The gateway has seen that an answer takes long, and one is in flight."""
    client = await connect(limited)
    model.open.clear()
    await ask(client, "slow", route="direct")
    await client.event("accepted", id="slow")
    await soon(lambda: model.asked)
    await asyncio.sleep(0.3)  # what an answer is to take
    model.open.set()
    await client.answer("slow")
    model.open.clear()
    await ask(client, "first", route="direct")
    await client.event("accepted", id="first")
    asked = len(model.asked)
    await ask(client, "hurried", route="direct", deadline_ms=50)
    error = await client.answer("hurried")
    assert (error["code"], error["retry_after_ms"] >= 1) == ("overloaded", True), error
    assert "50 ms" in error["message"]
    assert len(model.asked) == asked
    await ask(client, "patient", route="direct", deadline_ms=60_000)
    await client.event("accepted", id="patient")
    model.open.set()
    await all_answered(client, "first", "patient")
    assert limited.metric("rejected_total", reason="deadline") >= 1


async def test_how_often_one_may_connect(
    start_gateway: Callable[..., Gateway], model: FakeModel, connect: Connect,
    refused: Callable[..., Awaitable[Refusal]],
) -> None:  # fmt: skip
    gateway = start_gateway(
        {
            "kafka": {"embedded": True}, "inference": {"url": model.url},
            "limits": {"connects_per_second": 0.001, "connects_burst": 2},
        }
    )  # fmt: skip
    # What is refused for another reason takes no place of those who may come.
    nobody = token(secret="another-secret-0123456789-0123456789-xyz")
    for headers, params in (({}, {}), ({"Authorization": f"Bearer {nobody}"}, {}), ({"Authorization": "Bearer x"}, {})):
        for _ in range(5):
            assert (await refused(gateway, headers, params))[0] == 401
    good = {"Authorization": f"Bearer {token()}"}
    for params, status in (({"resume": "x"}, 401), ({"position": "x"}, 400)):
        for _ in range(5):
            assert (await refused(gateway, good, params))[0] == status
    for _ in range(2):
        await connect(gateway)
    status, error, headers = await refused(gateway, {"Authorization": f"Bearer {token()}"})
    assert (status, error["code"]) == (503, "overloaded")
    assert int(headers["Retry-After"]) >= 1


async def test_a_chat_asks_for_its_model_too(limited: Gateway, http: aiohttp.ClientSession) -> None:
    bearer = {"Authorization": f"Bearer {token(plan='narrow')}"}
    for body, status in ((b'{"model":"fake","messages":[]}', 403), (b'{"model":"other"}', 403), (b"noise", 400)):
        async with http.post(limited.url + "/v1/chat/completions", data=body, headers=bearer) as response:
            assert response.status == status, await response.text()
