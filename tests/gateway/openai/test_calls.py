"""OpenAI's API on a pair: what its own client sees, errors in its shape, and what becomes of a client that leaves."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from gateway.openai.conftest import BEARER
from harness import environments
from harness.openai_server import TEXT_ERROR, OpenAIServer
from harness.pair import Gateway, token
from harness.processes import output_of
from harness.waiting import soon

pytestmark = pytest.mark.process

HERE = Path(__file__).parent
CHAT = "/v1/chat/completions"


def said(text: str, model: str = "llm", **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **members}


async def see(gateway: Gateway, *arguments: str) -> dict[str, Any]:
    python = environments.python(HERE.parent / "clients.lock")
    script = HERE.parent / "outside/openai_calls.py"
    seen: dict[str, Any] = json.loads(
        await asyncio.to_thread(output_of, python, script, gateway.url + "/v1", token(), *arguments)
    )
    return seen


SEEN = {
    "chat": ["chat.completion", "to be", "stop"],
    "chat request id": True,
    "stream": ["to ", "be ", "or "],
    "stream reason": "stop",
    "stream usage": 3,
    "helper": "to be or ",
    "completion": ["text_completion", "not to"],
    "completion stream": "not to ",
    "embeddings base64": [[3.0, 0.5], [1.0, 0.5]],
    "embeddings float": [[3.0, 0.5], [1.0, 0.5]],
    "one embedding": [3.0, 0.5],
    "bad key": ["AuthenticationError", 401, "invalid_api_key", "authentication_error", None, True],
    "fails": [["", "to "], "APIError", "f", "told to fail"],
    "breaks": [["", "to ", "be "], "APIError", "bad_gateway", "the model's server ended the stream before it was complete"],
    "ends": [["", "to ", "be "], "APIError", "bad_gateway", "the model's server ended the stream before it was complete"],
}  # fmt: skip


@pytest.mark.timeout(600)  # its environment may have to be made
async def test_openais_client_before_a_server_of_its_api(before_server: Gateway, server: OpenAIServer) -> None:
    seen = await see(before_server, "llm", "llm", "tools")
    assert seen.pop("bad value", None) is None  # it is the server's to refuse, which takes anything
    assert seen.pop("tools") == ["look", '{"a":1}', "tool_calls"]
    assert seen.pop("tools stream") == ["look", '{"a":1}']
    assert seen == {**SEEN, "models": ["llm"], "model": "llm"}
    assert all("authorization" not in headers for headers in server.headers)
    assert {headers["podpair-key"] for headers in server.headers} == {"user"}


@pytest.mark.timeout(600)
async def test_openais_client_before_python_models(before_python: Gateway, server: OpenAIServer) -> None:
    seen = await see(before_python, "teller", "vectors", "no")
    assert seen.pop("bad value") == [
        "BadRequestError",
        400,
        "invalid_value",
        "invalid_request_error",
        "max_tokens",
        True,
    ]
    assert seen == {**SEEN, "models": ["llm", "teller", "vectors"], "model": "teller"}


@pytest.mark.parametrize("path", ["%2e%2e/%2e%2e/internal", "..%2f..%2Finternal", "llm/%2e%2e/%2e%2e/%2E./internal"])
async def test_no_name_of_a_model_leads_to_what_is_not_the_api(
    before_server: Gateway, server: OpenAIServer, http: aiohttp.ClientSession, path: str
) -> None:
    async with http.get(f"{server.url}/internal") as answer:
        assert answer.status == 200
    async with http.get(URL(f"{before_server.url}/v1/models/{path}", encoded=True), headers=BEARER) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "model_not_found")


REFUSED: dict[str, tuple[str, Any, int, dict[str, Any]]] = {
    "no JSON": (CHAT, "{", 400, {"code": "invalid_value"}),
    "no UTF-8": (CHAT, b'{"model": "\xff"}', 400, {"code": "invalid_value"}),
    "no model": (CHAT, {"messages": []}, 400, {"code": "missing_required_parameter", "param": "model"}),
    "a model of another type": (CHAT, {"model": 7}, 400, {"code": "invalid_value", "param": "model"}),
    "nested too deep": (CHAT, b'{"model":"llm","x":' + b"[" * 3000, 400, {"code": "invalid_value"}),
    "no messages": (CHAT, {"model": "teller"}, 400, {"code": "missing_required_parameter", "param": "messages"}),
    "messages of another type": (CHAT, {"model": "teller", "messages": "x"}, 400, {"param": "messages"}),
    "no message": (CHAT, {"model": "teller", "messages": []}, 400, {"param": "messages"}),
    "a temperature": (CHAT, said("x", "teller", temperature=9), 400, {"param": "temperature"}),
    "two choices": (CHAT, said("x", "teller", n=2), 400, {"code": "unsupported_parameter", "param": "n"}),
    "tools": (CHAT, said("x", "teller", tools=[{}]), 400, {"code": "unsupported_parameter", "param": "tools"}),
    "embeddings of a teller": ("/v1/embeddings", {"model": "teller", "input": "x"}, 404, {"code": "model_not_found"}),
    "chat with vectors": (CHAT, said("x", "vectors"), 404, {"code": "model_not_found", "param": "model"}),
    "two prompts": ("/v1/completions", {"model": "teller", "prompt": ["a", "b"]}, 400, {"param": "prompt"}),
    "an encoding": (
        "/v1/embeddings",
        {"model": "vectors", "input": "x", "encoding_format": "hex"},
        400,
        {"param": "encoding_format"},
    ),
    "a failing model": (CHAT, said("fail", "teller"), 502, {"type": "server_error", "code": "bad_gateway"}),
    "what the server refuses": (
        CHAT,
        said("!status:409"),
        409,
        {"message": "told so", "type": "made_up", "code": None},
    ),
    "what it refuses in a text": (
        CHAT,
        said("!status:418"),
        418,
        {"message": TEXT_ERROR, "type": "invalid_request_error"},
    ),
    "a redirect": (CHAT, said("!status:302"), 502, {"type": "server_error"}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused(
    before_python: Gateway, server: OpenAIServer, http: aiohttp.ClientSession, case: str
) -> None:
    path, body, status, members = REFUSED[case]
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    async with http.post(before_python.url + path, data=data, headers=BEARER) as answer:
        found = (await answer.json())["error"]
        assert answer.status == status, found
        assert set(found) >= {"message", "type", "param", "code"}
        assert found["message"]
        assert members.items() <= found.items()
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("sub", "status", "code"), [("narrow", 403, "permission_denied"), ("slow", 429, "rate_limit_exceeded")]
)
async def test_rules_hold(
    before_server: Gateway, server: OpenAIServer, http: aiohttp.ClientSession, sub: str, status: int, code: str
) -> None:
    headers = {"Authorization": f"Bearer {token(sub)}"}
    for _ in range(2):
        async with http.post(before_server.url + CHAT, json=said("x"), headers=headers) as answer:
            found = await answer.json()
    assert (answer.status, found["error"]["code"]) == (status, code)
    if status == 429:
        assert 1 <= int(answer.headers["Retry-After"]) <= 30
        assert 1 <= int(answer.headers["retry-after-ms"]) <= 30_000


async def test_a_body_that_is_too_large(before_server: Gateway, http: aiohttp.ClientSession) -> None:
    async with http.post(before_server.url + CHAT, json=said("x" * 9000), headers=BEARER) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (413, "invalid_request_error")


async def test_limits_of_direct_requests_hold(
    before_server: Gateway, server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    server.open.clear()

    async def ask() -> int:
        async with http.post(before_server.url + CHAT, json=said("!wait"), headers=BEARER) as answer:
            await answer.read()
            return answer.status

    waiting = [asyncio.create_task(ask()) for _ in range(4)]
    await soon(lambda: len(server.asked) == 4)
    async with http.post(before_server.url + CHAT, json=said("x"), headers=BEARER) as answer:
        found = (await answer.json())["error"]
    assert (answer.status, found["type"], found["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert answer.headers["retry-after-ms"] == "100"
    server.open.set()
    assert await asyncio.gather(*waiting) == [200] * 4
    assert before_server.metric("openai_requests_total", endpoint="chat/completions", status="429") >= 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_call(
    before_server: Gateway, server: OpenAIServer, http: aiohttp.ClientSession, stream: bool
) -> None:
    server.open.clear()
    asking = asyncio.create_task(
        http.post(before_server.url + CHAT, json=said("bye !wait", stream=stream), headers=BEARER)
    )
    if stream:
        answer = await asking
        await answer.content.readuntil(b"bye")
        answer.close()
    else:
        await soon(lambda: len(server.asked) == 1)
        asking.cancel()
    await soon(lambda: server.left == ["bye !wait"])


async def test_a_client_that_leaves_ends_a_python_models_stream(
    before_python: Gateway, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    body = said(f"bye @{tmp_path}/go", "teller", stream=True)
    answer = await http.post(before_python.url + CHAT, json=body, headers=BEARER)
    await answer.content.readuntil(b"bye")
    answer.close()
    await soon(lambda: (tmp_path / "go.ended").exists())


@pytest.mark.parametrize("model", ["llm", "teller"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline(
    before_python: Gateway, server: OpenAIServer, http: aiohttp.ClientSession, tmp_path: Path, model: str, stream: bool
) -> None:
    import time

    server.open.clear()
    wait = "!wait" if model == "llm" else f"@{tmp_path}/go"
    headers = BEARER | {"podpair-deadline": str(int(time.time() * 1000) + 600)}
    body = said(f"late {wait}", model, stream=stream)
    async with http.post(before_python.url + CHAT, json=body, headers=headers) as answer:
        if stream:
            assert answer.status == 200
            events = (await answer.read()).decode().split("\n\n")
            assert "late" in events[-3]
            found = json.loads(events[-2].removeprefix("data: "))["error"]
        else:
            assert (answer.status, answer.headers["x-should-retry"]) == (504, "false")
            found = (await answer.json())["error"]
    assert (found["type"], found["code"]) == ("server_error", "timeout")


async def test_a_failure_before_the_first_word_is_a_response_of_its_own(
    before_python: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.post(before_python.url + CHAT, json=said("fail", "teller", stream=True), headers=BEARER) as answer:
        assert (answer.status, answer.content_type) == (502, "application/json")
    async with http.post(
        before_python.url + CHAT, json=said("one fail", "teller", stream=True), headers=BEARER
    ) as answer:
        events = (await answer.read()).decode().strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["type"] == "server_error"
    assert b"[DONE]" not in events[-1].encode()


async def test_parameters_reach_a_python_model(before_python: Gateway, http: aiohttp.ClientSession) -> None:
    body = said("one two three", "teller", max_completion_tokens=2)
    async with http.post(before_python.url + CHAT, json=body, headers=BEARER) as answer:
        found = await answer.json()
    assert found["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "one two "}, "finish_reason": "length"}
    ]
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_it_is_off_by_default(start_gateway: Callable[..., Gateway], http: aiohttp.ClientSession) -> None:
    gateway = start_gateway({"kafka": {"embedded": True}})
    for path in ("/v1/models", "/v1/embeddings"):
        async with http.get(gateway.url + path, headers=BEARER) as answer:
            assert answer.status == 404
