"""Requests that arrive while a call is in flight go together, and each gets its own."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.upstream.conftest import Asker, RowsServer
from harness.waiting import soon
from podpair.gateway.core.model_errors import Failed
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest

Begin = Callable[..., Awaitable[Asker]]


async def held(server: RowsServer, asker: Asker, model: str = "rows") -> "asyncio.Task[dict[str, Any]]":
    """A call that is in flight until the server is opened."""
    server.open.clear()
    task = asker.ask("first", [1.0, 1.0], model)
    await server.had(1)
    return task


async def test_nothing_waits_while_the_model_is_idle(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    assert (await inference.ask("a", [1.0, 2.0]))["data"] == {"y": 3.0}
    assert rows_server.rows == [1]
    assert rows_server.calls[0]["document"]["id"] == "a"


async def test_what_arrives_during_a_call_is_the_next_call_and_comes_apart_by_row(
    rows_server: RowsServer, asker: Begin
) -> None:
    inference = await asker()
    first = await held(rows_server, inference)
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[7, 8], [9, 10]]}
    others = [
        inference.ask("row", [1.0, 2.0]),
        inference.ask("rows", ((3, 4), (5, 6))),
        inference.ask("tensors", None, inputs=[tensor]),
        inference.ask("flat", None, inputs=[tensor | {"data": [7, 8, 9, 10]}]),
    ]
    await asyncio.sleep(0)
    rows_server.open.set()
    assert (await first)["data"] == {"y": 2.0}
    answers = [await task for task in others]
    assert rows_server.rows == [1, 7]
    assert "id" not in rows_server.calls[1]["document"]
    assert [answer.get("data") for answer in answers] == [{"y": 3.0}, {"y": [7.0, 11.0]}, None, None]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [2], "data": [15.0, 19.0]}]
    assert [answer.get("outputs") for answer in answers] == [None, None, outputs, outputs]
    assert {answer["model_version"] for answer in answers} == {"1"}
    assert inference.metric("upstream_rows_total") == 8


@pytest.mark.parametrize("binary", [True, False])
async def test_a_thousand_requests_in_any_order_get_their_own_answers(
    rows_server: RowsServer, asker: Begin, binary: bool
) -> None:
    rows_server.binary = binary
    inference = await asker()
    draw = random.Random(3)
    rows = [[float(draw.randrange(100, 1000)), float(draw.randrange(1000))] for _ in range(1000)]
    tasks = []
    for number, row in enumerate(rows):
        tasks.append(inference.ask(f"r{number}", row if draw.random() < 0.7 else tuple(row)))
        if draw.random() < 0.05:
            await asyncio.sleep(0)
    answers = await asyncio.gather(*tasks)
    assert [answer["data"]["y"] for answer in answers] == [sum(row) for row in rows]
    assert sum(rows_server.rows) == 1000
    assert len(rows_server.calls) < 200
    assert {call["raw"] for call in rows_server.calls} == {binary}


async def test_a_call_has_one_lane_the_first_that_waits(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    first = await held(rows_server, inference)
    tasks = [
        inference.ask(f"r{n}", [float(n), 100.0 * lane], lane=lane) for n, lane in enumerate((2, 1, 0, 2, 1, 0, 2))
    ]
    await asyncio.sleep(0)
    rows_server.open.set()
    answers = await asyncio.gather(first, *tasks)
    assert [answer["data"]["y"] for answer in answers[1:]] == [200.0, 101.0, 2.0, 203.0, 104.0, 5.0, 206.0]
    assert [[row[0] for row in call["rows"]] for call in rows_server.calls[1:]] == [[2, 5], [1, 4], [0, 3, 6]]
    assert [call["headers"].get("podpair-priority") for call in rows_server.calls] == [None, "high", None, "low"]


async def test_the_last_lane_gets_each_eighth_call(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker(batching={"max_rows": 1})
    first = await held(rows_server, inference)
    tasks = [inference.ask(f"r{n}", [100.0 + n, 0.0], lane=2 if n < 3 else 1) for n in range(27)]
    await asyncio.sleep(0)
    rows_server.open.set()
    await asyncio.gather(first, *tasks)
    order = [int(call["rows"][0][0]) - 100 for call in rows_server.calls[1:]]
    assert [at for at, number in enumerate(order) if number < 3] == [7, 15, 23]
    assert [number for number in order if number >= 3] == list(range(3, 27))


async def test_no_lane_waits_for_ever_between_two_others(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker(batching={"max_rows": 1})
    first = await held(rows_server, inference)
    tasks = [inference.ask(f"r{n}", [100.0 + n, 0.0], lane=0 if n < 18 else 1 + n % 2) for n in range(24)]
    await asyncio.sleep(0)
    rows_server.open.set()
    await asyncio.gather(first, *tasks)
    numbers = [int(call["rows"][0][0]) - 100 for call in rows_server.calls[1:]]
    lanes = [0 if number < 18 else 1 + number % 2 for number in numbers]
    assert [at for at, lane in enumerate(lanes) if lane == 1] == [3, 11, 19]
    assert [at for at, lane in enumerate(lanes) if lane == 2] == [7, 15, 23]


@pytest.mark.parametrize(("bad", "error"), [(13.0, Fault), (14.0, Failed)])
async def test_a_request_that_fails_the_call_fails_alone(
    rows_server: RowsServer, asker: Begin, bad: float, error: type[Exception]
) -> None:
    inference = await asker()
    first = await held(rows_server, inference)
    tasks = [inference.ask(f"r{n}", [bad if n == 5 else float(n), 1.0]) for n in range(12)]
    await asyncio.sleep(0)
    rows_server.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    assert isinstance(answers[5], error)
    assert [a["data"]["y"] for a in answers if isinstance(a, dict)] == [n + 1.0 for n in range(12) if n != 5]
    assert len(rows_server.calls) <= 1 + 2 * 12 - 1
    assert inference.metric("batch_splits_total") >= 1


async def test_values_that_the_tensor_does_not_hold_are_the_models_to_judge(
    rows_server: RowsServer, asker: Begin
) -> None:
    """They go alone, as their client wrote them; the others are not held up by them."""
    inference = await asker()
    first = await held(rows_server, inference)
    large, good = inference.ask("large", [1e300, 0.0]), inference.ask("good", [1.0, 2.0])
    await rows_server.had(2)
    rows_server.open.set()
    assert (await good)["data"] == {"y": 3.0}
    assert (await large)["data"] == {"y": 1e300}
    await first
    assert rows_server.calls[1]["document"]["inputs"][0]["data"] == [1e300, 0.0]


@pytest.mark.parametrize(
    ("config", "model", "members"),
    [
        ({"enabled": False}, "rows", {}),
        ({"exclude": ["rows"]}, "rows", {}),
        ({}, "fixed", {}),
        ({}, "unbatched", {}),
        ({}, "rows", {"parameters": {"sequence_id": 7}}),
        ({"max_bytes": 4}, "rows", {}),
        ({"max_rows": 1}, "rows", {}),
    ],
    ids=["off", "opted out", "no rows", "server says no", "a sequence", "too many bytes", "one row"],
)
async def test_what_must_not_share_goes_alone(
    rows_server: RowsServer, asker: Begin, config: dict[str, Any], model: str, members: dict[str, Any]
) -> None:
    inference = await asker(batching=config)
    first = await held(rows_server, inference, model)
    tasks = [inference.ask(f"r{n}", [float(n), 1.0], model, **members) for n in range(3)]
    await asyncio.sleep(0)
    rows_server.open.set()
    assert [(await task)["data"]["y"] for task in tasks] == [1.0, 2.0, 3.0]
    await first
    assert rows_server.rows == [1, 1, 1, 1]


async def test_requests_share_with_their_like_only(rows_server: RowsServer, asker: Begin) -> None:
    """Parameters belong to a call: those that are equal go together."""
    inference = await asker()
    await inference.ask("known", [0.0, 0.0])
    rows_server.open.clear()
    tasks = [
        inference.ask(f"{n}{kind}", [float(n), 1.0], parameters={"k": kind}) for kind in ("a", "b") for n in range(4)
    ]
    await rows_server.had(3)
    rows_server.open.set()
    assert [(await task)["data"]["y"] for task in tasks] == [1.0, 2.0, 3.0, 4.0] * 2
    asked = {call["document"]["parameters"].get("k"): len(call["rows"]) for call in rows_server.calls[1:]}
    assert asked == {"a": 4, "b": 4}


async def test_a_call_has_no_more_rows_than_the_model_takes(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    first = await held(rows_server, inference, "four")
    tasks = [inference.ask(f"r{n}", [float(n), 1.0], "four") for n in range(9)]
    many = inference.ask("many", tuple((n, 1) for n in range(9)), "four")
    await asyncio.sleep(0)
    rows_server.open.set()
    assert [(await task)["data"]["y"] for task in tasks] == [n + 1.0 for n in range(9)]
    assert (await many)["data"]["y"] == [n + 1.0 for n in range(9)]
    await first
    assert sorted(rows_server.rows) == [1, 1, 4, 4, 9]


async def test_a_model_with_more_instances_has_more_calls(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    first = await held(rows_server, inference, "two")
    second = inference.ask("second", [2.0, 2.0], "two")
    await rows_server.had(2)
    rows_server.open.set()
    assert [(await task)["data"]["y"] for task in (first, second)] == [2.0, 4.0]


async def test_a_model_that_mixes_rows_is_found_out_and_asked_singly(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    first = await held(rows_server, inference, "odd")
    tasks = [inference.ask(f"r{n}", [float(n), 1.0], "odd") for n in range(3)]
    await asyncio.sleep(0)
    rows_server.open.set()
    assert [(await task)["data"]["y"] for task in tasks] == [1.0, 2.0, 3.0]
    await first
    assert rows_server.rows == [1, 3, 1, 1, 1]


async def test_with_several_versions_only_one_sessions_requests_share(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    first = await held(rows_server, inference, "versions")
    tasks = [
        inference.ask(f"{key}{n}", [float(n), 1.0], "versions", key=key) for key in ("s-a", "s-b") for n in range(3)
    ]
    await rows_server.had(3)
    rows_server.open.set()
    assert [(await task)["data"]["y"] for task in tasks] == [1.0, 2.0, 3.0] * 2
    await first
    sent = [(call["headers"].get("podpair-key"), len(call["rows"])) for call in rows_server.calls[1:]]
    assert sorted(sent) == [("s-a", 3), ("s-b", 3)]


async def test_a_request_that_is_cancelled_while_it_waits_is_not_sent(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    first = await held(rows_server, inference)
    tasks = [inference.ask(f"r{n}", [float(n), 1.0]) for n in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.wait(tasks[1:2])
    rows_server.open.set()
    assert [(await tasks[n])["data"]["y"] for n in (0, 2)] == [1.0, 3.0]
    await first
    assert rows_server.rows == [1, 2]


async def test_requests_that_are_cancelled_before_their_call_begins_hold_nobody_up(
    rows_server: RowsServer, asker: Begin
) -> None:
    """As where a partition is taken away in the turn in which its requests were read."""
    inference = await asker()
    await inference.ask("first", [1.0, 1.0])  # the model is known from now on
    loop = asyncio.get_running_loop()
    told: list[Any] = []
    for number in range(8):  # more than may be in flight
        ask = inference.inference.submit(InferenceRequest(f"r{number}", "rows", row=[1.0, 2.0]), told.append)
        loop.call_soon(ask.cancel)  # behind the look that makes the call's task, and before the task's first step
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        assert (await inference.ask("last", [1.0, 3.0]))["data"] == {"y": 4.0}
    assert told == []
    assert rows_server.rows == [1, 1]


async def test_a_call_that_nobody_waits_for_is_given_up_and_one_that_somebody_does_is_not(
    rows_server: RowsServer, asker: Begin
) -> None:
    inference = await asker()
    first = await held(rows_server, inference)
    tasks = [inference.ask(f"r{n}", [float(n), 1.0]) for n in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await rows_server.had(2)
    assert rows_server.rows == [1, 2]
    tasks[0].cancel()
    rows_server.open.set()
    assert (await tasks[1])["data"]["y"] == 2.0
    await soon(lambda: rows_server.given_up)
    assert rows_server.given_up == 1


async def test_calls_that_are_given_up_before_they_begin_take_no_place(rows_server: RowsServer, asker: Begin) -> None:
    """All who wait for a call leave in the turn of the loop that made it: a burst of clients that are cut."""
    inference = await asker()
    assert (await inference.ask("first", [1.0, 1.0]))["data"]["y"] == 2.0
    loop = asyncio.get_running_loop()
    for number in range(20):
        ask = inference.inference.submit(InferenceRequest(f"gone-{number}", "rows", row=[1.0, 1.0]), lambda _: None)
        loop.call_soon(ask.cancel)  # behind the look that makes the call, before the call's first step
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert (await inference.ask("last", [2.0, 1.0]))["data"]["y"] == 3.0
    assert rows_server.rows == [1, 1]


async def test_a_deadline_that_passes_ends_its_request_and_no_other(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    first = await held(rows_server, inference)
    late = inference.ask("late", [1.0, 1.0], deadline=time.time() + 0.05)
    good = inference.ask("good", [2.0, 1.0], deadline=time.time() + 60)
    passed = inference.ask("passed", [2.0, 1.0], deadline=time.time() - 1)
    for task in (late, passed):
        with pytest.raises(Fault) as fault:
            await task
        assert fault.value.code is Code.DEADLINE_EXCEEDED
    rows_server.open.set()
    assert (await good)["data"] == {"y": 3.0}
    await first
    assert rows_server.rows == [1, 1]
    assert "podpair-deadline" in rows_server.calls[1]["headers"]


async def test_a_model_that_is_not_there(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    with pytest.raises(Fault) as fault:
        await inference.ask("a", [1.0, 2.0], "absent")
    assert fault.value.code is Code.NOT_FOUND


async def test_an_error_of_shorthand_says_what_a_row_is(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker()
    with pytest.raises(Fault, match="a row of input 'x' is 2"):
        await inference.ask("a", [1.0, 2.0, 3.0])
