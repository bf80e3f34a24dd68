"""Jobs of podpair-jobs.js in Node.js, against a gateway that does what the test says; and with those of podpair.client."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.javascript_folder import user_folder
from client.scripted import Connection, ScriptedGateway
from harness.javascript import node
from harness.processes import output_of
from podpair import client

pytestmark = pytest.mark.process

Program = Callable[..., "asyncio.Task[dict[str, Any]]"]


@pytest.fixture
def program(tmp_path: Path, gateway: ScriptedGateway) -> Program:
    """Starts jobs.mjs; the task's result is what it said."""
    folder, command = user_folder(tmp_path, "jobs.mjs"), node()

    async def run(**what: Any) -> dict[str, Any]:
        output = await asyncio.to_thread(
            output_of, command, "jobs.mjs", gateway.url, json.dumps(what), cwd=folder, env={}
        )
        said: dict[str, Any] = json.loads(output)
        return said

    return lambda **what: asyncio.create_task(run(**what))


def reference(*members: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


JOB = reference(1, "j", "s-1", "resume-1", "e.3.0")


async def accept(connection: Connection) -> dict[str, Any]:
    """Accept the next request as a queued one."""
    frame = await connection.infer()
    await connection.send({"type": "accepted", "id": frame["id"], "route": "queue"})
    return frame


def told(seq: int, *events: tuple[str, str]) -> dict[str, Any]:
    data = [{"stage": stage, "event": event, "time": 1.0} for stage, event in events]
    return {"type": "partial", "id": "j", "seq": seq, "data": data, "position": f"e.3.{seq + 1}"}


def end(**members: Any) -> dict[str, Any]:
    return {"type": "result", "id": "j", "data": 5, "model": "m", "position": "e.3.9", **members}


async def test_what_javascript_submits_python_follows(gateway: ScriptedGateway, program: Program) -> None:
    options = {"parameters": {"k": 1}, "stream": True, "deadline": 60_000}
    submitting = program(model="m", input=[1.0], options=options)
    connection = await gateway.welcomed(position="e.3.5")
    await connection.send({"type": "push", "data": 1, "position": "e.3.8"})  # it begins before
    frame = await accept(connection)
    assert 59_000 < frame.pop("deadline_ms") <= 60_000
    asked = {"model": "m", "data": [1.0], "parameters": {"k": 1}, "stream": True, "route": "queue"}
    assert frame == {"type": "infer", "id": frame["id"], **asked}
    assert await connection.gone() == 1000
    found = (await submitting)["reference"]

    async def result() -> Any:
        async with client.attach(gateway.url, found, token="jwt") as job:
            return (await job.result()).data

    following = asyncio.create_task(result())
    connection = await gateway.connection()
    assert connection.query == {"resume": "resume-1", "position": "e.3.5"}
    await connection.welcome()
    await connection.send(end(id=frame["id"]))
    assert await following == 5


async def test_what_python_submits_javascript_follows(gateway: ScriptedGateway, program: Program) -> None:
    submitting = asyncio.create_task(client.submit(gateway.url, "m", [1.0], token="jwt", id="Auftrag-ä"))
    await accept(await gateway.welcomed(position="e.3.5"))
    following = program(reference=await submitting)
    connection = await gateway.connection()
    assert connection.query == {"resume": "resume-1", "position": "e.3.5"}
    # The answer comes together with the welcome.
    await connection.welcome()
    await connection.send(end(id="Auftrag-ä"))
    assert await following == {"id": "Auftrag-ä", "session": True, "data": 5, "done": True}
    assert await connection.gone() == 1000


async def test_parts_come_from_the_first_on_and_leaving_the_loop_leaves_the_job(
    gateway: ScriptedGateway, program: Program
) -> None:
    part = {"type": "partial", "id": "j", "seq": 0, "data": "half", "position": "e.3.1"}
    following = program(reference=JOB, then="parts")
    await (await gateway.welcomed()).send(part, end())
    assert await following == {"parts": [["partial", "half"], ["result", 5]]}
    following = program(reference=JOB, then="first part")
    connection = await gateway.welcomed()
    await connection.send(part)
    assert await following == {"data": "half"}
    await connection.gone()
    assert connection.frames.empty(), "no cancel"


async def test_a_workflow_tells_of_its_stages_and_takes_a_signal_again_after_a_reconnect(
    gateway: ScriptedGateway, program: Program
) -> None:
    following = program(reference=JOB, then="approve")
    connection = await gateway.welcomed()
    await connection.send(told(0, ("a", "started"), ("a", "waiting")))
    signal = {"type": "signal", "id": "j", "name": "a", "data": {"approved": True}}
    assert await connection.frame() == signal
    connection.cut()
    connection = await gateway.welcomed()
    assert await connection.frame() == signal
    await connection.send(told(1, ("a", "received")), end())
    seen = [["a", "started"], ["a", "waiting"], ["a", "received"]]
    assert await following == {"seen": seen, "data": 5, "late": False}


@pytest.mark.parametrize(("ending", "cancelled"), [({"type": "error", "code": "cancelled"}, True), ({}, False)])
async def test_it_is_cancelled_and_its_end_awaited(
    gateway: ScriptedGateway, program: Program, ending: dict[str, Any], cancelled: bool
) -> None:
    following = program(reference=JOB, then="cancel")
    connection = await gateway.welcomed()
    assert await connection.frame() == {"type": "cancel", "id": "j"}
    connection.cut()
    connection = await gateway.welcomed()
    assert await connection.frame() == {"type": "cancel", "id": "j"}
    await connection.send(end(**ending))
    assert await following == {"cancelled": cancelled}


async def test_waiting_for_the_answer_ends_without_the_job(gateway: ScriptedGateway, program: Program) -> None:
    following = program(reference=JOB, then="late")
    connection = await gateway.welcomed()
    assert await following == {"data": "TimeoutError", "done": False}
    assert connection.frames.empty()


@pytest.mark.parametrize("again", [None, {"model": "m", "input": [1.0], "stream": True}])
async def test_after_a_gap_it_is_lost_or_asked_again(
    gateway: ScriptedGateway, program: Program, again: dict[str, Any] | None
) -> None:
    following = program(reference=JOB, again=again)
    connection = await gateway.welcomed()
    await connection.send({"type": "gap", "from": "e.3.0", "to": "e.3.7", "reason": "retention"})
    if again is None:
        assert (await following)["name"] == "Lost"
        return
    asked = {"type": "infer", "id": "j", "model": "m", "data": [1.0], "route": "queue", "stream": True, "retry": True}
    assert await connection.infer() == asked
    await connection.send(end())
    assert (await following)["data"] == 5


async def test_a_session_that_the_gateway_does_not_know_loses_it(gateway: ScriptedGateway, program: Program) -> None:
    following = program(reference=JOB)
    await gateway.welcomed(session="s-2", resumed=False)
    assert (await following)["name"] == "Lost"


async def test_who_gives_up_submitting_cancels_what_may_have_arrived(
    gateway: ScriptedGateway, program: Program
) -> None:
    submitting = program(model="m", input=[1.0], giveUp=True)
    connection = await gateway.welcomed()
    frame = await connection.infer()
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}
    assert not submitting.done()
    await connection.send({"type": "error", "id": frame["id"], "code": "cancelled", "message": ""})
    assert await submitting == {"name": "Cancelled", "message": "cancelled", "cause": "enough"}
    assert await connection.gone() == 1000


async def test_what_is_refused_is_told(gateway: ScriptedGateway, program: Program) -> None:
    submitting = program(model="m", input=[1.0])
    connection = await gateway.welcomed()
    frame = await connection.infer()
    await connection.send({"type": "error", "id": frame["id"], "code": "not_found", "message": "no model m"})
    assert (await submitting)["message"] == "no model m"
    for wrong, says in {"": "no reference", JOB[:-9]: "no reference", reference(2, "j"): "newer"}.items():
        said = await program(reference=wrong)
        assert (said["name"], says in said["message"]) == ("Invalid", True)
