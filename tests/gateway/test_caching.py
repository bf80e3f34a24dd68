"""Models whose answers are cached: the model is asked once, and nobody gets what is not his or fails for another's reason."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Client, Connect
from gateway.fake_model import FakeModel
from harness.pair import Gateway, token
from harness.waiting import soon, until

XY = [1.0, 2.0]
V2 = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": XY}]}
CACHED = [{"model": "fake", "scope": "shared"}, {"model": "rows", "scope": "subject"}]


@pytest.fixture(scope="module")
def _caching(start_before_fake: Callable[..., Gateway]) -> Gateway:
    return start_before_fake(
        cache={"models": CACHED},
        batching={"include": ["rows"]},
        limits={"max_direct_in_flight": 4096, "in_flight": 1024},
        requests={"max_attempts": 1, "in_flight": 256, "max_model_crashes": 1000},
        admission={
            "load_shedding": False,
            "rules": [{"claim": "role", "value": "guest", "models": ["digits"]}],
        },
    )


@pytest.fixture
def caching(_caching: Gateway, model: FakeModel) -> Gateway:
    """A gateway that caches `fake` for everybody and `rows` by subject, before `model`; nothing is cached yet."""
    model.reset()
    model.ready = False
    until(lambda: _caching.metric("inference_ready") == 0)
    model.ready = True
    _caching.wait_ready()
    return _caching


async def ask(client: Client, request_id: str, **members: Any) -> None:
    await client.infer(request_id, **{"model": "fake", "data": XY, **members})


async def answer(client: Client, request_id: str, **members: Any) -> dict[str, Any]:
    await ask(client, request_id, **members)
    return await client.answer(request_id)


def outcomes(gateway: Gateway, model: str = "fake") -> dict[str, float]:
    return {
        how: gateway.metric("cache_requests_total", model=model, outcome=how)
        for how in ("hit", "wait", "miss", "bypass")
    }


def since(gateway: Gateway, before: dict[str, float], model: str = "fake") -> dict[str, float]:
    return {how: count - before[how] for how, count in outcomes(gateway, model).items() if count != before[how]}


@pytest.mark.parametrize("name", ["fake", "rows"])
@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_thousand_equal_questions_run_the_model_once(
    caching: Gateway, model: FakeModel, connect: Connect, route: str, name: str
) -> None:
    clients = [await connect(caching, sub="ann") for _ in range(10)]
    before = outcomes(caching, name)
    model.open.clear()
    numbers = range(100)
    await asyncio.gather(*[ask(client, f"q{n}", model=name, route=route) for client in clients for n in numbers])
    # On the queue as many wait for the call as a gateway works on at a time; the others find the answer.
    waiting = 999 if route == "direct" else 255
    await soon(lambda: since(caching, before, name).get("wait") == waiting, lambda: since(caching, before, name))
    model.open.set()
    answers = [await client.event("result") for client in clients for _ in numbers]
    assert len(model.asked) == 1
    told = [event.get("cache") for event in answers]
    assert told.count(None) == 1
    assert since(caching, before, name) == {
        how: count for how, count in {"miss": 1, "wait": told.count("wait"), "hit": told.count("hit")}.items() if count
    }


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_an_answer_says_that_it_came_from_the_cache(
    caching: Gateway, model: FakeModel, connect: Connect, route: str
) -> None:
    client = await connect(caching)
    first = await answer(client, "a", route=route)
    again = await answer(client, "b", route=route)
    assert "cache" not in first
    assert again["cache"] == "hit"
    assert "inference_ms" not in again["timing"]
    assert {name: again[name] for name in ("data", "model", "model_version")} == {
        name: first[name] for name in ("data", "model", "model_version")
    }
    assert len(model.asked) == 1


async def test_both_routes_and_inputs_of_another_form_share_one_cache(
    caching: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await connect(caching)
    await answer(client, "a", route="queue")
    assert (await answer(client, "b", route="direct"))["cache"] == "hit"
    assert "cache" not in await answer(client, "c", data=None, inputs=V2["inputs"])  # answered by `outputs`
    assert (await answer(client, "d", data=None, inputs=V2["inputs"]))["cache"] == "hit"


async def infer_v2(
    gateway: Gateway,
    http: aiohttp.ClientSession,
    name: str = "fake",
    headers: dict[str, str] | None = None,
    **claims: Any,
) -> tuple[int, dict[str, Any], Any]:
    bearer = {"Authorization": f"Bearer {token(**claims)}"} | (headers or {})
    async with http.post(f"{gateway.url}/v2/models/{name}/infer", json=V2, headers=bearer) as response:
        return response.status, await response.json(), response.headers


async def test_v2_over_http(caching: Gateway, model: FakeModel, http: aiohttp.ClientSession) -> None:
    status, first, headers = await infer_v2(caching, http)
    assert (status, headers["Cache-Status"]) == (200, "podpair; fwd=miss")
    status, again, headers = await infer_v2(caching, http, sub="bob")
    assert (status, again, headers["Cache-Status"]) == (200, first, "podpair; hit")
    assert headers["Age"].isdigit()
    assert len(model.asked) == 1
    _, _, headers = await infer_v2(caching, http, headers={"Cache-Control": "no-cache"})
    assert headers["Cache-Status"] == "podpair; fwd=bypass"
    _, _, headers = await infer_v2(caching, http, headers={"x-model-option": "2"})  # who knows what it means
    assert headers["Cache-Status"] == "podpair; fwd=miss"
    _, _, headers = await infer_v2(caching, http, headers={"User-Agent": "another"})
    assert headers["Cache-Status"] == "podpair; hit"


async def test_equal_calls_over_http_share_one(caching: Gateway, model: FakeModel, http: aiohttp.ClientSession) -> None:
    model.open.clear()
    before = outcomes(caching)
    first = asyncio.create_task(infer_v2(caching, http))
    await soon(lambda: since(caching, before).get("miss") == 1)
    calls = [asyncio.create_task(infer_v2(caching, http)) for _ in range(49)]
    late = asyncio.create_task(infer_v2(caching, http, headers={"podpair-deadline": "4102444800000"}))
    await soon(lambda: since(caching, before).get("wait") == 50, lambda: since(caching, before))
    first.cancel()  # who began the call
    await soon(lambda: caching.metric("direct_in_flight") == 50)
    model.open.set()
    answers = [await call for call in [*calls, late]]
    assert [status for status, _, _ in answers] == [200] * 50
    assert {headers["Cache-Status"] for _, _, headers in answers} == {"podpair; fwd=miss; collapsed"}
    assert len(model.asked) == 1


async def test_a_deadline_over_http_ends_one_callers_wait(
    caching: Gateway, model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.open.clear()
    before = outcomes(caching)
    deadline = str(int(time.time() * 1000) + 2000)
    hurried = asyncio.create_task(infer_v2(caching, http, headers={"podpair-deadline": deadline}))
    await soon(lambda: since(caching, before).get("miss") == 1)
    patient = asyncio.create_task(infer_v2(caching, http))
    await soon(lambda: since(caching, before).get("wait") == 1)
    assert (await hurried)[0] == 504
    model.open.set()
    assert (await patient)[0] == 200
    assert len(model.asked) == 1


async def test_a_subjects_answers_are_his_alone(caching: Gateway, model: FakeModel, connect: Connect) -> None:
    ann, also_ann, bob = [await connect(caching, sub=sub) for sub in ("ann", "ann", "bob")]
    for route in ("direct", "queue"):
        data = [7.0, 1.0 if route == "direct" else 2.0]
        model.asked.clear()
        assert "cache" not in await answer(ann, f"{route}-1", model="rows", data=data, route=route)
        assert (await answer(also_ann, f"{route}-2", model="rows", data=data, route=route))["cache"] == "hit"
        assert "cache" not in await answer(bob, f"{route}-3", model="rows", data=data, route=route)
        assert len(model.asked) == 2


async def test_a_subjects_answers_are_his_alone_over_http(
    caching: Gateway, model: FakeModel, http: aiohttp.ClientSession
) -> None:
    told = [(await infer_v2(caching, http, "rows", sub=sub))[2]["Cache-Status"] for sub in ("ann", "ann", "bob")]
    assert told == ["podpair; fwd=miss", "podpair; hit", "podpair; fwd=miss"]


async def test_rules_apply_to_what_is_cached(
    caching: Gateway, model: FakeModel, connect: Connect, http: aiohttp.ClientSession
) -> None:
    await answer(await connect(caching), "a")
    guest = await connect(caching, role="guest")
    for route in ("direct", "queue"):
        assert (await answer(guest, f"b-{route}", route=route))["code"] == "forbidden"
    await infer_v2(caching, http)
    assert (await infer_v2(caching, http, role="guest"))[0] == 403


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_errors_are_not_cached(caching: Gateway, model: FakeModel, connect: Connect, route: str) -> None:
    client = await connect(caching)
    model.answer = (400, {"error": "bad shape"})
    assert (await answer(client, "a", route=route))["code"] == "invalid"
    model.reset()
    assert "cache" not in await answer(client, "b", route=route)
    assert (await answer(client, "c", route=route))["cache"] == "hit"


async def test_errors_are_not_cached_over_http(caching: Gateway, model: FakeModel, http: aiohttp.ClientSession) -> None:
    model.answer = (500, {"error": "it failed"})
    assert (await infer_v2(caching, http))[0] == 500
    model.reset()
    assert (await infer_v2(caching, http))[2]["Cache-Status"] == "podpair; fwd=miss"


async def test_chat_completions_of_sessions(caching: Gateway, model: FakeModel, connect: Connect) -> None:
    client = await connect(caching)
    chat = {"data": {"messages": [{"role": "user", "content": "hello"}]}, "route": "direct"}
    first, again = await answer(client, "a", **chat), await answer(client, "b", **chat)
    assert (first.get("cache"), again["cache"], again["data"]) == (None, "hit", first["data"])
    model.ready = False
    await soon(lambda: caching.metric("inference_ready") == 0)
    model.ready = True
    await soon(lambda: caching.metric("inference_ready") == 1)
    assert "cache" not in await answer(client, "c", **chat)  # nobody says which model that is


@pytest.mark.parametrize("name", ["fake", "rows"])
async def test_who_asked_first_may_leave(caching: Gateway, model: FakeModel, connect: Connect, name: str) -> None:
    first, second = await connect(caching, sub="ann"), await connect(caching, sub="ann")
    before = outcomes(caching, name)
    model.open.clear()
    await ask(first, "a", model=name, route="direct")
    await soon(lambda: since(caching, before, name) == {"miss": 1})
    await ask(second, "b", model=name, route="direct", deadline_ms=60_000)
    await soon(lambda: since(caching, before, name) == {"miss": 1, "wait": 1})
    await first.send({"type": "cancel", "id": "a"})
    assert (await first.answer("a"))["code"] == "cancelled"
    model.open.set()
    assert (await second.answer("b"))["cache"] == "wait"
    assert len(model.asked) == 1


async def test_a_deadline_ends_the_wait_of_who_has_it(caching: Gateway, model: FakeModel, connect: Connect) -> None:
    first, second = await connect(caching), await connect(caching)
    before = outcomes(caching)
    model.open.clear()
    await ask(first, "a", route="direct", deadline_ms=2000)
    await soon(lambda: since(caching, before) == {"miss": 1})
    await ask(second, "b", route="direct")
    await soon(lambda: since(caching, before) == {"miss": 1, "wait": 1})
    assert (await first.answer("a"))["code"] == "deadline_exceeded"
    model.open.set()
    assert (await second.answer("b"))["cache"] == "wait"
    assert len(model.asked) == 1


async def test_a_call_that_nobody_waits_for_is_given_up(caching: Gateway, model: FakeModel, connect: Connect) -> None:
    client = await connect(caching)
    before = outcomes(caching)
    model.open.clear()
    for request_id in ("a", "b"):
        await ask(client, request_id, route="direct")
    await soon(lambda: since(caching, before) == {"miss": 1, "wait": 1})
    for request_id in ("a", "b"):
        await client.send({"type": "cancel", "id": request_id})
        assert (await client.answer(request_id))["code"] == "cancelled"
    await ask(client, "c", route="direct")
    await soon(lambda: since(caching, before) == {"miss": 2, "wait": 1})
    model.open.set()
    assert "cache" not in await client.answer("c")


async def test_after_a_death_of_the_model_one_asks_again_for_all(
    caching: Gateway, model: FakeModel, connect: Connect
) -> None:
    """They are suspects, and go alone, one after the other; the first answer is that of the others."""
    client = await connect(caching)
    retries = caching.metric("queue_retries_total")
    model.open.clear()
    for number in range(20):
        await ask(client, f"q{number}", data=None, inputs=V2["inputs"], route="queue")
    await soon(lambda: caching.metric("queue_in_flight") == 20)
    model.dies_of = XY[0]
    model.open.set()
    await soon(lambda: caching.metric("queue_retries_total") > retries)
    model.dies_of = None
    model.asked.clear()
    answers = [await client.event("result") for _ in range(20)]
    assert [event.get("cache") for event in answers].count("hit") >= 18
    assert len(model.asked) <= 2


async def test_streams_and_sequences_are_nobody_elses(caching: Gateway, model: FakeModel, connect: Connect) -> None:
    client = await connect(caching)
    before = outcomes(caching)
    for request_id in ("a", "b"):
        assert "cache" not in await answer(client, request_id, parameters={"sequence_id": 7})
    assert since(caching, before) == {"bypass": 2}


async def test_what_comes_back_after_a_restart_may_be_another_model(
    caching: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await connect(caching)
    await answer(client, "a")
    model.ready = False
    await soon(lambda: caching.metric("inference_ready") == 0)
    model.ready = True
    await soon(lambda: caching.metric("inference_ready") == 1)
    assert "cache" not in await answer(client, "b", route="direct")
    assert len(model.asked) == 2


async def test_a_model_without_a_cache_is_asked_each_time(
    before_model: Gateway, model: FakeModel, connect: Connect, http: aiohttp.ClientSession
) -> None:
    client = await connect(before_model)
    for request_id in ("a", "b"):
        assert "cache" not in await answer(client, request_id)
        assert "Cache-Status" not in (await infer_v2(before_model, http))[2]
    assert len(model.asked) == 4
