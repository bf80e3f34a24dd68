"""What `attach` and `submit` need of a session's state, and do where a gateway or the network is in their way."""

import asyncio
import base64
import json
from typing import Any

import pytest

from client.scripted import Connection, ScriptedGateway
from podpair import client
from podpair.client.protocol import Request, SessionState

WELCOME = {"type": "welcome", "session": "s", "resume": "t", "position": "e.0.0", "gateway": "g", "limits": {}}


def adopted() -> SessionState:
    """A session that follows the job j."""
    state = SessionState(resume="t", position="e.0.0")
    state.receive(WELCOME | {"resumed": True})
    state.adopt("j")
    return state


def test_a_cancellation_that_the_connection_took_along_is_said_again() -> None:
    state = adopted()
    assert state.ask_to_cancel("j") == []
    assert state.ask_to_cancel("j") == []
    assert (state.next_frame(0), state.next_frame(0)) == ({"type": "cancel", "id": "j"}, None)
    for welcome in (WELCOME, WELCOME):
        state.disconnected()
        state.receive(welcome | {"resumed": True})
        assert (state.next_frame(0), state.next_frame(0)) == ({"type": "cancel", "id": "j"}, None)
    end = {"type": "error", "id": "j", "code": "cancelled", "message": "", "position": "e.0.1"}
    assert state.receive(end) == [end]
    state.ask_to_cancel("j")
    assert state.next_frame(0) is None


def test_a_job_is_lost_where_its_session_does_not_go_on() -> None:
    state = adopted()
    state.disconnected()
    given: list[dict[str, Any]] = state.receive(WELCOME | {"session": "another", "resumed": False})
    assert [(event["type"], event.get("code")) for event in given if event.get("id") == "j"] == [("error", "lost")]


def test_a_request_that_is_left_to_itself_makes_room_without_a_word() -> None:
    state = SessionState()
    state.receive(WELCOME | {"limits": {"in_flight": 1}})
    for request_id in ("a", "b"):
        state.submit(Request(request_id, {"model": "m"}))
    assert state.next_frame(0) == {"type": "infer", "id": "a", "model": "m"}
    assert state.next_frame(0) is None
    state.leave("a")
    assert state.next_frame(0) == {"type": "infer", "id": "b", "model": "m"}
    state.leave("unknown")
    assert set(state.open) == {"b"}


def options() -> dict[str, Any]:
    return {"token": "jwt", "backoff": client.Backoff(rng=lambda: 0.0)}


def reference(*members: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


JOB = reference(1, "j", "s-1", "resume-1", "e.3.0")


async def accept(connection: Connection) -> str:
    """Accept the next request as a queued one. Returns its id."""
    frame = await connection.infer()
    await connection.send({"type": "accepted", "id": frame["id"], "route": "queue"})
    return str(frame["id"])


async def test_a_job_begins_where_the_session_did_that_has_it(gateway: ScriptedGateway) -> None:
    submitting = asyncio.create_task(client.submit(gateway.url, "m", [1.0], **options()))
    connection = await gateway.welcomed(position="e.3.5")
    await connection.infer()
    connection.cut()
    connection = await gateway.connection()
    assert connection.query == {"resume": "resume-1", "position": "e.3.5"}
    await connection.welcome(session="s-2", resume="resume-2", resumed=False, position="e.1.0")
    job_id = await accept(connection)
    found = await submitting

    async def result() -> client.Result:
        async with client.attach(gateway.url, found, **options()) as job:
            return await job.result()

    waiting = asyncio.create_task(result())
    connection = await gateway.connection()
    assert connection.query == {"resume": "resume-2", "position": "e.1.0"}
    await connection.welcome(session="s-2")
    await connection.send({"type": "result", "id": job_id, "data": 5, "model": "m", "position": "e.1.7"})
    assert (await waiting).data == 5


async def test_a_reconnect_that_resumes_leaves_the_beginning_where_it_was(gateway: ScriptedGateway) -> None:
    submitting = asyncio.create_task(client.submit(gateway.url, "m", [1.0], **options()))
    connection = await gateway.welcomed(position="e.3.5")
    await connection.infer()
    await connection.send({"type": "push", "data": 1, "position": "e.3.8"})
    await connection.close(3000)
    connection = await gateway.connection()
    assert connection.query == {"resume": "resume-1", "position": "e.3.8"}
    await connection.welcome(resume="resume-2")
    job_id = await accept(connection)
    members = json.loads(base64.urlsafe_b64decode(await submitting + "=="))
    assert members == [1, job_id, "s-1", "resume-2", "e.3.5"]


@pytest.mark.parametrize("job_id", [None, ""])
async def test_an_id_that_says_nothing_is_made(gateway: ScriptedGateway, job_id: Any) -> None:
    submitting = asyncio.create_task(client.submit(gateway.url, "m", [1.0], id=job_id, **options()))
    asked = await accept(await gateway.welcomed())
    assert json.loads(base64.urlsafe_b64decode(await submitting + "=="))[1] == asked


async def test_whether_a_job_was_cancelled_is_not_known_where_the_session_ends(gateway: ScriptedGateway) -> None:
    async def cancel() -> bool:
        async with client.attach(gateway.url, JOB, **options()) as job:
            return await job.cancel()

    cancelling = asyncio.create_task(cancel())
    connection = await gateway.welcomed()
    assert await connection.frame() == {"type": "cancel", "id": "j"}
    await connection.close(4009, "taken over")
    with pytest.raises(client.Lost) as lost:
        await cancelling
    assert isinstance(lost.value.__cause__, client.TakenOver)


async def test_a_job_whose_session_was_left_can_not_be_cancelled(gateway: ScriptedGateway) -> None:
    attaching = client.attach(gateway.url, JOB, **options())
    welcoming = asyncio.create_task(gateway.welcomed())
    async with attaching as job:
        await welcoming
    with pytest.raises(client.SessionClosed):
        await job.cancel()


def test_a_reference_of_a_later_kind_says_so() -> None:
    for members in ((2, "j", "s", "t", "p", "more"), (2, "j"), (2, {"id": "j"})):
        with pytest.raises(ValueError, match="newer podpair-client"):
            client.jobs._read(reference(*members))
    nested = base64.urlsafe_b64encode(b"[" * 9000).decode()
    for wrong in (reference(), reference("2"), reference(1, "j"), reference(1, 2, 3, 4, 5), nested):
        with pytest.raises(ValueError, match="no reference of a job"):
            client.jobs._read(wrong)


async def test_parts_end_with_the_error_that_ended_the_job(gateway: ScriptedGateway) -> None:
    parts: list[Any] = []

    async def follow() -> None:
        async with client.attach(gateway.url, JOB, **options()) as job:
            async for part in job.partials():
                parts.append(part)  # noqa: PERF401 - those that come before the error

    following = asyncio.create_task(follow())
    connection = await gateway.welcomed()
    await connection.send({"type": "partial", "id": "j", "seq": 0, "data": "half", "position": "e.3.1"})
    await connection.send({"type": "error", "id": "j", "code": "upstream", "message": "it broke", "position": "e.3.2"})
    with pytest.raises(client.Upstream, match="it broke"):
        await following
    assert parts == ["half"]


async def test_a_cancellation_is_waited_for_no_longer_than_wanted(gateway: ScriptedGateway) -> None:
    welcoming = asyncio.create_task(gateway.welcomed())
    async with client.attach(gateway.url, JOB, **options()) as job:
        connection = await welcoming
        with pytest.raises(TimeoutError):
            await job.cancel(timeout=0)
        assert await connection.frame() == {"type": "cancel", "id": "j"}
        assert not job.done


async def test_a_job_takes_signals(gateway: ScriptedGateway) -> None:
    welcoming = asyncio.create_task(gateway.welcomed())
    async with client.attach(gateway.url, JOB, **options()) as job:
        connection = await welcoming
        assert job.signal("approval", {"approved": True})
        signal = {"type": "signal", "id": "j", "name": "approval", "data": {"approved": True}}
        assert await connection.frame() == signal
        event = {"stage": "a", "event": "received", "time": 1}
        await connection.send({"type": "partial", "id": "j", "seq": 0, "data": [event], "position": "e.3.1"})
        async for each in job.events():
            assert each == client.StageEvent("a", "received", 1.0)
            break
        await connection.send({"type": "result", "id": "j", "data": 1, "position": "e.3.2"})
        await job.result()
        assert not job.signal("approval", 2)


async def test_a_job_that_is_asked_again_after_a_gap_gets_the_answer(gateway: ScriptedGateway) -> None:
    async def result() -> client.Result:
        more = {"parameters": {"k": 1}, "stream": True, **options()}
        async with client.attach(gateway.url, JOB, "m", [1.0], **more) as job:
            return await job.result()

    waiting = asyncio.create_task(result())
    connection = await gateway.welcomed()
    await connection.send({"type": "gap", "from": "e.3.0", "to": "e.3.7", "reason": "retention"})
    asked = {"type": "infer", "id": "j", "model": "m", "data": [1.0], "route": "queue", "retry": True}
    assert await connection.infer() == asked | {"parameters": {"k": 1}, "stream": True}
    await connection.send({"type": "result", "id": "j", "data": 5, "position": "e.3.8"})
    assert (await waiting).data == 5


async def test_a_job_that_is_not_to_be_asked_again_is_lost_in_a_gap(gateway: ScriptedGateway) -> None:
    welcoming = asyncio.create_task(gateway.welcomed())
    async with client.attach(gateway.url, JOB, **options()) as job:
        connection = await welcoming
        await connection.send({"type": "gap", "from": "e.3.0", "to": "e.3.7", "reason": "retention"})
        with pytest.raises(client.Lost):
            await job.result()


async def test_who_gives_up_submitting_cancels_what_may_have_arrived(gateway: ScriptedGateway) -> None:
    submitting = asyncio.create_task(client.submit(gateway.url, "m", [1.0], **options()))
    connection = await gateway.welcomed()
    frame = await connection.infer()
    submitting.cancel()
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}
    assert not submitting.done()
    await connection.send({"type": "error", "id": frame["id"], "code": "cancelled", "message": ""})
    assert await connection.gone() == 1000
    with pytest.raises(asyncio.CancelledError):
        await submitting


async def test_who_gives_up_submitting_while_the_connection_is_down_cancels_over_the_next(
    gateway: ScriptedGateway,
) -> None:
    submitting = asyncio.create_task(client.submit(gateway.url, "m", [1.0], **options()))
    connection = await gateway.welcomed()
    frame = await connection.infer()
    connection.cut()
    connection = await gateway.connection()
    submitting.cancel()
    await connection.welcome()
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}
    with pytest.raises(asyncio.CancelledError):
        await submitting


async def test_who_gives_up_submitting_waits_no_longer_than_a_while(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podpair.client.session.CANCEL_GRACE", 0.01)
    submitting = asyncio.create_task(client.submit(gateway.url, "m", [1.0], **options()))
    connection = await gateway.welcomed()
    frame = await connection.infer()
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}
