"""Everybody gets the answer to what was asked, or an error: never another's, whatever the model's server sends."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.raw_model import CLOSE, CONTINUE, HINTS, METADATA, PROCESSING, Asked, RawModel, Step, answer_to, response
from harness.waiting import soon
from podpair.common.gateway_config.model import Inference
from podpair.gateway.core.model_errors import Failed, Late, TooLarge, Unavailable
from podpair.gateway.core.models import model_of
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.upstream.calls import Call
from podpair.gateway.upstream.http import HttpPool
from podpair.gateway.upstream.rest import RestUpstream

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def model() -> Iterator[RawModel]:
    made = RawModel()
    yield made
    made.close()


@pytest.fixture
async def upstream(model: RawModel) -> AsyncIterator[RestUpstream]:
    made = RestUpstream(Inference(url=model.url, timeout_seconds=30, max_response_bytes=100_000))
    yield made
    await made.close()


async def ask(upstream: RestUpstream, number: int, request_id: str | None = None, timeout: float = 30) -> float:
    """The sum that the model says of a row that nobody else asks."""
    inputs = json.dumps([{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [number, 0.5]}]).encode()
    answer = await upstream.infer(InferenceRequest(request_id or f"r{number}", "raw", inputs), inputs, timeout)
    outputs: list[dict[str, Any]] = json.loads(answer.outputs)
    return float(outputs[0]["data"][0])


async def ask_several(upstream: RestUpstream, count: int = 5, request_id: str | None = None) -> list[float | str]:
    """One after the other: each its own sum, or the kind of its error. Their ids may be the same, as those of two users."""
    found: list[float | str] = []
    for number in range(count):
        try:
            found.append(await ask(upstream, number, request_id))
        except (Failed, Unavailable) as error:
            found.append(type(error).__name__)
    return found


OWN = [number + 0.5 for number in range(5)]


@pytest.mark.parametrize(
    "interim",
    [
        [CONTINUE], [HINTS], [PROCESSING, CONTINUE, HINTS], [CONTINUE, 0.05], [CONTINUE[:9], 0.02, CONTINUE[9:], 0.02, HINTS],
        [b"HTTP/1.1 199 Whatever\r\nContent-Length: 5\r\n\r\n"],
    ],
    ids=["100", "103", "several", "100, later the answer", "in pieces", "unknown, with a length"],
)  # fmt: skip
async def test_interim_answers_are_passed_over(model: RawModel, upstream: RestUpstream, interim: list[Step]) -> None:
    model.script = lambda asked: [*interim, answer_to(asked)]
    assert await ask_several(upstream, request_id="r") == OWN
    assert model.connections == 1


async def test_a_hundred_callers_at_once_behind_interim_answers(model: RawModel, upstream: RestUpstream) -> None:
    model.script = lambda asked: [CONTINUE, 0.01 * (asked.number % 3), answer_to(asked)]
    assert await asyncio.gather(*(ask(upstream, n, "r") for n in range(100))) == [n + 0.5 for n in range(100)]


BEHIND = {
    "another answer": lambda asked: answer_to(asked._replace(body=asked.body.replace(b"0.5", b"77.5"))),
    "half of another answer": lambda asked: OK + b"Content-Len",
    "an interim answer": lambda asked: CONTINUE,
    "a line end": lambda asked: b"\r\n",
    "noise": lambda asked: b"\x00noise",
}


@pytest.mark.parametrize("name", BEHIND)
async def test_bytes_behind_an_answer_close_the_connection(model: RawModel, upstream: RestUpstream, name: str) -> None:
    model.script = lambda asked: [answer_to(asked) + BEHIND[name](asked)]
    assert await ask_several(upstream, request_id="r") == OWN
    assert model.connections == 5


@pytest.mark.parametrize("name", BEHIND)
async def test_bytes_that_come_while_nothing_is_asked_close_the_connection(
    model: RawModel, upstream: RestUpstream, name: str
) -> None:
    """Whether the gateway has read them already, or they still wait in its system."""
    for number in range(4):
        assert await ask(upstream, number, "r") == number + 0.5
        model.say(BEHIND[name](model.asked[-1]))
        if number % 2:
            await asyncio.sleep(0.02)  # the gateway reads them: nothing tells when
    assert model.connections == 4


@pytest.mark.parametrize(
    ("head", "reused"),
    [
        ([OK, b"Content-Length: %d\r\n\r\n%b"], True),
        ([OK, b"Connection: close\r\nContent-Length: %d\r\n\r\n%b"], False),
        ([b"HTTP/1.0 200 OK\r\n", b"Content-Length: %d\r\n\r\n%b"], False),
        ([b"HTTP/1.0 200 OK\r\n", b"Connection: keep-alive\r\nContent-Length: %d\r\n\r\n%b"], True),
        ([OK, b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"], True),
    ],
)
async def test_only_what_the_server_keeps_is_used_again(
    model: RawModel, upstream: RestUpstream, head: list[bytes], reused: bool
) -> None:
    def script(asked: Asked) -> list[Step]:
        body = answer_to(asked).partition(b"\r\n\r\n")[2]
        return [head[0] + head[1] % (len(body), body)]

    model.script = script
    assert await ask_several(upstream, request_id="r") == OWN
    assert model.connections == (1 if reused else 5)


async def test_a_body_that_ends_with_its_connection(model: RawModel, upstream: RestUpstream) -> None:
    model.script = lambda asked: [OK + b"\r\n" + answer_to(asked).partition(b"\r\n\r\n")[2], CLOSE]
    assert await ask_several(upstream, request_id="r") == OWN


WRONG = {
    "101": [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"],
    "noise": [b"\x16\x03\x01 noise"],
    "two lengths": [OK + b"Content-Length: 4\r\nContent-Length: 2\r\n\r\nbody"],
    "a length and chunks": [OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"],
    "a bad chunk": [OK + b"Transfer-Encoding: chunked\r\n\r\nfour\r\n"],
    "cut off": [OK + b"Content-Length: 400\r\n\r\n{", CLOSE],
    "cut off in a chunk": [OK + b"Transfer-Encoding: chunked\r\n\r\n40\r\n{", CLOSE],
    "cut off behind 100": [CONTINUE, CLOSE],
    "204 with a body": [b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}"],
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_answer_is_an_error_of_its_own_caller(model: RawModel, upstream: RestUpstream, name: str) -> None:
    model.script = lambda asked: WRONG[name] if asked.number % 2 else [answer_to(asked)]
    found = await ask_several(upstream, 6, "r")
    assert [value for value in found if isinstance(value, float)] == [1.5, 3.5, 5.5]
    assert {value for value in found if isinstance(value, str)} == {"Unavailable" if "cut" in name else "Failed"}


async def test_a_caller_that_gives_up_leaves_nothing_behind(model: RawModel, upstream: RestUpstream) -> None:
    """By its own time limit, or as it is cancelled: the answer that comes later is nobody's."""
    model.script = lambda asked: [CONTINUE, 0.2, answer_to(asked)] if asked.number <= 2 else [answer_to(asked)]
    with pytest.raises(Late):
        await ask(upstream, 7, "r", timeout=0.1)
    task = asyncio.create_task(ask(upstream, 8, "r"))
    await soon(lambda: len(model.asked) == 2)
    task.cancel()
    await asyncio.wait((task,))
    assert await ask_several(upstream, request_id="r") == OWN
    assert model.connections == 3


async def test_an_error_before_all_was_sent_closes_the_connection(upstream: RestUpstream, model: RawModel) -> None:
    """What is left of the request would be the next one's beginning."""
    connections = 0
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(413, {"error": "too much"}))
        await writer.drain()
        await done.wait()  # it reads no more
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    own = RestUpstream(Inference(url=f"http://127.0.0.1:{port}", timeout_seconds=30))
    for _ in range(2):
        found = await own._pool.post("/v2/models/raw/infer", b"", (bytes(1 << 25),), 30)
        assert found.status == 413
    assert connections == 2
    done.set()
    await own.close()
    server.close()


async def test_an_answer_with_another_requests_id_is_an_error(model: RawModel, upstream: RestUpstream) -> None:
    model.script = lambda asked: [answer_to(asked, id="another" if asked.number == 1 else asked.document["id"])]
    with pytest.raises(Failed, match="another request's"):
        await ask(upstream, 1)
    assert await ask(upstream, 2) == 2.5


async def test_a_server_that_speaks_first(upstream: RestUpstream) -> None:
    """As mail servers do; and one that closes what it has accepted."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    own = RestUpstream(Inference(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_seconds=30))
    for said in (b"220 mail ESMTP\r\n", b""):
        banner = said
        for number in range(3):
            with pytest.raises((Failed, Unavailable)):
                await ask(own, number, "r")
    await own.close()
    server.close()


async def test_answers_have_a_limit(model: RawModel, upstream: RestUpstream) -> None:
    bodies = [
        OK + b"Content-Length: 100001\r\n\r\n",
        OK + b"\r\n" + b" " * 100_001,
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"186a0\r\n" + b" " * 100_000 + b"\r\n1\r\n",
    ]
    for body in bodies:
        model.script = lambda asked, body=body: [body]  # type: ignore[misc]
        with pytest.raises(TooLarge, match=r"inference\.max_response_bytes"):
            await ask(upstream, 1)
        model.script = lambda asked: [response(200, b"{}" + b" " * 99_998)]
        with pytest.raises(Failed, match="not V2"):
            await ask(upstream, 1)
    model.metadata = response(200, b" " * 100_001)
    with pytest.raises(TooLarge):
        await upstream.model("raw")


@pytest.mark.parametrize("target", ["/v2/models/other/infer", "http://127.0.0.1:1/"])
async def test_a_redirect_is_an_error(model: RawModel, upstream: RestUpstream, target: str) -> None:
    redirect = response(307, b"", f"Location: {target}")
    model.script = lambda asked: [redirect]
    with pytest.raises(Failed, match="redirects"):
        await ask(upstream, 1)
    with pytest.raises(Failed, match="redirects"):
        [event async for event in upstream.chat_stream(InferenceRequest("r", "raw", data=b'{"messages":[]}'))]
    assert len(model.asked) == 2
    model.metadata = redirect
    with pytest.raises(Failed, match="redirects"):
        await upstream.model("raw")
    assert len(model.asked) == 2


@pytest.mark.parametrize(
    ("said", "ms"),
    [
        ("1.5", 1.5),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("-1", None),
        ("1e400", None),
        ("1e300", None),
        ("x", None),
    ],
)
async def test_how_long_it_took_is_a_number_or_not_there(
    model: RawModel, upstream: RestUpstream, said: str, ms: float | None
) -> None:
    model.script = lambda asked: [answer_to(asked, f"podpair-inference-ms: {said}")]
    inputs = b'[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]'
    assert (await upstream.infer(InferenceRequest("r", "raw", inputs), inputs, 30)).inference_ms == ms


async def test_an_answer_that_is_no_text_is_an_error(model: RawModel, upstream: RestUpstream) -> None:
    model.script = lambda asked: [response(200, b'{"outputs":[{"name":"\xff","data":[1.5]}]}')]
    with pytest.raises(Failed, match="UTF-8"):
        await ask(upstream, 1)


async def test_who_gives_up_as_the_answer_comes_ends_no_other_call(
    model: RawModel, upstream: RestUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is free from the answer on, and may carry another's call before its task has heard of it."""
    released = HttpPool.release
    others: list[asyncio.Task[float]] = []

    async def give_up_then_ask() -> float:
        first.cancel()
        return await ask(upstream, 2)

    def release(pool: HttpPool, connection: Any) -> None:
        released(pool, connection)
        if not others:  # its step comes before that of who waits for the answer
            others.append(asyncio.create_task(give_up_then_ask()))

    monkeypatch.setattr(HttpPool, "release", release)
    first = asyncio.create_task(ask(upstream, 1))
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await asyncio.wait_for(others[0], 10) == 2.5
    assert model.connections == 1, "the connection was free: its answer was whole"


async def test_heads_of_calls_are_remembered_only_while_they_are_small(upstream: RestUpstream) -> None:
    """Parameters are as large as clients make them, and none that was sent once is kept for ever."""
    model = model_of("raw", json.dumps(METADATA).encode(), None)
    tracemalloc.start()
    try:
        for number in range(50):
            parameters = b'{"note":"%d%b"}' % (number, b"x" * 1_000_000)
            head = upstream._head(Call(model, ((1, 2),), (bytes(8),), parameters, None, "", ""))
            assert json.loads(head)["parameters"]["note"].startswith(f"{number}x")
        del head, parameters
        assert tracemalloc.get_traced_memory()[0] < 10_000_000
    finally:
        tracemalloc.stop()
