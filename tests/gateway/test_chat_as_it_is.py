"""Chat completions over HTTP are the model's server's own: what OpenAI's client sees through a gateway is what it sees there."""

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.raw_model import CLOSE, Asked, RawModel, Step, response
from harness import environments
from harness.pair import Gateway, token
from harness.processes import output_of

HERE = Path(__file__).parent
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
OWN = ("x-request-id: req-1", "OpenAI-Processing-Ms: 12", "x-ratelimit-remaining-requests: 9")


@pytest.fixture
def raw() -> Iterable[RawModel]:
    made = RawModel()
    made.script = Server()
    yield made
    made.close()


@pytest.fixture
async def gateway(raw: RawModel, start_gateway: Callable[..., Gateway]) -> Gateway:
    made = start_gateway({"kafka": {"embedded": True}, "inference": {"url": raw.url}, "auth": {"query_token": True}})
    await asyncio.to_thread(made.wait_ready)
    return made


class Server:
    """Answers by the header X-Case, as servers of OpenAI's protocol do."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def __call__(self, asked: Asked) -> Iterable[Step]:
        case = asked.headers.get("x-case", "plain")
        count = self.asked[case] = self.asked.get(case, 0) + 1
        refused = {"error": {"message": "no", "type": "refused", "code": "why", "param": None}}
        if case == "parts":
            chunk = b'data: {"choices":[]}\n\n'
            head = CHUNKED + "\r\n".join((*OWN, "Content-Type: text/event-stream", "X-Accel-Buffering: no")).encode()
            return [head + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk)]
        if case == "again soon" and count == 1:
            return [response(429, refused, "retry-after-ms: 20", *OWN)]
        if case == "again though 400" and count == 1:
            return [response(400, refused, "x-should-retry: true", "retry-after-ms: 20")]
        if case == "not again":
            return [response(503, refused, "x-should-retry: false", *OWN)]
        if case == "quota":
            return [response(429, refused, "x-should-retry: false", *OWN)]
        choice = {"index": 0, "message": {"role": "assistant", "content": f"{case} {count}"}, "finish_reason": "stop"}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "llm", "choices": [choice]}
        return [response(200, body, *OWN)]


@pytest.mark.timeout(600)  # its environment may have to be made
async def test_openais_client_sees_what_it_sees_at_the_model(gateway: Gateway, raw: RawModel) -> None:
    python = environments.python(HERE / "clients.lock")

    async def see(url: str, key: str) -> tuple[Any, list[Asked]]:
        raw.script = Server()
        raw.asked.clear()
        said = await asyncio.to_thread(output_of, python, HERE / "outside/openai_chat.py", url + "/v1", key)
        return json.loads(said), list(raw.asked)

    jwt = token()
    at_model, asked_there = await see(raw.url, "key")
    through, asked = await see(gateway.url, jwt)
    assert through == at_model
    assert at_model["again soon"] == ["again soon 2", "req-1"]
    assert at_model["parts"][1:] == ["req-1", "12", "no"]
    assert [(one.method, one.target, one.document) for one in asked] == [
        (one.method, one.target, one.document) for one in asked_there
    ]
    own = {"authorization", "host", "connection", "podpair-key", "x-stainless-retry-count"}
    for there, here in zip(asked_there, asked, strict=True):
        assert here.headers.items() - {("podpair-key", "user")} >= {
            (name, value) for name, value in there.headers.items() if name not in own
        }
        assert {
            "openai-organization",
            "openai-project",
            "x-client-request-id",
            "idempotency-key",
        } <= here.headers.keys()
        assert "authorization" not in here.headers
        assert jwt not in str(here)


async def test_no_credential_reaches_the_model(gateway: Gateway, raw: RawModel, http: aiohttp.ClientSession) -> None:
    jwt = token()
    headers = {
        "Authorization": f"Bearer {jwt}", "Cookie": f"session={jwt}", "Referer": f"http://page/?token={jwt}",
        "Origin": gateway.url, "Last-Event-ID": f"e.0.1~{jwt}", "Connection": "keep-alive, X-Hop", "X-Hop": jwt,
        "X-Forwarded-For": "10.0.0.1", "X-Case": "plain",
    }  # fmt: skip
    query = f"?a=1&token={jwt}&resume={jwt}&position=e.0.1&b=%20"
    for path in ("/v1/chat/completions", "/v2/models/raw/infer"):
        async with http.post(gateway.url + path + query, json={"model": "raw"}, headers=headers) as answer:
            assert answer.status == 200
            assert (answer.headers["x-request-id"], answer.headers.getall("OpenAI-Processing-Ms")) == ("req-1", ["12"])
            assert answer.headers.getall("Content-Length") == [str(len(await answer.read()))]
        asked = raw.asked[-1]
        assert asked.target == f"{path}?a=1&b=%20"
        assert jwt not in str(asked)
        assert {"x-hop", "x-forwarded-for", "origin", "referer", "cookie", "last-event-id"}.isdisjoint(asked.headers)
        assert asked.headers["x-case"] == "plain"


async def test_no_answer_speaks_for_the_gateways_origin(
    gateway: Gateway, raw: RawModel, http: aiohttp.ClientSession
) -> None:
    of_origin = (
        "Set-Cookie: a=b",
        "Access-Control-Allow-Origin: *",
        "WWW-Authenticate: Basic",
        "Location: http://10.0.0.1/",
    )
    raw.script = lambda _: [
        response(401, {}, *of_origin, "retry-after-ms: 99999999", "Retry-After: 99999", "X-Kept: 1")
    ]
    for path in ("/v1/chat/completions", "/v2/models/raw/infer"):
        async with http.post(
            gateway.url + path, json={"model": "raw"}, headers={"Authorization": f"Bearer {token()}"}
        ) as answer:
            assert (answer.status, answer.headers["X-Kept"]) == (401, "1")
            assert (answer.headers["retry-after-ms"], answer.headers["Retry-After"]) == ("30000", "30")
            names = {line.partition(":")[0] for line in of_origin}
            assert [name for name in names if name in answer.headers] == []


async def test_a_stream_is_not_to_be_held_back(gateway: Gateway, raw: RawModel, http: aiohttp.ClientSession) -> None:
    """Of servers that say nothing of it, too, and by their connection's end as well as in chunks."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    for own, told in ((b"", "no-store, no-transform"), (b"Cache-Control: private\r\n", "private, no-transform")):
        raw.script = lambda _, own=own: [head + own + b"Connection: close\r\n\r\ndata: [DONE]\n\n", CLOSE]  # type: ignore[misc]
        async with http.post(
            gateway.url + "/v1/chat/completions", json={"model": "raw"}, headers={"Authorization": f"Bearer {token()}"}
        ) as answer:
            assert ", ".join(answer.headers.getall("Cache-Control")) == told
            assert answer.headers["X-Accel-Buffering"] == "no"
            assert await answer.read() == b"data: [DONE]\n\n"
