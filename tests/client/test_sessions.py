"""What a user of podpair.client sees while the connection holds."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from podpair import client

Open = Callable[..., Any]


async def test_a_request_is_answered_with_its_data_timing_and_route(gateway: Any, open_session: Open) -> None:
    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", [0.0, 0.5], deadline=2.0, parameters={"k": 1}))
    frame = await connection.infer()
    assert frame | {"id": "x", "deadline_ms": 0} == {
        "type": "infer",
        "id": "x",
        "model": "digits",
        "data": [0.0, 0.5],
        "parameters": {"k": 1},
        "deadline_ms": 0,
    }
    assert 1900 < frame["deadline_ms"] <= 2000
    await connection.answer(frame, route="queue", model_version="1", timing={"queue_ms": 3}, position="e.3.1")
    result = await asking
    assert result.data == {"label": "7"}
    assert (result.model, result.model_version, result.route) == ("digits", "1", "queue")
    assert (result.timing, result.position, result.outputs) == ({"queue_ms": 3}, "e.3.1", None)
    assert session.position == "e.3.1"


async def test_the_token_and_the_subprotocol_go_with_the_upgrade(open_session: Open) -> None:
    session, connection = await open_session()
    assert connection.offered == ["podpair.v1"]
    assert connection.request.headers["Authorization"] == "Bearer jwt"
    assert connection.query == {}
    assert (session.session, session.state, session.gateway) == ("s-1", "open", "gateway-a")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid", client.Invalid),
        ("unauthorized", client.Unauthorized),
        ("not_found", client.NotFound),
        ("overloaded", client.Overloaded),
        ("deadline_exceeded", client.DeadlineExceeded),
        ("cancelled", client.Cancelled),
        ("upstream", client.Upstream),
        ("internal", client.Internal),
    ],
)
async def test_each_error_code_raises_its_own_class(open_session: Open, code: str, kind: type[Exception]) -> None:
    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    frame = await connection.infer()
    error = {"type": "error", "id": frame["id"], "code": code, "message": "what happened", "retry_after_ms": 1500}
    await connection.send(error)
    with pytest.raises(kind, match="what happened") as raised:
        await asking
    assert isinstance(raised.value, client.PodpairError)
    assert (raised.value.id, raised.value.retry_after) == (frame["id"], 1.5)


async def test_cancelling_the_task_cancels_the_request(open_session: Open) -> None:
    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    frame = await connection.infer()
    asking.cancel()
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}
    # What comes for it afterwards concerns nobody; the session goes on.
    await connection.answer(frame)
    again = asyncio.create_task(session.infer("digits", [1.0]))
    await connection.answer(await connection.infer())
    assert (await again).data == {"label": "7"}


async def test_a_stream_gives_its_parts_and_then_its_result(open_session: Open) -> None:
    session, connection = await open_session()
    stream = session.stream("chat", "hello")

    async def collect() -> list[Any]:
        return [part async for part in stream]

    collecting = asyncio.create_task(collect())
    frame = await connection.infer()
    parts = [{"type": "partial", "id": frame["id"], "seq": n, "data": word} for n, word in enumerate(["a", "b"])]
    await connection.send(*parts, parts[1])  # the second one comes twice: a run that began again
    await connection.answer(frame)
    assert await collecting == ["a", "b"]
    assert stream.result is not None
    assert stream.result.data == {"label": "7"}


async def test_leaving_a_stream_early_cancels_it(open_session: Open) -> None:
    session, connection = await open_session()

    async def first() -> Any:
        async for part in session.stream("chat", "hello"):
            return part
        return None

    reading = asyncio.create_task(first())
    frame = await connection.infer()
    await connection.send({"type": "partial", "id": frame["id"], "seq": 0, "data": "a"})
    assert await reading == "a"
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}


async def test_pushes_arrive_in_order_as_json_or_bytes(open_session: Open) -> None:
    session, connection = await open_session()
    await connection.send(
        {"type": "push", "data": {"hello": "world"}, "position": "e.3.1"},
        {"type": "push", "data_base64": "AP8=", "position": "e.3.2"},
    )
    pushes = aiter(session.pushes())
    assert await anext(pushes) == client.Push({"hello": "world"}, "e.3.1")
    assert await anext(pushes) == client.Push(b"\x00\xff", "e.3.2")


async def test_pushes_that_nobody_takes_are_bounded_and_the_loss_is_declared(open_session: Open) -> None:
    gaps: list[client.Gap] = []
    both = asyncio.Event()

    def on_gap(gap: client.Gap) -> None:
        gaps.append(gap)
        if len(gaps) == 2:
            both.set()

    session, connection = await open_session(max_pushes=2, on_gap=on_gap)
    await connection.send(*({"type": "push", "data": n, "position": f"e.3.{n}"} for n in (1, 2, 3)))
    await connection.send({"type": "gap", "from": "e.3.3", "to": "e.3.9", "reason": "retention"})
    await both.wait()
    pushes = aiter(session.pushes())
    assert [(await anext(pushes)).data for _ in range(2)] == [2, 3]
    assert gaps == [client.Gap(None, "e.3.1", "buffer"), client.Gap("e.3.3", "e.3.9", "retention")]
    assert session.position == "e.3.9"


async def test_no_more_requests_are_on_the_wire_than_the_gateway_takes(open_session: Open) -> None:
    session, connection = await open_session(welcome={"limits": {"in_flight": 1}})
    first, second = (asyncio.create_task(session.infer("digits", [n])) for n in (1, 2))
    frame = await connection.infer()
    assert connection.frames.empty()
    await connection.answer(frame)
    await first
    await connection.answer(await connection.infer())
    await second


async def test_infer_waits_while_the_clients_own_queue_is_full(open_session: Open) -> None:
    session, connection = await open_session(max_open=1)
    first = asyncio.create_task(session.infer("digits", [1]))
    frame = await connection.infer()
    with pytest.raises(client.DeadlineExceeded, match="own queue"):
        await session.infer("digits", [2], deadline=0.01)
    await connection.answer(frame)
    await first


@pytest.mark.parametrize(
    ("data", "message"), [([0.0] * 5000, r"20\d\d\d bytes as JSON, this gateway takes 10000"), (object(), "not JSON")]
)
async def test_what_cannot_be_sent_is_refused_here(open_session: Open, data: Any, message: str) -> None:
    session, connection = await open_session()
    with pytest.raises(client.Invalid, match=message):
        await session.infer("digits", data)
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    await connection.answer(await connection.infer())
    await asking


async def test_a_request_says_which_trace_it_belongs_to(open_session: Open) -> None:
    session, connection = await open_session()
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("test").start_as_current_span("mine") as span:
        asking = [
            asyncio.create_task(session.infer("m", [1])),
            asyncio.create_task(session.infer("m", [1], traceparent="p")),
        ]
        frames = [await connection.infer() for _ in asking]
    asking.append(asyncio.create_task(session.infer("m", [1])))
    frames.append(await connection.infer())
    for frame in frames:
        await connection.answer(frame)
    await asyncio.gather(*asking)
    context = span.get_span_context()
    active = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert [frame.get("traceparent") for frame in frames] == [active, "p", None]
    provider.shutdown()


async def test_a_deadline_holds_without_the_gateways_word(open_session: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podpair.client.session.DEADLINE_GRACE", 0.0)
    session, connection = await open_session()
    with pytest.raises(TimeoutError):
        await session.infer("digits", [0.0], deadline=0.02)
    frame = await connection.infer()
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}


async def test_the_answer_to_a_request_posted_over_http(open_session: Open) -> None:
    session, connection = await open_session()
    waiting = asyncio.create_task(session.result("r-http"))
    await asyncio.sleep(0)
    await connection.send({"type": "result", "id": "r-http", "data": {"label": "3"}, "position": "e.3.4"})
    assert (await waiting).data == {"label": "3"}


async def test_arrays_are_sent_as_lists(open_session: Open) -> None:
    class Array:
        def tolist(self) -> list[float]:
            return [0.25]

    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", Array()))
    frame = await connection.infer()
    assert frame["data"] == [0.25]
    await connection.answer(frame)
    await asking


async def test_closing_ends_what_is_open(open_session: Open) -> None:
    states: list[str] = []
    session, connection = await open_session(on_state=states.append)
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    await connection.infer()
    await session.close()
    with pytest.raises(client.SessionClosed):
        await asking
    assert await connection.gone() == 1000
    assert [push async for push in session.pushes()] == []
    with pytest.raises(client.SessionClosed):
        await session.infer("digits", [0.0])
    assert states == ["open", "closed"]


async def test_a_frame_that_is_no_event_is_ignored(open_session: Open) -> None:
    seen: list[Any] = []
    session, connection = await open_session(on_event=seen.append)
    await connection.text("nonsense")
    await connection.text("[1]")
    await connection.send({"type": "of a newer gateway"}, {"type": "error", "code": "invalid", "message": "no id"})
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    await connection.answer(await connection.infer())
    await asking
    assert [event["type"] for event in seen] == ["welcome", "of a newer gateway", "error", "accepted", "result"]


async def test_an_answer_that_is_waited_for_again_and_again_takes_one_place(open_session: Open) -> None:
    session, connection = await open_session(welcome={"limits": {"in_flight": 2}})
    for _ in range(3):
        waiting = asyncio.create_task(session.result("r-http"))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="'r-http' is already open"):
            await session.result("r-http")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    last = asyncio.create_task(session.result("r-http"))
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    await connection.answer(await connection.infer())
    await connection.send({"type": "result", "id": "r-http", "data": 7, "model": "digits"})
    assert (await asking).data == {"label": "7"}
    assert (await last).data == 7


async def test_no_answer_is_waited_for_in_a_session_that_is_closed(open_session: Open) -> None:
    session, _ = await open_session()
    await session.close()
    with pytest.raises(client.SessionClosed):
        await asyncio.wait_for(session.result("r-http"), 5)
