"""What a user of podpair.client sees when connections break, gateways leave and tokens end."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from podpair import client

Open = Callable[..., Any]


async def test_a_session_resumes_after_the_last_position_it_saw(gateway: Any, open_session: Open) -> None:
    session, connection = await open_session()
    pushes = aiter(session.pushes())
    await connection.send({"type": "push", "data": 1, "position": "e.3.7"})
    await anext(pushes)
    connection.cut()
    connection = await gateway.welcomed()
    assert connection.query == {"resume": "resume-1", "position": "e.3.7"}
    # A gateway that repeats what was seen: it is delivered once.
    await connection.send(
        {"type": "push", "data": 1, "position": "e.3.7"}, {"type": "push", "data": 2, "position": "e.3.8"}
    )
    assert (await anext(pushes)).data == 2


async def test_a_ping_that_comes_with_the_end_of_the_wire_does_not_end_the_session(
    gateway: Any, open_session: Open
) -> None:
    def on_event(event: dict[str, Any]) -> None:
        if event["type"] == "push":
            session._link._ws._response.connection.transport.abort()

    session, connection = await open_session(on_event=on_event)
    frame = b'{"type":"push","data":1,"position":"e.3.7"}'
    connection.request.transport.write(
        bytes([0x81, len(frame)]) + frame + b"\x89\x00"
    )  # the ping is read with the event
    assert (await gateway.welcomed()).query["position"] == "e.3.7"
    assert (await anext(aiter(session.pushes()))).data == 1


async def test_without_any_event_it_resumes_from_the_welcome(gateway: Any, open_session: Open) -> None:
    session, _ = await open_session()
    session.cut()
    assert (await gateway.connection()).query == {"resume": "resume-1", "position": "e.3.0"}


async def test_a_queued_request_waits_for_its_result(gateway: Any, open_session: Open) -> None:
    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    frame = await connection.infer()
    await connection.send({"type": "accepted", "id": frame["id"], "route": "queue"})
    await connection.send({"type": "push", "data": 0, "position": "e.3.1"})
    await anext(aiter(session.pushes()))
    connection.cut()
    connection = await gateway.welcomed(gateway="gateway-b")
    await connection.send({"type": "result", "id": frame["id"], "data": {}, "position": "e.3.2"})
    assert (await asking).route == "queue"
    assert connection.frames.empty()


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("successor", ["gateway-a", "gateway-b"])
async def test_a_direct_request_is_sent_again(gateway: Any, open_session: Open, accepted: bool, successor: str) -> None:
    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", [0.0], id="mine"))
    frame = await connection.infer()
    if accepted:
        await connection.send({"type": "accepted", "id": "mine", "route": "direct"})
    connection.cut()
    connection = await gateway.welcomed(gateway=successor)
    assert await connection.infer() == {**frame, "retry": True}
    # The first run's result and the second's: one is delivered, the other belongs to nobody.
    await connection.answer(frame, position="e.3.1")
    await connection.answer(frame)
    assert (await asking).position == "e.3.1"


async def test_a_request_that_must_not_run_twice_is_reported_lost(gateway: Any, open_session: Open) -> None:
    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", [0.0], resend=False))
    await connection.infer()
    connection.cut()
    connection = await gateway.welcomed()
    with pytest.raises(client.Lost, match="resend=False"):
        await asking
    assert connection.frames.empty()


async def test_a_request_made_while_the_wire_is_down_is_sent_when_it_is_up(gateway: Any, open_session: Open) -> None:
    session, connection = await open_session()
    connection.cut()
    connection = await gateway.connection()
    asking = asyncio.create_task(session.infer("digits", [0.0], resend=False))
    await connection.welcome()
    frame = await connection.infer()
    assert "retry" not in frame
    await connection.answer(frame)
    await asking


async def test_a_cancellation_that_met_a_broken_wire_is_sent_on_the_next(gateway: Any, open_session: Open) -> None:
    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", [0.0], route="queue"))
    frame = await connection.infer()
    await connection.send({"type": "accepted", "id": frame["id"], "route": "queue"})
    connection.cut()
    connection = await gateway.connection()
    asking.cancel()
    await asyncio.wait((asking,))
    await connection.welcome()
    assert await connection.frame() == {"type": "cancel", "id": frame["id"]}


async def test_waits_grow_and_honour_retry_after(gateway: Any, open_session: Open) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    backoff = client.Backoff(initial=1.0, maximum=3.0, rng=lambda: 0.5)
    session, connection = await open_session(backoff=backoff, sleep=sleep)
    gateway.refuse(503, "overloaded", "draining", Retry_After="7")
    gateway.refuse(502, "bad gateway")
    gateway.refuse(503, "overloaded")
    connection.cut()
    await gateway.welcomed()
    assert waits == [0.5, 8.0, 1.5, 1.5]
    assert session.error is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthorized", client.Unauthorized),
        (403, "forbidden", client.Forbidden),
        (400, "invalid", client.Invalid),
    ],
)
async def test_a_refused_upgrade_says_why(gateway: Any, status: int, code: str, kind: type[Exception]) -> None:
    gateway.refuse(status, code, "the reason")
    with pytest.raises(kind, match="the reason"):
        await client.connect(gateway.url)


async def test_a_full_gateway_says_when_to_come_back(gateway: Any) -> None:
    gateway.refuse(503, "overloaded", "no room", Retry_After="2")
    with pytest.raises(client.Overloaded) as raised:
        await client.connect(gateway.url)
    assert raised.value.retry_after == 2.0


async def test_nobody_at_the_address(unused_tcp_port: int) -> None:
    with pytest.raises(client.Unreachable):
        await client.connect(f"ws://127.0.0.1:{unused_tcp_port}/v1/ws")


async def test_another_gateway_of_the_list_is_taken(gateway: Any, open_session: Open, unused_tcp_port: int) -> None:
    session, _ = await open_session(url=[f"127.0.0.1:{unused_tcp_port}", gateway.url])
    assert session.state == "open"


async def test_a_session_that_cannot_be_resumed_begins_anew_and_says_so(gateway: Any, open_session: Open) -> None:
    gaps: list[client.Gap] = []
    session, connection = await open_session(on_gap=gaps.append)
    queued, direct = (asyncio.create_task(session.infer("digits", [0.0], id=name)) for name in ("queued", "direct"))
    await connection.infer()
    await connection.infer()
    await connection.send({"type": "accepted", "id": "queued", "route": "queue"})
    await connection.send({"type": "push", "data": 0, "position": "e.3.1"})
    await anext(aiter(session.pushes()))
    gateway.refuse(401, "unauthorized", "the resume token expired")
    gateway.refuse(401, "unauthorized", "the resume token expired")
    connection.cut()
    connection = await gateway.welcomed(session="s-2", position="e.1.5")
    assert connection.query == {}
    with pytest.raises(client.Lost, match="could not be resumed"):
        await queued
    await connection.answer(await connection.infer())
    await direct
    assert gaps == [client.Gap("e.3.1", "e.1.5", "session")]
    assert session.session == "s-2"


async def test_a_token_that_is_refused_again_and_again_ends_the_session(gateway: Any, open_session: Open) -> None:
    session, connection = await open_session()
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    await connection.infer()
    for _ in range(3):
        gateway.refuse(401, "unauthorized", "wrong issuer")
    connection.cut()
    with pytest.raises(client.Lost, match="wrong issuer"):
        await asking
    with pytest.raises(client.Unauthorized):
        [push async for push in session.pushes()]
    assert session.state == "closed"


async def test_an_expired_token_is_renewed_where_there_is_a_function(gateway: Any, open_session: Open) -> None:
    tokens = (f"jwt-{n}" for n in itertools.count(1))

    async def token() -> str:
        return next(tokens)

    _session, connection = await open_session(token=token)
    await connection.close(4001, "the token expired")
    connection = await gateway.welcomed()
    assert connection.request.headers["Authorization"] == "Bearer jwt-2"


@pytest.mark.parametrize(
    ("code", "kind"), [(4001, client.Unauthorized), (4009, client.TakenOver), (4444, client.SessionClosed)]
)
async def test_a_close_that_forbids_reconnecting(
    gateway: Any, open_session: Open, code: int, kind: type[Exception]
) -> None:
    session, connection = await open_session()
    await connection.close(code, "the reason")
    with pytest.raises(kind, match="the reason"):
        [push async for push in session.pushes()]
    assert gateway.arrivals.empty()


@pytest.mark.parametrize("code", [1001, 1011, 1012, 3001, 3008])
async def test_a_close_after_which_it_resumes(gateway: Any, open_session: Open, code: int) -> None:
    _session, connection = await open_session()
    await connection.close(code)
    assert (await gateway.connection()).query["resume"] == "resume-1"


async def test_the_token_is_refreshed_before_it_expires(gateway: Any, open_session: Open) -> None:
    tokens = iter(["jwt-1", "jwt-2"])
    session, connection = await open_session(
        token=lambda: next(tokens), clock=lambda: 1000.0, welcome={"expires_at": 1000.001}
    )
    assert await connection.frame() == {"type": "refresh", "token": "jwt-2"}
    # The welcome that answers it is no new beginning: the position stays.
    await connection.send({"type": "push", "data": 0, "position": "e.3.9"})
    await connection.welcome(expires_at=2000.0, position="e.3.0", resume="resume-2")
    asking = asyncio.create_task(session.infer("digits", [0.0]))
    await connection.answer(await connection.infer())
    await asking
    assert (session.position, session.resume, session.expires_at) == ("e.3.9", "resume-2", 2000.0)


async def test_a_draining_gateway_is_left_for_another(gateway: Any, second_gateway: Any, open_session: Open) -> None:
    _session, connection = await open_session(url=[gateway.url, second_gateway.url])
    await connection.send({"type": "drain", "reconnect_after_ms": 1})
    successor = await second_gateway.welcomed()
    assert successor.query["resume"] == "resume-1"
    assert await connection.gone() == 3000


async def test_cutting_again_and_again_loses_nothing(gateway: Any, open_session: Open) -> None:
    """Each connection brings a few of the results and breaks at another place: each result comes once, in order."""
    session, connection = await open_session()
    taken: list[int] = []

    async def take() -> None:
        async for push in session.pushes():
            taken.append(push.data)
            if len(taken) == 60:
                return

    taking = asyncio.create_task(take())
    while not taking.done():
        begin = int(connection.query.get("position", "e.3.0").rsplit(".", 1)[1])
        for n in range(begin + 1, begin + 8):
            await connection.send({"type": "push", "data": n, "position": f"e.3.{n}"})
        connection.cut() if begin % 2 else await connection.close(3008)
        connection = await gateway.welcomed()
    assert taken == list(range(1, 61))
