"""The configurations of docs/proxies.md, in real proxies: sessions, events and streams come through, and so does who asks."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from gateway.conftest import PATIENCE
from gateway.fake_model import FakeModel
from harness.pair import Gateway, token
from harness.proxies import PAGE, Proxy, blocks, with_location
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.desired import Dependencies, desired

HEARTBEAT = 0.3  # seconds; what the page has as 75 s is 2 s here, so that all that lasts longer lives on heartbeats
BEATS = 12
FOREIGN = "https://foreign.example"


Start = Callable[..., Proxy]


def config(**http: Any) -> dict[str, Any]:
    return {
        "sessions": {"heartbeat_seconds": HEARTBEAT}, "console": {"enabled": True, "model": "fake"}, "http": http,
    }  # fmt: skip


@pytest.fixture(scope="module")
def plain(start_before_fake: Callable[..., Gateway]) -> Gateway:
    return start_before_fake(**config())


@pytest.fixture(scope="module")
def trusting(start_before_fake: Callable[..., Gateway]) -> Gateway:
    """It trusts what is before it, and is found below a path."""
    return start_before_fake(**config(base_path="/digits", trusted_proxies=["127.0.0.0/8"]))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(kind: str, config: str, gateway: Gateway, ready: str = "/readyz") -> Proxy:
            proxy = Proxy(kind, config, gateway, tmp_path / kind)
            stack.callback(proxy.stop)
            return proxy.wait(ready)

        yield begin


KINDS = ("nginx", "haproxy", "caddy")


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest, plain: Gateway, model: FakeModel, start: Start) -> Proxy:
    return start(request.param, blocks(request.param)[0], plain)


def bearer(sid: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(sid=sid)}", **more}


async def upgrade(http: aiohttp.ClientSession, url: str, origin: str) -> tuple[int, str]:
    """The status of an upgrade, and what an error said."""
    socket = url.replace("http", "ws", 1) + "/v1/ws"
    headers = bearer("who", Origin=origin)
    try:
        async with http.ws_connect(socket, headers=headers) as ws:
            return 101, str((await ws.receive_json())["type"])
    except aiohttp.WSServerHandshakeError as error:
        status = error.status
    # As a browser has it: the second look says its page's origin where Origin is left out.
    second = bearer("who") | {"podpair-origin": origin}
    async with http.get(url + "/v1/ws", headers=second) as answer:
        assert answer.status == status
        return status, str((await answer.json())["error"]["message"])


async def test_a_page_of_the_gateways_own_connects_and_a_foreign_one_is_told_why(
    proxy: Proxy, http: aiohttp.ClientSession
) -> None:
    assert await upgrade(http, proxy.url, proxy.url) == (101, "welcome")
    status, said = await upgrade(http, proxy.url, FOREIGN)
    assert status == 403
    assert f"{FOREIGN!r} is not allowed (http.origins)" in said
    assert proxy.url.removeprefix("http://") in said  # Host came through as it was


async def test_a_websocket_lives_on_heartbeats(proxy: Proxy, http: aiohttp.ClientSession) -> None:
    async with http.ws_connect(proxy.url + "/v1/ws", headers=bearer("idle"), autoping=False) as ws:
        await ws.receive_json()
        for _ in range(BEATS):
            message = await ws.receive(PATIENCE)
            assert message.type is aiohttp.WSMsgType.PING, message
            await ws.pong(message.data)
        await ws.send_json({"type": "infer", "id": "r", "model": "fake", "data": [1.0, 2.0]})
        while (message := await ws.receive(PATIENCE)).type is aiohttp.WSMsgType.PING:
            await ws.pong(message.data)
        assert message.json()["id"] == "r"


async def test_events_come_as_they_are_made_and_live_on_heartbeats(
    proxy: Proxy, model: FakeModel, http: aiohttp.ClientSession
) -> None:
    headers = bearer("events") | {"Accept-Encoding": "gzip"}
    async with http.get(proxy.url + "/v1/events", headers=headers) as stream, asyncio.timeout(PATIENCE):
        assert stream.content_type == "text/event-stream"
        lines = stream.content
        while not (await lines.readline()).startswith(b"event: welcome"):
            pass
        beats = 0
        while beats < BEATS:
            beats += (await lines.readline()).startswith(b":")
        body = {"id": "r", "model": "fake", "data": [1.0, 2.0]}
        async with http.post(proxy.url + "/v1/infer", json=body, headers=headers) as answer:
            assert answer.status == 202
        while not (await lines.readline()).startswith(b"event: result"):
            pass


async def test_a_chat_comes_word_by_word(proxy: Proxy, model: FakeModel, http: aiohttp.ClientSession) -> None:
    model.open.clear()
    body = {"model": "llm", "messages": [{"role": "user", "content": "to be"}], "stream": True}
    headers = bearer("chat") | {"Accept-Encoding": "gzip"}
    async with http.post(proxy.url + "/v1/chat/completions", json=body, headers=headers) as answer:
        async with asyncio.timeout(PATIENCE):
            assert b'"role": "assistant"' in await answer.content.readuntil(b"\n\n")
        model.open.set()
        assert (await answer.read()).endswith(b"[DONE]\n\n")


async def test_json_may_be_compressed(proxy: Proxy, model: FakeModel, http: aiohttp.ClientSession) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
    model.answer = (200, {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 900], "data": [1.0] * 900}]})
    headers = bearer("json") | {"Accept-Encoding": "gzip"}
    async with http.post(proxy.url + "/v2/models/fake/infer", json=body, headers=headers) as answer:
        assert (await answer.json())["outputs"][0]["data"] == [1.0] * 900
        assert answer.headers["Content-Encoding"] == "gzip"


# Proxies that rewrite Host, by what they do: kind, what of the page's configuration is replaced, by what.
HOST = "        proxy_set_header Host $http_host;\n"
ELSEWHERE = {
    "nginx, by default": ("nginx", HOST, ""),
    "nginx, whose $host has no port": ("nginx", "$http_host", "$host"),
    "haproxy": ("haproxy", "    server one", "    http-request set-header Host inner\n    server one"),
    "caddy": ("caddy", "reverse_proxy 127.0.0.1:8080", "reverse_proxy 127.0.0.1:8080 {\n header_up Host inner\n }"),
}


def changed(name: str, by: str | None = None) -> tuple[str, str]:
    kind, what, instead = ELSEWHERE[name]
    (config, *_) = blocks(kind)
    assert what in config
    return kind, config.replace(what, instead if by is None else by)


@pytest.mark.parametrize("name", ELSEWHERE)
async def test_where_host_is_rewritten_the_refusal_says_so(
    name: str, plain: Gateway, start: Start, http: aiohttp.ClientSession
) -> None:
    kind, config = changed(name)
    proxy = start(kind, config, plain)
    status, said = await upgrade(http, proxy.url, proxy.url)
    assert status == 403
    seen = {"nginx, by default": "podpair", "nginx, whose $host has no port": "127.0.0.1"}.get(name, "inner")
    assert f"was reached: '{seen}'" in said
    if kind == "caddy":  # which says where it was reached by itself
        assert "http.trusted_proxies" in said
    else:
        assert "have it pass Host on" in said


TOLD = {
    "nginx": ("nginx", HOST, None),
    "haproxy": (
        "haproxy", "    server one",
        "    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n    http-request set-header X-Forwarded-Proto http\n"
        "    http-request set-header Host inner\n    server one",
    ),
    "haproxy, by RFC 7239": (
        "haproxy", "    server one",
        '    http-request set-header Forwarded for=%[src];host=\\"%[req.hdr(host)]\\";proto=http\n'
        "    http-request set-header Host inner\n    server one",
    ),
    "caddy": ELSEWHERE["caddy"],
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
async def test_a_trusted_proxy_says_where_it_was_reached(
    name: str, plain: Gateway, trusting: Gateway, start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    kind, what, instead = TOLD[name]
    (config, *_) = blocks(kind)
    if instead is None:  # the page has it
        (told,) = (block for block in blocks("nginx-location") if "X-Forwarded-Host" in block)
        config = with_location(config, told)
    else:
        assert what in config
        config = config.replace(what, instead)
    proxy = start(kind, config, trusting)
    assert await upgrade(http, proxy.url, proxy.url) == (101, "welcome")
    for origin in (FOREIGN, proxy.url.replace("http:", "https:")):
        status, said = await upgrade(http, proxy.url, origin)
        assert status == 403
        assert f"was reached: '{proxy.url}'" in said


@pytest.mark.parametrize("strips", [False, True])
async def test_below_a_path(trusting: Gateway, start: Start, http: aiohttp.ClientSession, strips: bool) -> None:
    (config, *_), (below, *_) = blocks("nginx"), blocks("nginx-location")
    config = with_location(config, below)
    if strips:
        config = config.replace("proxy_pass http://podpair;", "proxy_pass http://podpair/;")
    proxy = start("nginx", config, trusting, "/digits/readyz")
    assert await upgrade(http, f"{proxy.url}/digits", proxy.url) == (101, "welcome")
    for path in ("", "podpair.js", "console.json", "v2/health/ready", "v2/models/fake", "healthz"):
        async with http.get(f"{proxy.url}/digits/{path}", headers=bearer("x")) as answer:
            assert answer.status == 200, path


@pytest.mark.parametrize("kind", ["haproxy", "caddy"])
async def test_below_a_path_with_what_the_page_says_of_others(
    kind: str, trusting: Gateway, start: Start, http: aiohttp.ClientSession
) -> None:
    (config, *_) = blocks(kind)
    if kind == "haproxy":
        (line,) = re.findall(r"`(use_backend podpair[^`]*)`", PAGE)
        assert "default_backend podpair" in config
        config = config.replace("default_backend podpair", line)
    else:
        (site,) = blocks("caddy-site")
        assert "    reverse_proxy 127.0.0.1:8080\n" in config
        config = config.replace("    reverse_proxy 127.0.0.1:8080\n", site)
    proxy = start(kind, config, trusting, "/digits/readyz")
    assert await upgrade(http, f"{proxy.url}/digits", proxy.url) == (101, "welcome")


def test_the_pages_resources_become_ingress_and_route_and_a_gateway_that_serves_below_their_path() -> None:
    found = [InferenceGateway.model_validate(with_namespace(yaml.safe_load(text))) for text in blocks("yaml-resource")]
    made = [
        {one["kind"]: one for one in desired(each, Dependencies("podpair-gateway:test", "k" * 43))} for each in found
    ]
    (by_ingress, by_route) = made
    (rule,) = by_ingress["Ingress"]["spec"]["rules"]
    assert rule["http"]["paths"][0]["path"] == "/digits"
    assert by_ingress["Ingress"]["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "75"
    (rule,) = by_route["HTTPRoute"]["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/digits"}}]
    for each in made:
        settings = yaml.safe_load(each["ConfigMap"]["data"]["gateway.yaml"])
        assert settings["http"]["base_path"] == "/digits"
    assert json.loads(json.dumps(made))  # nothing in it but what a cluster takes


def with_namespace(resource: dict[str, Any]) -> dict[str, Any]:
    return {**resource, "metadata": {**resource["metadata"], "namespace": "default", "uid": "u-1"}}
