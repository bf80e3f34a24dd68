"""A request ends in one answer, whichever way it goes and whatever the model does."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from gateway.conftest import PATIENCE, ROW, Client, Connect, kafka_of, resuming
from gateway.fake_model import FakeModel
from harness.pair import Gateway, token
from harness.waiting import soon

XY = [1.0, 2.0]


@pytest.mark.parametrize("protocols", [(), ("podpair.v1",), ("other", "podpair.v1"), ("podpair.v1", "podpair.v1.raw")])
async def test_the_subprotocol_and_the_welcome(pair: Gateway, connect: Connect, protocols: tuple[str, ...]) -> None:
    client = await connect(pair, protocols=protocols, sub="ann", exp=2_000_000_000)
    assert client.socket.protocol == ("podpair.v1" if protocols else None)
    welcome = client.welcome
    assert set(welcome) == {"type", "session", "resume", "resumed", "position", "gateway", "expires_at", "limits"}
    assert (welcome["resumed"], welcome["expires_at"]) == (False, 2_000_000_000)
    assert welcome["limits"] == {
        "in_flight": 256, "message_bytes": 1 << 20, "queue_message_bytes": 1_046_540, "idle_seconds": 3600,
        "resume_seconds": 86_400,
    }  # fmt: skip


async def test_a_browser_sends_its_token_as_a_subprotocol(pair: Gateway, http: aiohttp.ClientSession) -> None:
    protocols = ("podpair.v1", f"bearer.{token(sid='browser')}")
    async with http.ws_connect(pair.ws, protocols=protocols, headers={"Origin": pair.url}) as socket:
        assert socket.protocol == "podpair.v1"
        assert (await socket.receive_json())["session"] == "user/browser"


async def test_a_token_in_the_query_where_it_is_allowed(before_model: Gateway, http: aiohttp.ClientSession) -> None:
    async with http.ws_connect(before_model.ws, params={"token": token(sid="query")}) as socket:
        assert (await socket.receive_json())["session"] == "user/query"


@pytest.mark.parametrize(("route", "taken"), [("direct", "direct"), ("queue", "queue"), ("auto", "direct")])
async def test_each_route_brings_the_answer(pair: Gateway, connect: Connect, route: str, taken: str) -> None:
    client = await connect(pair)
    await client.infer("r", route=route)
    assert await client.next() == {"type": "accepted", "id": "r", "route": taken}
    result = await client.answer("r")
    assert set(result["data"]) == {"probabilities", "label"}
    assert len(result["data"]["probabilities"]) == 10
    assert isinstance(result["data"]["label"], str)
    assert (result["model"], result["model_version"]) == ("digits", "1")
    assert result["timing"]["inference_ms"] >= 0
    assert ("position" in result) == (taken == "queue")
    assert ("queue_ms" in result["timing"]) == (taken == "queue")


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_rows_and_tensors(pair: Gateway, connect: Connect, route: str) -> None:
    client = await connect(pair)
    await client.infer("rows", data=[ROW, ROW], route=route)
    assert [len(v) for v in (await client.answer("rows"))["data"].values()] == [2, 2]
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [2, 64], "data": ROW + ROW}
    await client.infer("tensors", data=None, inputs=[tensor], route=route)
    outputs = (await client.answer("tensors"))["outputs"]
    assert [(o["name"], o["shape"]) for o in outputs] == [("probabilities", [2, 10]), ("label", [2])]


async def test_many_at_once_each_end_once(pair: Gateway, connect: Connect) -> None:
    client = await connect(pair)
    names = {f"{route}-{n}" for n in range(20) for route in ("direct", "queue", "auto")}
    for name in sorted(names):
        await client.infer(name, route=name.split("-")[0])
    ended: list[str] = []
    while len(ended) < len(names):
        event = await client.next()
        if event["type"] != "accepted":
            assert event["type"] == "result", event
            ended.append(event["id"])
    assert set(ended) == names
    await client.lives()
    assert not [e for e in client.skipped if e["type"] != "accepted"]


async def test_what_was_missed_is_sent_again_even_if_this_gateway_had_sent_it(pair: Gateway, connect: Connect) -> None:
    """The answer is on the wire when the wire is cut: the gateway has sent it, and the client has not seen it."""
    first = await connect(pair)
    await first.infer("r", route="queue")
    answer = await first.answer("r")
    second = await connect(pair, params=resuming(first))  # from the welcome on; `first` is still connected here
    assert await second.answer("r") == answer
    third = await connect(pair, params=resuming(first, answer["position"]))
    await third.lives()
    assert "r" not in {event.get("id") for event in third.skipped}


async def ask(client: Client, request_id: str, **members: Any) -> None:
    await client.infer(request_id, **{"model": "fake", "data": XY, **members})


async def test_a_cancelled_request_ends_as_cancelled(before_model: Gateway, model: FakeModel, connect: Connect) -> None:
    model.open.clear()
    client = await connect(before_model)
    for route in ("direct", "queue"):
        await ask(client, route, route=route)
        await client.event("accepted", id=route)
        await client.send({"type": "cancel", "id": route})
        error = await client.answer(route)
        assert (error["type"], error["code"]) == ("error", "cancelled")
    model.open.set()
    await ask(client, "after")
    assert (await client.answer("after"))["type"] == "result"
    assert not [e for e in client.skipped if e["type"] == "result"]


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_deadline_that_passes_at_work(
    before_model: Gateway, model: FakeModel, connect: Connect, route: str
) -> None:
    model.open.clear()
    client = await connect(before_model)
    await ask(client, "r", route=route, deadline_ms=1500)
    error = await client.answer("r")
    assert (error["type"], error["code"]) == ("error", "deadline_exceeded"), error
    assert [asked["id"] for asked in model.asked].count("r") == 1


async def test_a_queued_request_whose_deadline_has_passed_is_not_asked(
    before_model: Gateway, model: FakeModel, connect: Connect, push: Any
) -> None:
    client = await connect(before_model)
    headers = {"ce_id": "late", "ce_subject": client.welcome["session"], "model": "fake", "deadline": "1000"}
    push(kafka_of(before_model), "", b'{"data":[1,2]}', headers=headers, topic="podpair.requests")
    assert (await client.answer("late"))["code"] == "deadline_exceeded"
    assert model.asked == []


@pytest.mark.parametrize(
    ("answer", "code", "said", "asked"),
    [
        ((500, {"error": "boom"}), "upstream", "boom", {"direct": 1, "queue": 2}),
        ((200, "not json"), "upstream", "not V2", {"direct": 1, "queue": 2}),
        ((200, {"outputs": 5}), "upstream", "not V2", {"direct": 1, "queue": 1}),
        ((200, {"outputs": [{"name": "y"}]}), "upstream", "not V2", {"direct": 1, "queue": 1}),
        ((200, '{"outputs":' + "[" * 50_000 + "]" * 50_000 + "}"), "upstream", "", {}),
        ((400, {"error": "bad shape"}), "invalid", "bad shape", {"direct": 1, "queue": 1}),
        ((404, {"error": "no such model"}), "not_found", "no such model", {"direct": 1, "queue": 1}),
        ((504, {"error": "too late"}), "deadline_exceeded", "too late", {"direct": 1, "queue": 1}),
        ((418, "<html>teapot</html>"), "invalid", "teapot", {"direct": 1, "queue": 1}),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_model_that_does_not_answer_well(
    before_model: Gateway, model: FakeModel, connect: Connect,
    route: str, answer: tuple[int, Any], code: str, said: str, asked: dict[str, int],
) -> None:  # fmt: skip
    model.answer = answer
    client = await connect(before_model)
    await ask(client, "r", route=route)
    error = await client.answer("r")
    assert (error["type"], error["code"]) == ("error", code), error
    assert said in error["message"]
    assert len(model.asked) == asked.get(route, len(model.asked))
    model.reset()
    await ask(client, "next", route=route)
    assert (await client.answer("next"))["type"] == "result"


async def test_poison_on_the_requests_topic_ends_and_holds_up_nobody(
    before_model: Gateway, model: FakeModel, connect: Connect, push: Any
) -> None:
    client = await connect(before_model)
    session = client.welcome["session"]
    bodies = {"deep": b"[" * 50_000 + b"]" * 50_000, "noise": b"\xff\x00", "empty": b"", "both": b'{"data":1,"inputs":[]}',
              "deep-data": b'{"data":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
              "parameters": b'{"data":[1,2],"parameters":7}'}  # fmt: skip
    for name, body in bodies.items():
        headers = {"ce_id": name, "ce_subject": session, "model": "fake"}
        push(kafka_of(before_model), "same-partition", body, headers=headers, topic="podpair.requests")
    push(kafka_of(before_model), "same-partition", b"{}", topic="podpair.requests")  # no header at all
    headers = {"ce_id": "good", "ce_subject": session, "model": "fake"}
    push(kafka_of(before_model), "same-partition", b'{"data":[1,2]}', headers=headers, topic="podpair.requests")
    ended: dict[str, str] = {}
    async with asyncio.timeout(PATIENCE):
        while len(ended) < len(bodies) + 1:
            event = await client.next()
            ended[event["id"]] = event.get("code", event["type"])
    assert ended.pop("good") == "result"
    ended.pop("parameters")
    assert set(ended.values()) == {"invalid"}


async def test_a_busy_model_refuses_direct_and_spills_auto(
    before_model: Gateway, model: FakeModel, connect: Connect
) -> None:
    model.answer = (429, {"error": "full"})
    client = await connect(before_model)
    await ask(client, "direct", route="direct")
    error = await client.answer("direct")
    assert (error["code"], error["retry_after_ms"] > 0) == ("overloaded", True)
    await ask(client, "auto", route="auto")
    # Where it was refused at once its client hears only of the way that it has gone on.
    while (await client.event("accepted", id="auto"))["route"] == "direct":
        pass
    model.reset()
    assert "position" in await client.answer("auto")


async def test_full_is_said_at_once(before_model: Gateway, model: FakeModel, connect: Connect) -> None:
    """limits.max_direct_in_flight is 4 and limits.in_flight is 6 here."""
    model.open.clear()
    client = await connect(before_model)
    for n in range(4):
        await ask(client, f"d{n}", route="direct")
        await client.event("accepted", id=f"d{n}", route="direct")
    await ask(client, "d4", route="direct")
    error = await client.answer("d4")
    assert (error["code"], error["message"]) == ("overloaded", "4 direct requests are running")
    assert error["retry_after_ms"] > 0
    for n in range(2):
        await ask(client, f"a{n}")
        assert (await client.event("accepted", id=f"a{n}"))["route"] == "queue"
    await ask(client, "a2")
    error = await client.answer("a2")
    assert (error["code"], error["message"]) == ("overloaded", "6 requests of this session are in flight")
    model.open.set()
    open_ids = {"d0", "d1", "d2", "d3", "a0", "a1"}
    while open_ids:
        open_ids.discard((await client.event("result"))["id"])


async def test_a_retry_of_what_still_runs_runs_once(before_model: Gateway, model: FakeModel, connect: Connect) -> None:
    model.open.clear()
    first = await connect(before_model)
    await ask(first, "r", route="direct")
    await first.event("accepted", id="r")
    second = await connect(before_model, params=resuming(first))
    assert second.welcome["gateway"] == first.welcome["gateway"]
    await ask(second, "r", route="direct", retry=True)
    assert (await second.event("accepted", id="r"))["route"] == "direct"
    model.open.set()
    assert (await second.answer("r"))["type"] == "result"
    assert len(model.asked) == 1


@pytest.mark.parametrize("stays", ["detach", "cancel"])
async def test_a_client_that_leaves(before_model: Gateway, model: FakeModel, connect: Connect, stays: str) -> None:
    """Its answer waits in Kafka, unless it wanted it cancelled."""
    model.open.clear()
    first = await connect(before_model)
    await ask(first, "r", route="direct", on_disconnect=stays)
    await first.event("accepted", id="r")
    connected = before_model.metric("sessions")
    written = before_model.metric("records_written_total", topic="podpair.results")
    await first.socket.close()
    await soon(lambda: before_model.metric("sessions") < connected)
    model.open.set()
    await soon(lambda: before_model.metric("records_written_total", topic="podpair.results") > written)
    second = await connect(before_model, params=resuming(first))
    answer = await second.answer("r")
    assert "position" in answer
    assert (answer["type"], answer.get("code")) == (("result", None) if stays == "detach" else ("error", "cancelled"))


async def test_a_model_that_goes_away_costs_a_queued_request_nothing(
    before_model: Gateway, model: FakeModel, connect: Connect
) -> None:
    model.ready = False
    await soon(lambda: before_model.metric("requests_paused") == 1)
    assert before_model.get("/readyz")[0] == 503
    client = await connect(before_model)
    await ask(client, "direct", route="direct")
    assert (await client.answer("direct"))["message"] == "the model is not ready"
    for route in ("queue", "auto"):
        await ask(client, route, route=route)
        assert (await client.event("accepted", id=route))["route"] == "queue"
    model.ready = True
    assert {(await client.event("result"))["id"] for _ in range(2)} == {"queue", "auto"}
    assert len(model.asked) == 2


async def test_what_passes_through_is_not_changed(before_model: Gateway, model: FakeModel, connect: Connect) -> None:
    client = await connect(before_model)
    for route in ("direct", "queue"):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2], "parameters": {"a": "\u00fc"}}
        await ask(client, route, data=None, inputs=[tensor], parameters={"n": 12345678901234567890}, route=route)
        assert json.loads(json.dumps((await client.answer(route))["outputs"]))[0]["data"] == [1.0]
        assert model.asked[-1] == {"id": route, "inputs": [tensor], "parameters": {"n": 12345678901234567890}}


async def test_many_sessions_at_once_share_calls_and_each_gets_its_own(pair: Gateway, connect: Connect) -> None:
    """Through the real pair: what was asked together is answered as what is asked alone."""
    alone = await connect(pair)
    rows = [[(k * 7 + n) % 17 / 16 for n in range(64)] for k in range(10)]
    expected = []
    for k, row in enumerate(rows):
        await alone.infer(f"alone{k}", data=row)
        expected.append((await alone.answer(f"alone{k}"))["data"])
    calls = pair.metric("upstream_calls_total", mode="batch")
    clients = [await connect(pair) for _ in range(6)]
    for k in range(10):
        for client in clients:
            await client.infer(f"r{k}", data=rows[k], route="direct")
    for client in clients:
        events: dict[str, list[str]] = {}
        answers = {}
        while len(answers) < 10:
            event = await client.next()
            events.setdefault(event["id"], []).append(event["type"])
            if event["type"] != "accepted":
                answers[event["id"]] = event
        assert set(map(tuple, events.values())) == {("accepted", "result")}
        for k in range(10):
            data = answers[f"r{k}"]["data"]
            assert data["label"] == expected[k]["label"]
            assert data["probabilities"] == pytest.approx(expected[k]["probabilities"], abs=1e-5)
    assert pair.metric("upstream_calls_total", mode="batch") - calls < 10 * 6
    assert pair.metric("request_duration_seconds_count", model="digits") >= 10 * 7
