"""podpair.js in a real browser, against a gateway that does what the test says: as tests/client has it for Python."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page

# Opens a session in the page and keeps what it dispatches; the waits between attempts are 0 with this rng.
OPEN = """async (options) => {
    window.podpair = await import("/podpair.js");
    window.tokens = options.tokens ?? ["jwt-1", "jwt-2", "jwt-3"];  // null: the function throws
    const token = options.renew ? async () => {
        const next = window.tokens.shift();
        if (next === null) throw new TypeError("Failed to fetch");
        return next;
    } : "jwt";
    window.seen = [];
    const session = new podpair.Session("/v1/ws", {token, rng: () => 0, ...options});
    for (const type of ["push", "gap", "drain", "state", "error"])
        session.addEventListener(type, ({detail}) => window.seen.push({...detail, on: type, error: detail.error?.code}));
    window.session = session;
    return session.open().then((opened) => opened.session, (error) => `${error.name}: ${error.message}`);
}"""
# Starts a request; its end is waited for with END.
INFER = """([name, options]) => {
    window.ends ??= {};
    const call = session.infer("digits", [0.5], {id: name, ...options});
    window.ends[name] = call.then((result) => ({...result}), (error) => ({failed: error.name, message: error.message,
        retryAfter: error.retryAfter}));
}"""
END = "(name) => window.ends[name]"


class Client:
    """The page's session, from the test's side."""

    def __init__(self, page: Page, gateway: Any) -> None:
        self.page, self.gateway = page, gateway

    async def open(self, **options: Any) -> Any:
        """Open a session; the gateway's end of its connection."""
        opening = asyncio.ensure_future(self.page.evaluate(OPEN, options))
        connection = await self.gateway.welcomed(**options.get("welcome", {}))
        await opening
        return connection

    async def refused(self) -> str:
        return str(await self.page.evaluate(OPEN, {}))

    async def infer(self, name: str, **options: Any) -> None:
        await self.page.evaluate(INFER, [name, options])

    async def end(self, name: str) -> Any:
        return await self.page.evaluate(END, name)

    async def seen(self, on: str, count: int = 1) -> Any:
        """The first `count` events of one type."""
        await self.page.wait_for_function("([on, n]) => seen.filter((e) => e.on === on).length >= n", arg=[on, count])
        return await self.page.evaluate("(on) => seen.filter((e) => e.on === on)", on)


@pytest.fixture
async def client(page: Page, gateway: Any) -> Client:
    async def blank(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>blank</title>", content_type="text/html")

    gateway.routes["GET", "/blank"] = blank
    await page.goto(f"{gateway.url}/blank")
    return Client(page, gateway)


async def test_a_request_is_answered(client: Client) -> None:
    connection = await client.open()
    assert connection.offered == ["podpair.v1", "bearer.jwt"]
    await client.infer("mine", route="auto", deadline=2000, parameters={"k": 1}, traceparent="00-1-2-01")
    frame = await connection.infer()
    assert 1900 < frame.pop("deadline_ms") <= 2000
    assert frame == {
        "type": "infer",
        "id": "mine",
        "model": "digits",
        "data": [0.5],
        "parameters": {"k": 1},
        "route": "auto",
        "traceparent": "00-1-2-01",
    }
    await connection.answer(frame, route="queue", position="e.3.1")
    result = await client.end("mine")
    assert (result["data"], result["route"], result["position"]) == ({"label": "7"}, "queue", "e.3.1")
    assert await client.page.evaluate("[session.position, session.pending]") == ["e.3.1", 0]


async def test_a_request_can_be_iterated_over(client: Client) -> None:
    connection = await client.open()
    collecting = asyncio.ensure_future(
        client.page.evaluate("""async () => {
            const events = [];
            for await (const event of session.infer("chat", "hello")) events.push(event.data ?? event.type);
            return events;
        }""")
    )
    frame = await connection.infer()
    await connection.send({"type": "accepted", "id": frame["id"], "route": "direct"})
    parts = [{"type": "partial", "id": frame["id"], "seq": n, "data": word} for n, word in enumerate("ab")]
    await connection.send(*parts, parts[0])
    await connection.send({"type": "result", "id": frame["id"], "data": "ab"})
    assert await collecting == ["accepted", "a", "b", "ab"]


async def test_a_stream_goes_on_behind_the_parts_that_were_given(client: Client) -> None:
    connection = await client.open()
    collecting = asyncio.ensure_future(
        client.page.evaluate("""async () => {
            const parts = [];
            for await (const event of session.infer("chat", "hello", { stream: true }))
              if (event.type === "partial") parts.push(event.data);
            return parts;
        }""")
    )
    frame = await connection.infer()
    assert frame["stream"] is True
    part = {"type": "partial", "id": frame["id"]}
    await connection.send({"type": "accepted", "id": frame["id"], "route": "direct"}, part | {"seq": 0, "data": "a"})
    await connection.send({"type": "push", "data": "behind it", "position": "e.3.1"})
    await client.seen("push")
    connection.cut()
    connection = await client.gateway.welcomed()
    assert (await connection.infer())["seen"] == 0
    await connection.send(part | {"from": 1, "seq": 2, "data": "bc"}, part | {"from": 2, "seq": 3, "data": "cd"})
    await connection.send({"type": "result", "id": frame["id"], "data": "abcd"})
    assert await collecting == ["a", "bc"]


async def test_errors_are_typed(client: Client) -> None:
    connection = await client.open()
    await client.infer("mine")
    await connection.infer()
    error = {"type": "error", "id": "mine", "code": "overloaded", "message": "full", "retry_after_ms": 250}
    await connection.send(error)
    assert await client.end("mine") == {"failed": "Overloaded", "message": "full", "retryAfter": 250}


async def test_abort_and_leaving_the_loop_cancel(client: Client) -> None:
    connection = await client.open()
    await client.page.evaluate("""() => {
        window.controller = new AbortController();
        window.aborted = session.infer("digits", [1], {id: "a", signal: controller.signal})
            .then(null, (error) => [error.name, error.cause]);
        (async () => { for await (const event of session.infer("chat", "x", {id: "b"})) break; })();
    }""")
    assert {(await connection.infer())["id"], (await connection.infer())["id"]} == {"a", "b"}
    await client.page.evaluate("controller.abort('enough')")
    assert await connection.frame() == {"type": "cancel", "id": "a"}
    assert await client.page.evaluate("aborted") == ["Cancelled", "enough"]
    await connection.send({"type": "accepted", "id": "b", "route": "direct"})
    assert await connection.frame() == {"type": "cancel", "id": "b"}
    # What still comes for them concerns nobody.
    await connection.send({"type": "result", "id": "a"}, {"type": "push", "data": 1, "position": "e.3.1"})
    await client.seen("push")


async def test_it_resumes_and_does_with_each_request_what_the_protocol_says(client: Client) -> None:
    connection = await client.open()
    for name, options in {"queued": {}, "direct": {}, "new": {}, "once": {"resend": False}}.items():
        await client.infer(name, **options)
        await connection.infer()
    await connection.send(
        {"type": "accepted", "id": "queued", "route": "queue"},
        {"type": "accepted", "id": "direct", "route": "direct"},
        {"type": "push", "data": "before", "position": "e.3.5"},
    )
    await client.seen("push")
    connection.cut()
    connection = await client.gateway.connection()
    assert connection.query == {"resume": "resume-1", "position": "e.3.5"}
    await connection.welcome(gateway="gateway-b")
    again = [await connection.infer(), await connection.infer()]
    assert [(frame["id"], frame["retry"]) for frame in again] == [("direct", True), ("new", True)]
    assert (await client.end("once"))["failed"] == "Lost"
    # A position that was seen, and a result that comes twice, are delivered once.
    await connection.send(
        {"type": "push", "data": "before", "position": "e.3.5"},
        {"type": "result", "id": "queued", "data": 1, "position": "e.3.6"},
        {"type": "result", "id": "direct", "data": 2, "position": "e.3.7"},
        {"type": "result", "id": "direct", "data": 3},
        {"type": "result", "id": "new", "data": 4},
        {"type": "push", "data": "after", "position": "e.3.8"},
    )
    assert [push["data"] for push in await client.seen("push", 2)] == ["before", "after"]
    assert [(await client.end(name))["data"] for name in ("queued", "direct", "new")] == [1, 2, 4]


async def test_disconnect_holds_the_wire_down_until_reconnect(client: Client) -> None:
    connection = await client.open()
    await client.page.evaluate("session.disconnect()")
    assert await connection.gone() == 3000
    await client.infer("meanwhile")
    await client.page.evaluate("""() => { window.posted = session.adopt("r-http").then((result) => result.data); }""")
    assert client.gateway.arrivals.empty()
    await client.page.evaluate("session.reconnect()")
    connection = await client.gateway.welcomed()
    await connection.answer(await connection.infer())
    await connection.send({"type": "result", "id": "r-http", "data": 5, "position": "e.3.1"})
    assert await client.page.evaluate("posted") == 5
    states = [event["state"] for event in await client.seen("state")]
    assert states == ["open", "disconnected", "reconnecting", "open"]


@pytest.mark.parametrize(
    ("status", "code", "name"),
    [
        (401, "unauthorized", "Unauthorized"),
        (403, "forbidden", "Forbidden"),
        (400, "invalid", "Invalid"),
        (503, "overloaded", "Overloaded"),
    ],
)
async def test_a_refused_upgrade_says_why(client: Client, status: int, code: str, name: str) -> None:
    client.gateway.refuse(status, code, "the reason")
    assert await client.refused() == f"{name}: the reason"


async def test_waits_honour_retry_after(client: Client) -> None:
    connection = await client.open()
    client.gateway.refuse(503, "overloaded", "draining", Retry_After="0.07")
    client.gateway.refuse(401, "unauthorized", "keys rotate")
    connection.cut()
    await client.gateway.welcomed()
    waits = [event["retryIn"] for event in await client.seen("state", 5) if event["state"] == "reconnecting"]
    assert waits == [0, 70, 0]


async def test_a_session_that_cannot_be_resumed_begins_anew(client: Client) -> None:
    connection = await client.open()
    await client.infer("queued")
    await connection.infer()
    await connection.send({"type": "accepted", "id": "queued", "route": "queue"}, {"type": "push", "position": "e.3.2"})
    await client.seen("push")
    for _ in range(2):
        client.gateway.refuse(401, "unauthorized", "the resume token expired")
    connection.cut()
    connection = await client.gateway.welcomed(session="s-2", position="e.1.0")
    assert connection.query == {}
    assert (await client.end("queued"))["failed"] == "Lost"
    (gap,) = await client.seen("gap")
    assert (gap["from"], gap["to"], gap["reason"]) == ("e.3.2", "e.1.0", "session")


async def test_queued_requests_are_asked_again_when_the_requests_topic_has_lost_some(client: Client) -> None:
    """The gap has the token that says that this client knows of it."""
    connection = await client.open()
    await client.infer("queued")
    await connection.infer()
    await connection.send({"type": "accepted", "id": "queued", "route": "queue"})
    await connection.send({"type": "gap", "reason": "requests", "resume": "newer"})
    assert (await connection.infer())["retry"] is True
    connection.cut()
    connection = await client.gateway.welcomed()
    assert connection.query["resume"] == "newer"


@pytest.mark.parametrize(
    ("close", "renew", "error"),
    [
        (4001, False, "unauthorized"),
        (4009, True, "taken_over"),
        (4321, True, "closed"),
        (4001, True, None),
        (3008, False, None),
    ],
)
async def test_what_a_close_code_does(client: Client, close: int, renew: bool, error: str | None) -> None:
    connection = await client.open(renew=renew)
    await client.infer("mine")
    await connection.infer()
    await connection.close(close, "the reason")
    if error is None:
        connection = await client.gateway.welcomed()
        assert connection.offered[1] == ("bearer.jwt-2" if renew else "bearer.jwt")
        await connection.answer(await connection.infer())
        assert "failed" not in await client.end("mine")
    else:
        assert (await client.seen("state", 2))[-1] == {"on": "state", "state": "closed", "error": error}
        assert (await client.end("mine"))["failed"] == "Lost"


async def test_the_token_is_refreshed_in_band(client: Client) -> None:
    now = await client.page.evaluate("Date.now() / 1000")
    connection = await client.open(renew=True, welcome={"expires_at": now + 0.5})
    assert await connection.frame() == {"type": "refresh", "token": "jwt-2"}
    await connection.welcome(resume="resume-2", position="e.0.0")
    await connection.send({"type": "push", "data": 1, "position": "e.3.1"})
    await client.seen("push")
    assert await client.page.evaluate("[session.resume, session.position]") == ["resume-2", "e.3.1"]


async def test_a_token_that_cannot_be_had_is_asked_for_again(client: Client) -> None:
    """In band, and for a new connection: neither ends the session, nor is it an error that nobody catches."""
    uncaught: list[Any] = []
    client.page.on("pageerror", lambda error: uncaught.append(error))
    now = await client.page.evaluate("Date.now() / 1000")
    tokens = ["jwt-1", None, None, "jwt-2"]
    connection = await client.open(renew=True, tokens=tokens, welcome={"expires_at": now + 0.5})
    await client.infer("mine")
    await connection.infer()
    await client.page.wait_for_function("tokens.length === 2")
    assert connection.frames.empty(), "no other token, nothing to say"
    await connection.close(4001, "the token has expired")
    connection = await client.gateway.welcomed()
    assert connection.offered[1] == "bearer.jwt-2"
    await connection.answer(await connection.infer())
    assert "failed" not in await client.end("mine")
    assert uncaught == []


async def test_a_draining_gateway_is_left(client: Client) -> None:
    connection = await client.open()
    await connection.send({"type": "drain", "reconnect_after_ms": 5})
    assert await connection.gone() == 3000
    assert (await client.gateway.connection()).query["resume"] == "resume-1"


async def test_bounds_hold_before_anything_is_sent(client: Client) -> None:
    connection = await client.open(maxOpen=2, welcome={"limits": {"in_flight": 1, "message_bytes": 500}})
    await client.page.evaluate(
        """() => { window.big = session.infer("digits", Array(500).fill(0.25)).catch((e) => e.name); }"""
    )
    assert await client.page.evaluate("big") == "Invalid"
    for name in "abc":
        await client.infer(name)
    assert (await client.end("c"))["failed"] == "Overloaded"
    frame = await connection.infer()
    assert connection.frames.empty()
    await connection.answer(frame)
    await connection.answer(await connection.infer())
    assert (await client.end("b"))["data"] == {"label": "7"}


async def test_a_deadline_holds_without_the_gateway(client: Client) -> None:
    connection = await client.open(deadlineGrace=0)
    await client.infer("mine", deadline=20)
    await connection.infer()
    assert (await client.end("mine"))["failed"] == "DeadlineExceeded"
    assert await connection.frame() == {"type": "cancel", "id": "mine"}


async def test_closing_ends_what_is_open(client: Client) -> None:
    connection = await client.open()
    await client.infer("mine")
    await connection.infer()
    await client.page.evaluate("session.close()")
    assert await connection.gone() == 1000
    assert (await client.end("mine"))["failed"] == "SessionClosed"
    await client.infer("later")
    assert (await client.end("later"))["failed"] == "SessionClosed"
