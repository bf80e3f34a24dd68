"""Responses at two gateways of a group: made at one, read, resumed, cancelled at the other; the log is all that they share."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.openai.conftest import BEARER, config_of
from harness import environments
from harness.kafka import Broker
from harness.openai_server import OpenAIServer
from harness.pair import Gateway, token
from harness.processes import output_of
from harness.waiting import soon

pytestmark = pytest.mark.process

HERE = Path(__file__).parent
OTHER = {"Authorization": f"Bearer {token('another')}"}


@pytest.fixture
def gate(server: OpenAIServer, tmp_path: Path) -> Iterator[Path]:
    """The model waits while this file is not there."""
    path, ended = tmp_path / "go", threading.Event()

    def follow() -> None:
        while not ended.wait(0.005):
            (server.open.set if path.exists() else server.open.clear)()

    thread = threading.Thread(target=follow)
    thread.start()
    yield path
    ended.set()
    thread.join()


SEEN: dict[str, Any] = {
    "create": ["completed", "to be ", 4, {"a": "b"}],
    "retrieved elsewhere is equal": True,
    "events": [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done", "response.completed",
    ],
    "numbers": True,
    "replay is equal": True,
    "behind 4 is equal": True,
    "helper": "to be or ",
    "previous": ["and more ", True],
    "in between": "in_progress",
    "resumed": "one two three four ",
    "resumed numbers": True,
    "helper resumes": "one two three four ",
    "background": ["queued", "five "],
    "cancelled": ["cancelled", "six ", "cancelled"],
    "cancelled again": "cancelled",
    "events of a cancelled one": "response.incomplete",
    "cancel a completed one": [400, "invalid_request_error", "invalid_request", None],
    "input items": [["user", "and more"]],
    "deleted": [404, "invalid_request_error", "not_found", None],
    "unstored": ["seven ", [404]],
    "unstored stream": "response.completed",
    "tools": ["function_call", "look", '{"a":1}', "completed"],
    "tool output": "seen ",
    "tools helper": '{"a":1}',
    "fails": ["response.failed", "failed", "server_error", "to "],
    "breaks": ["response.failed", "failed", "server_error", "to "],
    "ends": ["response.failed", "failed", "server_error", "to "],
}  # fmt: skip


@pytest.mark.timeout(600)  # its environment may have to be made
async def test_openais_client_at_two_gateways(
    two_gateways: tuple[Gateway, Gateway], server: OpenAIServer, gate: Path
) -> None:
    python = environments.python(HERE.parent / "clients.lock")
    urls = [gateway.url + "/v1" for gateway in two_gateways]
    script = HERE.parent / "outside/openai_responses.py"
    seen = json.loads(await asyncio.to_thread(output_of, python, script, *urls, token(), gate))
    assert seen == SEEN
    went_on = next(body["messages"] for body in server.asked if body["messages"][-1]["content"] == "and more")
    assert went_on == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "to be"},
        {"role": "assistant", "content": "to be "},
        {"role": "user", "content": "and more"},
    ]
    await soon(lambda: "six !wait seven" in server.left)  # the model was told of the cancellation


async def create(http: aiohttp.ClientSession, gateway: Gateway, **members: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(
        f"{gateway.url}/v1/responses", json={"model": "llm", "input": "to be", **members}, headers=BEARER
    ) as answer:
        return answer.status, await answer.json()


REFUSED: dict[str, tuple[str, str, dict[str, Any], int, dict[str, Any]]] = {
    "unknown": ("GET", "/v1/responses/resp_123", {}, 404, {"code": "not_found"}),
    "made up": ("GET", "/v1/responses/resp_{0:050x}", {}, 404, {"code": "not_found"}),
    "another's": ("GET", "/v1/responses/ID", OTHER, 404, {"code": "not_found"}),
    "another's stream": ("GET", "/v1/responses/ID?stream=true", OTHER, 404, {"code": "not_found"}),
    "another's to cancel": ("POST", "/v1/responses/ID/cancel", OTHER, 404, {"code": "not_found"}),
    "another's to delete": ("DELETE", "/v1/responses/ID", OTHER, 404, {"code": "not_found"}),
    "another's input": ("GET", "/v1/responses/ID/input_items", OTHER, 404, {"code": "not_found"}),
    "no token": ("GET", "/v1/responses/ID", {"Authorization": "x"}, 401, {"code": "invalid_api_key"}),
    "past the end": ("GET", "/v1/responses/ID?stream=true&starting_after=10", {}, 400, {"param": "starting_after"}),
    "no number": ("GET", "/v1/responses/ID?stream=true&starting_after=x", {}, 400, {"param": "starting_after"}),
    "negative": ("GET", "/v1/responses/ID?stream=true&starting_after=-1", {}, 400, {"param": "starting_after"}),
    "without a stream": ("GET", "/v1/responses/ID?starting_after=1", {}, 400, {"param": "starting_after"}),
    "a limit": ("GET", "/v1/responses/ID/input_items?limit=0", {}, 400, {"param": "limit"}),
    "an order": ("GET", "/v1/responses/ID/input_items?order=x", {}, 400, {"param": "order"}),
    "an unknown item": ("GET", "/v1/responses/ID/input_items?after=x", {}, 400, {"param": "after"}),
}

BAD: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "no input": ({"input": None}, 400, {"code": "missing_required_parameter", "param": "input"}),
    "another type": ({"input": 7}, 400, {"code": "invalid_value", "param": "input"}),
    "a role": ({"input": [{"role": "judge", "content": "x"}]}, 400, {"param": "input[0].role"}),
    "an item": ({"input": [{"type": "computer_call"}]}, 400, {"param": "input[0].type"}),
    "a part": (
        {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        400,
        {"param": "input[0].content[0].type"},
    ),
    "a tool": ({"tools": [{"type": "web_search"}]}, 400, {"param": "tools[0].type"}),
    "a conversation": ({"conversation": "c"}, 400, {"code": "unsupported_parameter", "param": "conversation"}),
    "unstored in the background": ({"background": True, "store": False}, 400, {"param": "store"}),
    "an unknown previous one": (
        {"previous_response_id": "resp_1"},
        400,
        {"code": "previous_response_not_found", "param": "previous_response_id"},
    ),
    "what the server refuses": ({"input": "!status:409"}, 409, {"message": "told so", "type": "made_up"}),
    "what the server refuses a stream": ({"input": "!status:429", "stream": True}, 429, {"message": "told so"}),
}


async def test_what_is_refused(two_gateways: tuple[Gateway, Gateway], http: aiohttp.ClientSession) -> None:
    here, there = two_gateways
    _, made = await create(http, here)
    for case, (method, path, headers, status, members) in REFUSED.items():
        url = there.url + path.replace("ID", made["id"]).format(7)
        async with http.request(method, url, headers=BEARER | headers) as answer:
            found = (await answer.json())["error"]
            assert (case, answer.status) == (case, status), found
            assert members.items() <= found.items(), case
    for case, (body, status, members) in BAD.items():
        found_status, refused = await create(http, here, **body)
        assert (case, found_status) == (case, status), refused
        assert members.items() <= refused["error"].items(), (case, refused)
    async with http.get(
        f"{there.url}/v1/responses/{made['id']}?stream=true&starting_after=9", headers=BEARER
    ) as answer:
        assert (answer.status, await answer.read()) == (200, b"")  # it has had the last one


@pytest.mark.parametrize("members", [{}, {"store": False}, {"background": True}])
async def test_a_response_fails_with_a_chunk_of_another_form(
    two_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession, members: dict[str, Any]
) -> None:
    body = {"model": "llm", "input": "one !odd two", "stream": True, **members}
    async with http.post(f"{two_gateways[0].url}/v1/responses", json=body, headers=BEARER) as answer:
        events = (await answer.text()).strip().split("\n\n")
    last = json.loads(events[-1].split("data: ")[1])
    assert (last["type"], last["response"]["output"][0]["content"][0]["text"]) == ("response.failed", "one ")
    assert "no chunk of a completion" in last["response"]["error"]["message"]


async def test_a_stream_is_found_by_its_own_kind_only(
    two_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    here, there = two_gateways
    _, made = await create(http, here)
    chat = {"model": "llm", "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with http.post(f"{here.url}/v1/chat/completions?resumable=true", json=chat, headers=BEARER) as answer:
        await answer.read()
        stream = answer.headers["podpair-stream"]
    paths = [f"/v1/chat/completions/{made['id'].replace('resp_', 'chat_')}"]
    paths += [f"/v1/responses/{stream.replace('chat_', 'resp_')}{end}" for end in ("", "?stream=true", "/input_items")]
    for path in paths:
        async with http.get(there.url + path, headers=BEARER) as answer:
            assert (path, answer.status) == (path, 404)


async def test_a_response_of_a_python_model(before_python: Gateway, http: aiohttp.ClientSession) -> None:
    asked = {"model": "teller", "input": [{"role": "user", "content": [{"type": "input_text", "text": "to be or"}]}]}

    async def made(**members: Any) -> dict[str, Any]:
        async with http.post(f"{before_python.url}/v1/responses", json=asked | members, headers=BEARER) as answer:
            whole: dict[str, Any] = await answer.json()
        assert answer.status == 200, whole
        return whole

    whole = await made()
    assert (whole["status"], whole["output"][0]["content"][0]["text"]) == ("completed", "to be or ")
    assert (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"]) == (3, 3)
    url = f"{before_python.url}/v1/responses/{whole['id']}"
    async with http.get(f"{url}?stream=true", headers=BEARER) as answer:
        events = [json.loads(event.split("data: ")[1]) for event in (await answer.text()).strip().split("\n\n")]
    assert [event["delta"] for event in events if "delta" in event] == ["to ", "be ", "or "]
    assert events[-1]["response"] == whole
    cut = await made(max_output_tokens=2, store=False)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["content"][0]["text"] == "to be "
    failed = await made(input="to fail", background=True)
    async with http.get(f"{before_python.url}/v1/responses/{failed['id']}?stream=true", headers=BEARER) as answer:
        assert "event: response.failed" in await answer.text()
    async with http.post(
        f"{before_python.url}/v1/responses", json=asked | {"tools": [{"type": "function", "name": "x"}]}, headers=BEARER
    ) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, "tools")


async def test_a_response_survives_its_clients_connection_and_a_restart(
    broker: Broker, server: OpenAIServer, names: dict[str, Any], start_gateway: Callable[..., Gateway],
    http: aiohttp.ClientSession,
) -> None:  # fmt: skip
    gateway = start_gateway(config_of(broker, server, names))
    gateway.wait_ready()
    server.open.clear()
    answer = await http.post(
        f"{gateway.url}/v1/responses",
        json={"model": "llm", "input": "one !wait two", "stream": True},
        headers=BEARER,
    )
    first = await answer.content.readuntil(b"\n\n")
    made = json.loads(first.split(b"data: ")[1])["response"]
    answer.close()
    server.open.set()
    url = f"/v1/responses/{made['id']}"

    async def status() -> str:
        async with http.get(gateway.url + url, headers=BEARER) as found:
            return str((await found.json())["status"])

    while await status() != "completed":
        await asyncio.sleep(0.02)
    await asyncio.to_thread(gateway.stop)
    gateway = start_gateway(config_of(broker, server, names))
    gateway.wait_ready()
    async with http.get(gateway.url + url, headers=BEARER) as found:
        assert (await found.json())["output"][0]["content"][0]["text"] == "one two "


@pytest.fixture
def own_gateways(
    broker: Broker, server: OpenAIServer, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> tuple[Gateway, Gateway]:
    """Two gateways of one group that the test may end."""
    here, there = (start_gateway(config_of(broker, server, names)) for _ in range(2))
    here.wait_ready()
    there.wait_ready()
    return here, there


async def test_a_gateway_that_stops_says_what_became_of_its_responses(
    own_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    here, there = own_gateways
    server.open.clear()
    _, made = await create(http, here, input="one !wait two", background=True)
    await soon(lambda: len(server.asked) == 1)
    follow = await http.get(f"{there.url}/v1/responses/{made['id']}?stream=true", headers=BEARER)
    await follow.content.readuntil(b"one ")
    await asyncio.to_thread(here.stop)
    events = (await follow.read()).decode().strip().split("\n\n")
    assert events[-1].startswith("event: response.failed\n")
    async with http.get(f"{there.url}/v1/responses/{made['id']}", headers=BEARER) as found:
        failed = await found.json()
    assert (failed["status"], failed["error"]["message"]) == ("failed", "the gateway that generated it was stopped")
    assert failed["output"][0]["content"][0]["text"] == "one "


@pytest.mark.slow  # half a minute is how long a gateway may be silent
async def test_who_only_asks_for_a_response_learns_that_its_gateway_was_killed(
    own_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    here, there = own_gateways
    server.open.clear()
    _, made = await create(http, here, input="one !wait two", background=True)
    url = f"{there.url}/v1/responses/{made['id']}"

    async def status() -> str:
        async with http.get(url, headers=BEARER) as found:
            return str((await found.json())["status"])

    while await status() != "in_progress":
        await asyncio.sleep(0.02)
    await asyncio.to_thread(here.kill)
    async with asyncio.timeout(60):
        while (found := await status()) == "in_progress":
            await asyncio.sleep(1)  # as a client asks again and again
    assert found == "failed"


@pytest.mark.slow  # half a minute is how long a gateway may be silent
async def test_a_response_whose_gateway_was_killed_fails(
    own_gateways: tuple[Gateway, Gateway], server: OpenAIServer, http: aiohttp.ClientSession
) -> None:
    here, there = own_gateways
    server.open.clear()
    _, made = await create(http, here, input="one !wait two", background=True)
    follow = await http.get(f"{there.url}/v1/responses/{made['id']}?stream=true", headers=BEARER)
    await follow.content.readuntil(b"one ")
    await asyncio.to_thread(here.kill)
    events = (await follow.read()).decode().strip().split("\n\n")
    assert "\nevent: response.failed\n" in events[-1]  # behind heartbeats
    async with http.get(f"{there.url}/v1/responses/{made['id']}", headers=BEARER) as found:
        assert (await found.json())["error"]["message"] == "the gateway that generated it is gone"
