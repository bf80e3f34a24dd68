"""Direct requests of plain rows, which are begun by the read and ended by the call, end like any other; and what asks for more
is not taken for one.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.conftest import Client, Connect, resuming
from gateway.core.test_frame_reader import frame
from gateway.fake_model import FakeModel
from harness.pair import Gateway, token
from harness.waiting import soon
from podpair.gateway.core.frame_reader import CONTINUATION, PING, TEXT

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def _gateway(start_before_fake: Callable[..., Gateway]) -> Gateway:
    return start_before_fake(
        batching={"include": ["rows"], "max_rows": 2},  # whatever its server says: its rows share calls
        limits={"max_direct_in_flight": 4, "in_flight": 6},
        requests={"max_attempts": 2, "backoff_seconds": 0.05},
        admission={"load_shedding": False},
    )


@pytest.fixture
def gateway(model: FakeModel, _gateway: Gateway) -> Iterator[Gateway]:
    yield _gateway
    model.reset()
    _gateway.wait_ready()


async def begin(gateway: Gateway, connect: Connect, **more: Any) -> Client:
    """A client whose next rows are begun at once: the model is known, and the last one was a plain row, too."""
    client = await connect(gateway, **more)
    await ask(client, "known")
    assert (await client.answer("known"))["type"] == "result"
    return client


def row(request_id: str, **members: Any) -> dict[str, Any]:
    return {"type": "infer", "id": request_id, "model": "rows", "data": [1.0, 2.0], "route": "direct", **members}


async def ask(client: Client, request_id: str, **members: Any) -> None:
    await client.send(row(request_id, **members))


def together(client: Client, *messages: Any) -> None:
    """Send messages in one write."""
    texts = [message if isinstance(message, str) else json.dumps(message) for message in messages]
    transport: Any = client.socket._conn.transport  # type: ignore[union-attr]
    transport.write(b"".join([frame(TEXT, text.encode()) for text in texts]))


@pytest.mark.parametrize(("status", "code"), [(429, "overloaded"), (500, "upstream"), (400, "invalid")])
async def test_what_the_model_says_against_it(
    gateway: Gateway, model: FakeModel, connect: Connect, status: int, code: str
) -> None:
    client = await begin(gateway, connect)
    calls = gateway.metric("upstream_calls_total", mode="batch")
    model.answer = (status, {"error": "no"})
    await ask(client, "r")
    assert (await client.event("accepted"))["id"] == "r"
    assert (await client.answer("r"))["code"] == code
    assert gateway.metric("upstream_calls_total", mode="batch") > calls
    assert gateway.metric("direct_in_flight") == 0
    model.reset()
    await ask(client, "next")
    assert (await client.answer("next"))["type"] == "result"


async def test_one_that_the_model_refuses_goes_on_through_kafka_with_its_numbers(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await begin(gateway, connect)
    model.answer = (429, {"error": "full"})
    await ask(client, "r", route="auto", data=[0.1, 1e-3])
    while (await client.event("accepted", id="r"))["route"] == "direct":
        pass
    model.reset()
    assert "position" in await client.answer("r")
    assert model.asked[-1]["inputs"][0]["data"] == pytest.approx([0.1, 1e-3])


async def test_one_that_is_cancelled_ends_there_and_its_place_is_free(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await begin(gateway, connect)
    model.open.clear()
    for request_id in ("q", "r"):
        await ask(client, request_id)
        await client.event("accepted", id=request_id)
        await client.send({"type": "cancel", "id": request_id})
        assert (await client.answer(request_id))["code"] == "cancelled"
        assert gateway.metric("direct_in_flight") == 0
    # The answer of the one before is not the next one's.
    model.open.set()
    await ask(client, "s")
    assert (await client.answer("s"))["type"] == "result"
    assert not [event for event in client.skipped if event["type"] == "result"]


async def test_a_call_whose_requests_are_all_cancelled_holds_up_none_behind_them(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await begin(gateway, connect)
    model.open.clear()
    await ask(client, "first")
    await client.event("accepted", id="first")
    together(client, row("second"), row("third"), row("fourth"))  # two would be the next call
    await client.event("accepted", id="fourth")
    for request_id in ("second", "third"):
        await client.send({"type": "cancel", "id": request_id})
        assert (await client.answer(request_id))["code"] == "cancelled"
    model.open.set()
    assert (await client.answer("first"))["type"] == "result"
    assert (await client.answer("fourth"))["type"] == "result"


async def test_the_answer_of_a_client_that_has_left_is_in_kafka(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    first = await begin(gateway, connect, sub="leaver")
    model.open.clear()
    await ask(first, "r")
    await first.event("accepted", id="r")
    connected = gateway.metric("sessions")
    await first.socket.close()
    await soon(lambda: gateway.metric("sessions") < connected)
    model.open.set()
    second = await connect(gateway, sub="leaver", params=resuming(first))
    assert (await second.answer("r"))["type"] == "result"


async def test_an_id_that_is_open_or_has_ended_is_not_run_again(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await begin(gateway, connect)
    asked = len(model.asked)
    model.open.clear()
    together(client, row("r"), row("r"), row("r", retry=True), row("known"))
    assert "already in flight" in (await client.event("error"))["message"]
    assert (await client.answer("known"))["type"] == "result"  # the one that it had
    model.open.set()
    first = await client.answer("r")
    for _ in range(20):  # also among answers that came later
        await ask(client, "r")
        assert await client.answer("r") == first
    assert len(model.asked) == asked + 1


async def test_what_stands_between_rows_comes_in_its_order(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await begin(gateway, connect)
    model.open.clear()
    together(
        client, row("a"), {"type": "cancel", "id": "a"}, "noise", row("e"), row("b", deadline_ms=20),
        {"type": "refresh", "token": token()}, row("c", model="none"), row("d", route="queue"),
    )  # fmt: skip
    assert (await client.answer("a"))["code"] == "cancelled"
    assert "not JSON" in (await client.event("error"))["message"]
    await client.event("welcome")
    assert (await client.answer("b"))["code"] == "deadline_exceeded"
    model.open.set()
    assert (await client.answer("e"))["type"] == "result"
    assert "position" in await client.answer("d")
    routes = {event["id"]: event["route"] for event in client.skipped if event["type"] == "accepted"}
    assert routes == {"known": "direct", "a": "direct", "e": "direct", "b": "direct", "c": "direct", "d": "queue"}


@pytest.mark.parametrize("route", ["direct", "auto"])
async def test_no_more_are_begun_than_the_model_and_the_session_may_have(
    gateway: Gateway, model: FakeModel, connect: Connect, route: str
) -> None:
    client = await begin(gateway, connect)
    model.open.clear()
    together(client, *[row(f"r{number}", route=route) for number in range(8)])
    refused = [await client.event("error"), await client.event("error")]
    if route == "direct":
        refused += [await client.event("error"), await client.event("error")]
        assert {event["message"] for event in refused} == {"4 direct requests are running"}
    else:
        assert {event["message"] for event in refused} == {"6 requests of this session are in flight"}
    assert [event["id"] for event in refused] == [f"r{number}" for number in range(8 - len(refused), 8)]
    assert gateway.metric("direct_in_flight") == 4
    model.open.set()
    left = {f"r{number}" for number in range(8 - len(refused))}
    while left:
        left.discard((await client.event("result"))["id"])


async def test_a_client_with_a_grant_is_counted(
    model: FakeModel, connect: Connect, start_before_fake: Callable[..., Gateway]
) -> None:
    rules = [{"claim": "sub", "in_flight": 1}]
    gateway = start_before_fake(batching={"include": ["rows"]}, admission={"rules": rules})
    client = await begin(gateway, connect)
    model.open.clear()
    together(client, row("a"), row("b"))
    assert "in flight" in (await client.answer("b"))["message"]
    model.open.set()
    assert (await client.answer("a"))["type"] == "result"


def wire(client: Client) -> Any:
    return client.socket._conn.transport  # type: ignore[union-attr]


def text(message: Any) -> bytes:
    return frame(TEXT, json.dumps(message).encode())


async def test_rows_behind_a_ping_do_not_overtake_what_stands_before_it(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await begin(gateway, connect)
    model.open.clear()
    wire(client).write(text(row("x", route="queue")) + frame(PING) + text(row("x")))
    assert "already in flight" in (await client.event("error"))["message"]
    model.open.set()
    assert "position" in await client.answer("x")
    assert [event["route"] for event in client.skipped if event.get("id") == "x"] == ["queue"]


async def test_what_waits_behind_a_refresh_keeps_its_order(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await begin(gateway, connect)
    model.open.clear()
    cancel = json.dumps({"type": "cancel", "id": "b"}).encode()
    wire(client).write(
        text({"type": "refresh", "token": token()}) + text(row("b"))
        + frame(TEXT, cancel[:9], fin=False) + frame(CONTINUATION, cancel[9:])
    )  # fmt: skip
    await client.event("welcome")
    assert (await client.answer("b"))["code"] == "cancelled"
    assert gateway.metric("direct_in_flight") == 0


async def test_what_stands_before_a_frame_that_is_none_is_begun(
    gateway: Gateway, model: FakeModel, connect: Connect
) -> None:
    client = await begin(gateway, connect, sub="breaker")
    wire(client).write(text(row("x", route="queue")) + frame(TEXT, b"\xff"))
    assert await client.closed() == 1007
    second = await connect(gateway, sub="breaker", params=resuming(client))
    assert "position" in await second.answer("x")


async def test_an_answer_without_outputs_is_one(gateway: Gateway, model: FakeModel, connect: Connect) -> None:
    client = await begin(gateway, connect)
    model.answer = (200, {"outputs": [], "model_version": "1"})
    await ask(client, "r")
    answer = await client.answer("r")
    assert (answer["type"], answer.get("data")) == ("result", {})
