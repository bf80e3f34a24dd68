"""OpenAI's chat completions: as they are over HTTP, and as requests of a session, which has routes, resume and cancel."""

import json
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Client, Connect
from gateway.fake_model import FakeModel
from harness.pair import Gateway, token

BEARER = {"Authorization": f"Bearer {token()}"}


def said(text: str, **members: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **members}


async def parts(client: Client, request_id: str) -> tuple[list[Any], dict[str, Any]]:
    found: list[Any] = []
    while (event := await client.next())["type"] not in ("result", "error"):
        if event["type"] == "partial":
            assert (event["id"], event["seq"]) == (request_id, len(found))
            found.append(event["data"])
    return found, event


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_completion_in_parts(before_model: Gateway, model: FakeModel, connect: Connect, route: str) -> None:
    client = await connect(before_model)
    asked = said("to be or not", temperature=0.5)
    await client.infer("r", model="llm", data=asked, parameters={"seed": 7}, stream=True, route=route)
    found, result = await parts(client, "r")
    assert found == ["to ", "be ", "or ", "not "]
    assert model.asked[-1] == asked | {"model": "llm", "seed": 7, "stream": True}
    assert result["data"] == {
        "id": "c-1", "created": 1, "model": "llm", "object": "chat.completion", "usage": {"total_tokens": 3},
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "to be or not "}, "finish_reason": "stop"}
        ],
    }  # fmt: skip
    assert (result["model"], result["parts"]) == ("llm", 4)


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_completion_at_once(before_model: Gateway, connect: Connect, route: str) -> None:
    client = await connect(before_model)
    await client.infer("r", model="llm", data=said("to be"), route=route)
    result = await client.answer("r")
    assert result["data"]["choices"][0]["message"] == {"role": "assistant", "content": "to be"}


@pytest.mark.parametrize(("text", "stream", "why"), [
    ("fail", False, "told to fail"), ("to fail", True, "told to fail"), ("to break", True, "before it was complete"),
])  # fmt: skip
async def test_a_completion_that_fails(
    before_model: Gateway, connect: Connect, text: str, stream: bool, why: str
) -> None:
    client = await connect(before_model)
    await client.infer("r", model="llm", data=said(text), stream=stream, route="direct")
    error = await client.answer("r")
    assert (error["type"], error["code"]) == ("error", "upstream")
    assert why in error["message"]


async def test_over_http_it_is_what_the_server_says(before_model: Gateway, http: aiohttp.ClientSession) -> None:
    url = before_model.url + "/v1/chat/completions"
    async with http.post(url, json=said("to be", model="llm"), headers=BEARER) as answer:
        assert answer.status == 200
        assert (await answer.json())["choices"][0]["message"]["content"] == "to be"
    async with http.post(url, json=said("to be", model="llm", stream=True), headers=BEARER) as answer:
        assert answer.content_type == "text/event-stream"
        events = [line.removeprefix(b"data: ") for line in (await answer.read()).split(b"\n\n") if line]
    assert events.pop() == b"[DONE]"
    assert [json.loads(event)["choices"][0]["delta"].get("content") for event in events] == ["", "to ", "be ", None]
    async with http.post(url, json=said("fail", model="llm"), headers=BEARER) as answer:
        assert answer.status == 500
        assert (await answer.json())["error"]["message"] == "told to fail"
    async with http.post(url, json=said("to be")) as answer:
        assert answer.status == 401


async def test_over_http_the_events_come_as_they_are_made(
    before_model: Gateway, model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.open.clear()
    url = before_model.url + "/v1/chat/completions"
    async with http.post(url, json=said("to be", model="llm", stream=True), headers=BEARER) as answer:
        assert b'"role": "assistant"' in await answer.content.readuntil(b"\n\n")
        model.open.set()
        assert (await answer.content.read()).endswith(b"[DONE]\n\n")
