"""What stages may declare, as a client sees it: conditions, fan-out, retries, compensation, approval, time-outs."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.workflows.events import hear, short, shorts
from harness.fake_workflows import FakeWorkflows, StepError
from harness.pair import Gateway

pytestmark = pytest.mark.process


@pytest.fixture
async def client(shared: Gateway, server: FakeWorkflows, connect: Callable[..., Awaitable[Any]]) -> Any:
    """A client of the gateway that the tests share; each declares its workflow under a name of its own."""
    return await connect(shared, sid=f"s-{server.number}")


async def run(client: Any, server: FakeWorkflows, stages: dict[str, Any], data: Any, **more: Any) -> Any:
    """Run a workflow of these stages; return what is told of it, and how it ends."""
    server.declare(server.flow, {"stages": stages, **more})
    await client.infer("r/1", model=server.flow, data=data)
    return await hear(client, "r/1")


async def echo(argument: Any, _: Any, __: Any) -> Any:
    return argument


async def test_items_fan_out_and_in(client: Any, server: FakeWorkflows) -> None:
    running = most = 0

    async def square(argument: Any, parameters: dict[str, Any], emit: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        await emit({"progress": {"at": argument["index"]}})
        return argument["item"] ** 2

    server.steps |= {"square": square, "echo": echo}
    stages = {
        "each": {"step": "square", "for_each": "request", "input": "{item: item, index: index}", "max_parallel": 2},
        "all": {"step": "echo", "input": "{sum: sum(each), list: each}"},
    }
    told, end = await run(client, server, stages, [1, 2, 3, 4])
    assert end["data"] == {"sum": 30, "list": [1, 4, 9, 16]}, end
    assert most == 2
    names = shorts(told)
    assert names[0] == "each started"
    for index in range(4):
        place = [names.index(f"each[{index}] {kind}") for kind in ("started", "progress", "finished")]
        assert place == sorted(place)
    assert names[-3:] == ["each finished", "all started", "all finished"]
    assert all(event["of"] == 4 for event in told if event["stage"] == "each" and "index" in event)
    at = f"user%2Fs-{server.number}/r%2F1"
    assert {parameters["key"] for parameters in server.ran} == {f"{at}/each/{n}" for n in range(4)} | {f"{at}/all"}


async def test_what_is_not_wanted_is_skipped(client: Any, server: FakeWorkflows) -> None:
    server.steps["echo"] = echo
    stages = {
        "a": {"step": "echo", "when": "request.wanted", "input": "'ran'"},
        "b": {"step": "echo", "input": "{a: a, b: request.wanted}"},
        "none": {"step": "echo", "for_each": "request.empty"},
    }
    told, end = await run(client, server, stages, {"wanted": "", "empty": []}, output="[b, none]")
    assert end["data"] == [{"a": None, "b": ""}, []], end
    assert "a skipped" in shorts(told)
    assert "a started" not in shorts(told)
    assert "none finished" in shorts(told)


async def test_a_failed_attempt_is_repeated_with_its_checkpoint(client: Any, server: FakeWorkflows) -> None:
    async def flaky(argument: Any, parameters: dict[str, Any], emit: Any) -> Any:
        if parameters["attempt"] < 3:
            await emit({"checkpoint": {"done": parameters["attempt"]}})
            raise StepError(500, f"no {parameters['attempt']}")
        return parameters["checkpoint"]

    server.steps["flaky"] = flaky
    told, end = await run(client, server, {"a": {"step": "flaky", "retry": {"attempts": 3, "backoff": "20ms"}}}, 1)
    assert json.loads(end["data"]) == {"done": 2}, end
    retries = [(event["attempt"], event["message"]) for event in told if event["event"] == "retrying"]
    assert [attempt for attempt, _ in retries] == [2, 3]
    assert "no 1" in retries[0][1]


async def test_a_request_at_fault_is_not_repeated(client: Any, server: FakeWorkflows) -> None:
    async def refuse(*_: Any) -> Any:
        raise StepError(400, "bad argument")

    server.steps["refuse"] = refuse
    told, end = await run(client, server, {"a": {"step": "refuse"}}, 1)
    assert (end["type"], end["code"], end["message"]) == ("error", "upstream", "stage a failed once: bad argument"), end
    assert shorts(told) == ["a started", "a failed"]


async def test_a_stage_may_fail(client: Any, server: FakeWorkflows) -> None:
    server.failures["shaky"] = [500] * 10
    retry = {"attempts": 2, "backoff": "10ms"}
    stages = {
        "a": {"model": "shaky", "on_error": "continue", "retry": retry},
        "b": {"model": "sure", "input": "request", "after": ["a"]},
    }
    told, end = await run(client, server, stages, [1, 2], output="{a: a, b: b.y}")
    assert end["data"] == {"a": None, "b": [2, 4]}, end
    assert shorts(told)[:3] == ["a started", "a retrying", "a started"]


async def test_what_was_done_is_compensated_the_last_first(client: Any, server: FakeWorkflows) -> None:
    undone: list[Any] = []

    async def undo(argument: Any, parameters: dict[str, Any], _: Any) -> Any:
        undone.append((argument, parameters["key"].split("/", 2)[2]))
        return None

    async def fail(*_: Any) -> Any:
        raise StepError(400, "no stock")

    server.steps |= {"echo": echo, "undo": undo, "fail": fail}
    stages = {
        "pay": {"step": "echo", "input": "'paid'", "compensate": {"step": "undo", "input": "output"}},
        "book": {
            "step": "echo", "for_each": "request", "input": "item", "after": ["pay"], "max_parallel": 1,
            "compensate": {"step": "undo", "input": "[output, index, pay]"},
        },
        "send": {"step": "fail", "after": ["book"]},
    }  # fmt: skip
    told, end = await run(client, server, stages, ["x", "y"])
    assert end["message"] == "stage send failed once: no stock; compensated: book[1], book[0], pay"
    assert undone == [(["y", 1, "paid"], "~book/1"), (["x", 0, "paid"], "~book/0"), ("paid", "~pay")]
    assert shorts(told)[-6:] == [
        "book[1] compensating", "book[1] compensated", "book[0] compensating", "book[0] compensated", "pay compensating",
        "pay compensated",
    ]  # fmt: skip


@pytest.mark.parametrize("early", [True, False])
async def test_an_approval(client: Any, server: FakeWorkflows, early: bool) -> None:
    opened = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hold(argument: Any, *_: Any) -> Any:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(opened.wait(), loop))
        return argument

    server.steps |= {"hold": hold, "echo": echo}
    stages = {
        "draft": {"step": "hold"},
        "approval": {"wait_for": "approved", "after": ["draft"]},
        "send": {"step": "echo", "input": "{draft: draft, by: approval.by}"},
    }
    server.declare(server.flow, {"stages": stages})
    await client.infer("r-2", model=server.flow, data="text")
    signal = {"type": "signal", "id": "r-2", "name": "approved"}
    told, _ = await hear(client, "r-2", "draft started")
    if early:
        await client.send(signal | {"data": {"by": "first"}})
        await client.send(signal | {"data": {"by": "second"}})
    opened.set()
    if not early:
        told += (await hear(client, "r-2", "approval waiting"))[0]
        assert told[-1]["until"] > time.time() + 86_000
        await client.send(signal | {"data": {"by": "first"}})
    more, end = await hear(client, "r-2")
    assert end["data"] == {"draft": "text", "by": "first"}, end
    names = [short(event) for event in told + more if event["stage"] == "approval"]
    assert names == ["approval waiting", "approval received", "approval finished"]


async def test_an_approval_that_never_comes(client: Any, server: FakeWorkflows) -> None:
    told, end = await run(client, server, {"ok": {"wait_for": "ok", "timeout": "100ms"}}, 1)
    assert end["message"] == "stage ok failed once: nobody sent 'ok' in 0.1 s", end
    assert shorts(told) == ["ok waiting", "ok failed"]


async def test_a_stage_that_never_ends(client: Any, server: FakeWorkflows) -> None:
    async def forever(*_: Any) -> Any:
        await asyncio.Event().wait()

    server.steps["forever"] = forever
    stages = {"a": {"step": "forever", "timeout": "100ms", "retry": {"attempts": 2, "backoff": "10ms"}}}
    told, end = await run(client, server, stages, 1)
    assert end["message"] == "stage a failed 2 times: no answer in 0.1 s", end
    assert shorts(told) == ["a started", "a retrying", "a started", "a failed"]


@pytest.mark.parametrize("how", ["cancel", "deadline", "timeout"])
async def test_it_ends_as_a_whole(client: Any, server: FakeWorkflows, how: str) -> None:
    undone: list[str] = []
    opened = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def forever(*_: Any) -> Any:
        await asyncio.Event().wait()

    async def undo(_: Any, parameters: dict[str, Any], __: Any) -> None:
        if how == "cancel":
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(opened.wait(), loop))
        undone.append(parameters["key"])

    server.steps |= {"echo": echo, "forever": forever, "undo": undo}
    stages = {"a": {"step": "echo", "compensate": {"step": "undo"}}, "b": {"step": "forever", "after": ["a"]}}
    server.declare(server.flow, {"stages": stages} | ({"timeout": "1s"} if how == "timeout" else {}))
    await client.infer("r-3", model=server.flow, data=1, **({"deadline_ms": 1000} if how == "deadline" else {}))
    if how == "cancel":
        await hear(client, "r-3", "b started")
        await client.send({"type": "cancel", "id": "r-3"})
        await client.send({"type": "cancel", "id": "r-3"})  # a second time has no effect
        told, end = await hear(client, "r-3", "a compensating")
        assert (shorts(told), end) == (["cancelling", "a compensating"], {})
        opened.set()
        told, end = await hear(client, "r-3")
        assert (shorts(told), undone) == (["a compensated"], [f"user%2Fs-{server.number}/r-3/~a"])
        assert (end["code"], end["message"]) == ("cancelled", "cancelled by its client; compensated: a"), end
    else:
        told, end = await hear(client, "r-3")
        assert end["code"] == "deadline_exceeded", end
        assert shorts(told)[-3:] == ["b started", "a compensating", "a compensated"]
    assert undone == [f"user%2Fs-{server.number}/r-3/~a"]


async def test_it_is_asked_through_the_queue_only(client: Any, server: FakeWorkflows) -> None:
    server.steps["echo"] = echo
    server.declare(server.flow, {"stages": {"a": {"step": "echo"}}})
    await client.infer("r-4", model=server.flow, data=[1], route="direct")
    end = await client.answer("r-4")
    assert (end["code"], "through the queue" in end["message"]) == ("invalid", True), end
    await client.infer("r-5", model=server.flow, data=[1], route="auto")
    assert (await client.answer("r-5"))["data"] == [1]
    await client.infer("r-6", model=server.flow, data=[1], route="direct")  # now it is known
    assert (await client.answer("r-6"))["code"] == "invalid"


async def test_a_gateway_that_runs_none_says_so(
    server: FakeWorkflows, start: Callable[..., Gateway], connect: Callable[..., Awaitable[Any]]
) -> None:
    server.steps["echo"] = echo
    server.declare(server.flow, {"stages": {"a": {"step": "echo"}}})
    client = await connect(start(workflows={"enabled": False}))
    for route in ("auto", "queue"):
        await client.infer(f"r-{route}", model=server.flow, data=[1], route=route)
        end = await client.answer(f"r-{route}")
        assert (end["code"], "workflows.enabled" in end["message"]) == ("invalid", True), end
