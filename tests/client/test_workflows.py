"""A workflow from its client's side: what it tells of its stages, signals to them, and its end."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from client.scripted import Connection
from podpair import client

Open = Callable[..., Any]


class Order:
    """A workflow that `follow` runs in a session; the test plays the gateway."""

    def __init__(self, session: client.Session) -> None:
        self.session = session
        self.runs: asyncio.Queue[client.Run] = asyncio.Queue()
        self.events: list[client.StageEvent] = []

    async def follow(self, **options: Any) -> Any:
        async with self.session.workflow("order", {"items": [1, 2]}, **options) as run:
            self.runs.put_nowait(run)
            async for event in run.events():
                self.events.append(event)
            return (await run.result()).data


async def begun(connection: Connection) -> dict[str, Any]:
    """Accept the next request as a queued one."""
    frame = await connection.infer()
    await connection.send({"type": "accepted", "id": frame["id"], "route": "queue"})
    return frame


def told(frame: dict[str, Any], seq: int, *events: dict[str, Any]) -> dict[str, Any]:
    return {"type": "partial", "id": frame["id"], "seq": seq, "data": list(events), "position": f"e.3.{seq}"}


async def test_the_events_of_its_stages_come_as_values_and_then_its_result(open_session: Open) -> None:
    session, connection = await open_session()
    order = Order(session)
    following = asyncio.create_task(order.follow())
    frame = await begun(connection)
    assert (frame["model"], frame["data"], frame["stream"]) == ("order", {"items": [1, 2]}, True)
    started = {"stage": "price", "event": "started", "time": 1.5, "attempt": 1, "index": 0, "of": 2}
    retrying = {"stage": "price", "event": "retrying", "time": 2.0, "attempt": 2, "message": "it was busy"}
    waiting = {"stage": "approve", "event": "waiting", "time": 3, "until": 99.5, "later member": 1}
    await connection.send(told(frame, 0, started, retrying), told(frame, 1, waiting))
    await connection.send({"type": "result", "id": frame["id"], "data": 7, "model": "order", "position": "e.3.9"})
    assert await following == 7
    assert order.events == [
        client.StageEvent("price", "started", 1.5, attempt=1, index=0, of=2),
        client.StageEvent("price", "retrying", 2.0, attempt=2, message="it was busy"),
        client.StageEvent("approve", "waiting", 3.0, until=99.5),
    ]


async def test_events_end_with_the_error_that_ended_the_workflow(open_session: Open) -> None:
    session, connection = await open_session()
    order = Order(session)
    following = asyncio.create_task(order.follow())
    frame = await begun(connection)
    failed = {"stage": "price", "event": "failed", "time": 1, "message": "no price"}
    await connection.send(told(frame, 0, failed))
    await connection.send({"type": "error", "id": frame["id"], "code": "upstream", "message": "price failed: no price"})
    with pytest.raises(client.Upstream, match="price failed"):
        await following
    assert [event.message for event in order.events] == ["no price"]


async def test_a_signal_is_sent_and_sent_again_after_a_reconnect(gateway: Any, open_session: Open) -> None:
    session, connection = await open_session()
    order = Order(session)
    following = asyncio.create_task(order.follow())
    run = await order.runs.get()
    frame = await begun(connection)
    data = {"approved": True}
    assert run.signal("approval", data)
    data["approved"] = False  # what was sent stays what it was
    signal = {"type": "signal", "id": frame["id"], "name": "approval", "data": {"approved": True}}
    assert await connection.frame() == signal
    connection.cut()
    connection = await gateway.welcomed()
    assert await connection.frame() == signal
    await connection.send({"type": "result", "id": frame["id"], "data": 1, "position": "e.3.9"})
    assert await following == 1
    assert not run.signal("approval", True), "it has ended"


async def test_a_signal_that_can_not_be_sent_says_so_and_harms_nothing(open_session: Open) -> None:
    session, connection = await open_session(welcome={"limits": {"message_bytes": 500}})
    order = Order(session)
    following = asyncio.create_task(order.follow())
    run = await order.runs.get()
    frame = await begun(connection)
    with pytest.raises(client.Invalid, match="message_bytes"):
        run.signal("approval", "x" * 500)
    with pytest.raises(client.Invalid, match="JSON"):
        run.signal("approval", object())
    assert run.signal("approval", "fine")
    assert (await connection.frame())["data"] == "fine"
    await connection.send({"type": "result", "id": frame["id"], "data": 1, "position": "e.3.9"})
    assert await following == 1
    await session.close()
    with pytest.raises(client.SessionClosed):
        run.signal("approval")


async def test_it_is_cancelled_as_a_whole_and_its_end_awaited(open_session: Open) -> None:
    session, connection = await open_session()
    order = Order(session)
    following = asyncio.create_task(order.follow())
    run = await order.runs.get()
    frame = await begun(connection)
    cancelling = asyncio.create_task(run.cancel())
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}
    compensated = {"stage": "pay", "event": "compensated", "time": 5}
    await connection.send(told(frame, 0, {"event": "cancelling", "time": 4}, compensated))
    await connection.send({"type": "error", "id": frame["id"], "code": "cancelled", "message": "", "position": "e.3.9"})
    assert await cancelling
    with pytest.raises(client.Cancelled):
        await following
    assert [(event.stage, event.event) for event in order.events] == [("", "cancelling"), ("pay", "compensated")]


async def test_one_that_waits_for_room_is_cancelled_at_once(open_session: Open) -> None:
    session, connection = await open_session(welcome={"limits": {"in_flight": 1}})
    first, second = Order(session), Order(session)
    tasks = [asyncio.create_task(order.follow()) for order in (first, second)]
    await begun(connection)
    run = await second.runs.get()
    assert await run.cancel()
    with pytest.raises(client.Cancelled):
        await tasks[1]
    assert connection.frames.empty()
    tasks[0].cancel()


async def test_leaving_the_block_early_cancels_it(open_session: Open) -> None:
    session, connection = await open_session()
    following = asyncio.create_task(Order(session).follow())
    frame = await begun(connection)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}
