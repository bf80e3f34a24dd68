"""V2's generate extension at the public port: one row in plain JSON, its answer whole or as events, from a real model and
from servers that misbehave.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Connect
from gateway.raw_model import CLOSE, RawModel, response
from harness.pair import Gateway, Inference, token
from harness.waiting import soon

pytestmark = pytest.mark.process

GOOD = {"Authorization": f"Bearer {token()}"}
PAGE = "https://page.example"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FORMS = ("generate", "generate_stream", "versions/1/generate", "versions/1/generate_stream")


@pytest.fixture(scope="module")
def models() -> Iterator[Inference]:
    running = Inference(models=Path(__file__).parent / "models")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(models: Inference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {"kafka": {"embedded": True}, "inference": {"url": models.url}, "http": {"origins": [PAGE]}}
    running = Gateway(tmp_path_factory.mktemp("generate"), config)
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture
def raw() -> Iterator[RawModel]:
    made = RawModel()
    yield made
    made.close()


@pytest.fixture
def before_raw(raw: RawModel, start_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway with room for one direct request, in front of a server that answers byte by byte."""
    inference = {"url": raw.url, "timeout_seconds": 2}
    made = start_gateway({"kafka": {"embedded": True}, "inference": inference, "limits": {"max_direct_in_flight": 1}})
    made.wait_ready()
    return made


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


def events(body: bytes) -> list[Any]:
    return [json.loads(block.removeprefix(b"data: ")) for block in body.split(b"\n\n") if block]


@pytest.mark.parametrize("path", ["generate", "versions/1/generate"])
async def test_a_row_and_its_answer(gateway: Gateway, http: aiohttp.ClientSession, path: str) -> None:
    body = {"id": "r", "text_input": "to be"}
    async with http.post(f"{gateway.url}/v2/models/chat/{path}", json=body, headers=GOOD) as answer:
        assert answer.status == 200, await answer.text()
        assert await answer.json() == {"id": "r", "model_name": "chat", "model_version": "1", "text_output": "TO BE"}


@pytest.mark.parametrize("path", ["generate_stream", "versions/1/generate_stream"])
async def test_parts_come_as_events(gateway: Gateway, http: aiohttp.ClientSession, path: str) -> None:
    body = {"input": "to be", "parameters": {"end": "|"}}
    async with http.post(f"{gateway.url}/v2/models/chat/{path}", json=body, headers=GOOD) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert [event["output"] for event in events(await answer.read())] == ["to|", "be|"]


async def test_each_event_comes_when_it_is_made_and_a_client_that_goes_ends_the_stream(
    gateway: Gateway, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    body = {"input": f"to @{gate} be"}
    url = f"{gateway.url}/v2/models/chat/generate_stream"
    async with http.post(url, json=body, headers=GOOD) as answer:
        assert b'"to "' in await answer.content.readuntil(b"\n\n")
        assert gateway.metric("direct_in_flight") == 1
        answer.close()
    await soon(gate.with_suffix(".ended").exists)
    await soon(lambda: gateway.metric("direct_in_flight") == 0)


@pytest.mark.parametrize("path", FORMS)
async def test_errors_have_the_form_of_v2(gateway: Gateway, http: aiohttp.ClientSession, path: str) -> None:
    url = f"{gateway.url}/v2/models/chat/{path}"
    for method, body, headers, status, said in (
        ("POST", {"input": "a"}, {}, 401, "no token"),
        ("POST", {"temperature": 1}, GOOD, 400, "no input 'temperature'"),
        ("GET", None, GOOD, 405, "does not take GET"),
        ("POST", {"input": "a"}, GOOD | {"podpair-deadline": "1000"}, 504, "deadline"),
    ):
        async with http.request(method, url, json=body, headers=headers) as answer:
            found = await answer.json()
            assert (answer.status, list(found)) == (status, ["error"])
            assert said in found["error"]
    async with http.post(url.replace("chat", "nobody"), json={"input": "a"}, headers=GOOD) as answer:
        assert answer.status == 404
        assert "nobody" in (await answer.json())["error"]


async def test_a_stream_that_fails_later_says_so_in_its_last_event(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    url = f"{gateway.url}/v2/models/chat/generate_stream"
    async with http.post(url, json={"input": "to fail"}, headers=GOOD) as answer:
        *_, last = events(await answer.read())
    assert "told to fail" in last["error"]


@pytest.mark.parametrize("path", FORMS)
async def test_pages_of_allowed_origins_may_ask(gateway: Gateway, http: aiohttp.ClientSession, path: str) -> None:
    headers = {
        "Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization",
    }  # fmt: skip
    async with http.options(f"{gateway.url}/v2/models/chat/{path}", headers=headers) as answer:
        assert answer.status == 204
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    body, marked = {"input": "a"}, GOOD | {"Origin": PAGE}
    async with http.post(f"{gateway.url}/v2/models/chat/{path}", json=body, headers=marked) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE


async def test_rules_hold_for_it_as_for_infer(
    models: Inference, start_gateway: Callable[..., Gateway], http: aiohttp.ClientSession
) -> None:
    rules = [{"claim": "sub", "models": ["one_text"]}]
    config = {"kafka": {"embedded": True}, "inference": {"url": models.url}, "admission": {"rules": rules}}
    gateway = start_gateway(config)
    gateway.wait_ready()
    for path in FORMS:
        async with http.post(f"{gateway.url}/v2/models/chat/{path}", json={"input": "a"}, headers=GOOD) as answer:
            assert answer.status == 403, await answer.text()


async def test_a_stream_has_one_place_among_the_direct_requests(
    before_raw: Gateway, raw: RawModel, http: aiohttp.ClientSession
) -> None:
    raw.script = lambda _: [EVENTS, chunk(b'data: {"y": 1}\n\n'), 1.0, chunk(b'data: {"y": 2}\n\n'), b"0\r\n\r\n"]
    url = f"{before_raw.url}/v2/models/raw/generate_stream?token=secret&resume=secret&mine=1"
    secret = GOOD | {"Cookie": "a=b"}
    async with http.post(url, json={"x": [1, 2]}, headers=secret) as first:
        await first.content.readuntil(b"\n\n")
        async with http.post(url, json={"x": [1, 2]}, headers=GOOD) as second:
            assert second.status == 429
            assert list(await second.json()) == ["error"]
            assert int(second.headers["Retry-After"]) >= 1
        assert events(await first.read()) == [{"y": 2}]
    (asked,) = raw.asked
    assert asked.target == "/v2/models/raw/generate_stream?mine=1"
    assert not {"authorization", "cookie"} & asked.headers.keys()


SCRIPTS: dict[str, tuple[Any, int, str]] = {
    "an error": ([response(503, {"error": "busy"}, "Retry-After: 7")], 503, "busy"),
    "a redirect": ([response(307, b"", "Location: http://127.0.0.1:1/")], 502, ""),
    "no HTTP": ([b"what?\r\n\r\n", CLOSE], 502, "not HTTP/1.1"),
    "nothing": ([CLOSE], 503, ""),
    "silence": ([30.0], 504, "no answer in 2 s"),
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_server_that_does_not_begin_a_stream(
    before_raw: Gateway, raw: RawModel, http: aiohttp.ClientSession, name: str
) -> None:
    script, status, said = SCRIPTS[name]
    raw.script = lambda _: script
    url = f"{before_raw.url}/v2/models/raw/generate_stream"
    async with http.post(url, json={"x": [1, 2]}, headers=GOOD) as answer:
        assert answer.status == status, await answer.text()
        assert said in (await answer.json())["error"]


@pytest.mark.parametrize("end", [CLOSE, 30.0])
async def test_a_stream_that_breaks_is_no_whole_one(
    before_raw: Gateway, raw: RawModel, http: aiohttp.ClientSession, end: float | None
) -> None:
    raw.script = lambda _: [EVENTS, chunk(b'data: {"y": 1}\n\n'), end]
    async with http.post(f"{before_raw.url}/v2/models/raw/generate_stream", json={"x": [1, 2]}, headers=GOOD) as answer:
        assert await answer.content.readuntil(b"\n\n")
        with pytest.raises((aiohttp.ClientPayloadError, ConnectionError)):
            await answer.read()


async def test_a_model_over_grpc_has_none(
    models: Inference, start_gateway: Callable[..., Gateway], http: aiohttp.ClientSession
) -> None:
    gateway = start_gateway({"kafka": {"embedded": True}, "inference": {"url": models.grpc}})
    gateway.wait_ready()
    for path in FORMS:
        async with http.post(f"{gateway.url}/v2/models/chat/{path}", json={"input": "a"}, headers=GOOD) as answer:
            assert answer.status == 404
            assert "over HTTP" in (await answer.json())["error"]


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_bare_text_is_a_row_of_one(gateway: Gateway, connect: Connect, route: str) -> None:
    client = await connect(gateway)
    for request, data, loud in (
        ("bare", "be", ["BE"]), ("row", ["be"], ["BE"]), ("rows", ["to", "be"], [["TO"], ["BE"]]),
        ("lists", [["to"], ["be"]], [["TO"], ["BE"]]),
    ):  # fmt: skip
        await client.infer(request, model="one_text", data=data, route=route)
        assert (await client.answer(request))["data"] == {"loud": loud}


async def test_bare_texts_share_calls(gateway: Gateway, connect: Connect) -> None:
    client = await connect(gateway)
    names = [f"r{number}" for number in range(20)]
    async with asyncio.TaskGroup() as asking:
        for name in names:
            asking.create_task(client.infer(name, model="one_text", data=name, route="direct"))
    answers = {}
    while len(answers) < len(names):
        event = await client.next()
        if event["type"] == "result":
            answers[event["id"]] = event["data"]["loud"]
    assert answers == {name: [name.upper()] for name in names}
