"""A chat's stream goes on at any gateway of the group, behind the event that its client had last."""

import json
from typing import Any

import aiohttp
import pytest

from gateway.openai.conftest import BEARER
from harness.openai_server import OpenAIServer
from harness.pair import Gateway, token
from harness.waiting import soon

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions"
RESUMABLE = BEARER | {"podpair-resumable": "true"}


def said(text: str, **members: Any) -> dict[str, Any]:
    return {"model": "llm", "messages": [{"role": "user", "content": text}], "stream": True, **members}


async def test_a_stream_goes_on_elsewhere_byte_for_byte(
    two_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    here, there = two_gateways
    async with http.post(here.url + CHAT, json=said("one two three"), headers=RESUMABLE) as answer:
        whole, name = await answer.read(), answer.headers["podpair-stream"]
    assert whole.endswith(b"data: [DONE]\n\n")
    events = whole.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")[:-1]
    assert [event.split(b"\n")[0] for event in events] == [b"id: %d" % number for number in range(5)]
    chunks = [json.loads(event.split(b"data: ")[1]) for event in events]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "one two three "
    url = f"{there.url}{CHAT}/{name}"
    for number in range(-1, 5):
        rest = b"".join(event + b"\n\n" for event in events[number + 1 :]) + b"data: [DONE]\n\n"
        headers = {"Last-Event-ID": str(number)} if number >= 0 else {}
        async with http.get(url, headers=BEARER | headers) as answer:
            assert await answer.read() == rest
        query = {"starting_after": str(number)} if number >= 0 else {}
        async with http.get(url, headers=BEARER, params=query) as answer:
            assert await answer.read() == rest
    for headers, status in (
        ({"Last-Event-ID": "5"}, 400),
        ({"Last-Event-ID": "x"}, 400),
        ({"Authorization": f"Bearer {token('another')}"}, 404),
    ):
        async with http.get(url, headers=BEARER | headers) as answer:
            assert (answer.status, set(await answer.json())) == (status, {"error"})


async def test_a_stream_outlives_its_connection(
    two_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    here, there = two_gateways
    server.open.clear()
    answer = await http.post(f"{here.url}{CHAT}?resumable=true", json=said("one !wait two"), headers=BEARER)
    got = b"".join([await answer.content.readuntil(b"\n\n") for _ in range(2)])
    answer.close()
    url = f"{there.url}{CHAT}/{answer.headers['podpair-stream']}"
    follow = await http.get(url, headers=BEARER | {"Last-Event-ID": "1"})
    server.open.set()
    rest = await follow.read()
    assert rest.startswith(b"id: 2\n")
    assert rest.count(b'"two "') == 1
    assert server.left == []
    async with http.get(url, headers=BEARER) as again:
        assert await again.read() == got + rest


async def test_who_does_not_ask_gets_no_ids(
    two_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    async with http.post(two_gateways[0].url + CHAT, json=said("one"), headers=BEARER) as answer:
        assert "podpair-stream" not in answer.headers
        assert b"id: " not in (await answer.read()).replace(b'"id": ', b"")


@pytest.mark.parametrize("text", ["one !fail", "one !break", "one !end"])
async def test_a_stream_that_fails_ends_with_its_error_each_time(
    two_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession, text: str
) -> None:
    here, there = two_gateways
    async with http.post(here.url + CHAT, json=said(text), headers=RESUMABLE) as answer:
        whole, name = await answer.read(), answer.headers["podpair-stream"]
    assert b'"error"' in whole.split(b"\n\n")[-2]
    assert b"[DONE]" not in whole
    async with http.get(f"{there.url}{CHAT}/{name}", headers=BEARER) as answer:
        assert await answer.read() == whole


async def test_a_deleted_stream_ends(
    two_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    here, there = two_gateways
    server.open.clear()
    answer = await http.post(here.url + CHAT, json=said("one !wait two"), headers=RESUMABLE)
    await answer.content.readuntil(b"one")
    url = f"{there.url}{CHAT}/{answer.headers['podpair-stream']}"
    async with http.delete(url, headers=BEARER) as deleted:
        assert (await deleted.json())["deleted"] is True
    assert b"the stream was deleted" in await answer.read()
    async with http.get(url, headers=BEARER) as gone:
        assert gone.status == 404
    await soon(lambda: server.left == ["one !wait two"])
