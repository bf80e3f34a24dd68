"""What carries an event stream: old versions of HTTP, proxies' hints, clients that leave and networks that die."""

import asyncio
import ctypes
import http.client
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.conftest import PATIENCE, Connect, kafka_of
from gateway.fake_model import FakeModel
from gateway.test_event_stream import stream
from harness.machine import require
from harness.pair import Gateway, token
from harness.processes import Child, free_port
from harness.waiting import soon

HOLDS = "no-store, no-transform"


def head_of(path: str, **claims: Any) -> bytes:
    """A request of HTTP/1.0, as nginx makes it unless it is told otherwise."""
    lines = (f"GET {path} HTTP/1.0", "Host: gateway", "Connection: close", f"Authorization: Bearer {token(**claims)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@asynccontextmanager
async def bare(gateway: Gateway, request: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, dict[str, str], str]]:
    """A connection of our own: what follows the head, its headers and its first line."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(request)
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            pairs = (line.partition(": ") for line in lines)
            yield reader, {name.lower(): value for name, _, value in pairs}, first
    finally:
        writer.close()


async def test_over_http_1_0_the_stream_ends_with_its_connection(pair: Gateway, connect: Connect, push: Any) -> None:
    async with bare(pair, head_of("/v1/events", sid="old")) as (body, headers, first):
        assert first.split()[1] == "200"
        assert "transfer-encoding" not in headers
        assert (headers["cache-control"], headers["x-accel-buffering"]) == (HOLDS, "no")
        assert (await body.readuntil(b"\n\n")).split(b"\n")[1] == b"event: welcome"
        push(kafka_of(pair), "user/old", b'"hello"')
        lines = (await body.readuntil(b"\n\n")).splitlines()
        assert json.loads(lines[2].removeprefix(b"data: "))["data"] == "hello"
        client = await connect(pair, sid="old")
        assert (await body.read()).startswith(b"id: taken-over\nevent: close\n")  # and then the end
        await client.lives()


async def test_curl_over_http_1_0(pair: Gateway, connect: Connect) -> None:
    (curl,) = require("curl")
    command = [curl, "--http1.0", "-sSN", "-H", f"Authorization: Bearer {token(sid='curl')}", pair.url + "/v1/events"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert b"event: welcome" in await process.stdout.readuntil(b"\n\n")
        await connect(pair, sid="curl")
        assert b"event: close" in await process.stdout.read()
        assert await process.wait() == 0


async def test_pythons_own_client_over_http_1_0(pair: Gateway, connect: Connect) -> None:
    class Old(http.client.HTTPConnection):
        _http_vsn, _http_vsn_str = 10, "HTTP/1.0"

    def ask() -> http.client.HTTPResponse:
        connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {token(sid='python-1.0')}"})
        return connection.getresponse()

    connection = Old(*pair.url.removeprefix("http://").split(":"), timeout=PATIENCE)  # type: ignore[arg-type]
    response = await asyncio.to_thread(ask)
    assert response.readline().startswith(b"id: ")
    await connect(pair, sid="python-1.0")
    assert b"event: close" in await asyncio.to_thread(response.read)


async def test_a_chat_over_http_1_0_comes_in_parts(before_model: Gateway, model: FakeModel) -> None:
    model.open.clear()
    asked = json.dumps({"model": "llm", "stream": True, "messages": [{"role": "user", "content": "to be"}]}).encode()
    lines = head_of("/v1/chat/completions").replace(b"GET", b"POST").rstrip()
    request = lines + b"\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n%b" % (len(asked), asked)
    async with bare(before_model, request) as (body, headers, first):
        assert first.split()[1] == "200"
        assert "transfer-encoding" not in headers
        assert b'"role": "assistant"' in await body.readuntil(b"\n\n")
        model.open.set()
        assert (await body.read()).endswith(b"data: [DONE]\n\n")


NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; gzip on; gzip_types *; gzip_min_length 1;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4;
  scgi_temp_path {folder}/5;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {url}; }} }}
}}
"""


@asynccontextmanager
async def behind_nginx(gateway: Gateway, folder: Path) -> AsyncIterator[str]:
    """Its address: all that it isn't told is as it is by itself, HTTP/1.0 and buffers too; and it compresses."""
    (nginx,) = require("nginx")
    port = free_port()
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port, url=gateway.url))
    server = Child(nginx, "-p", folder, "-c", folder / "conf")
    try:
        await soon(lambda: server.process.poll() is not None or _listens(port))
        assert server.process.poll() is None, (folder / "error").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


async def test_behind_nginx_nothing_is_held_back(
    before_model: Gateway, model: FakeModel, tmp_path: Path, push: Any
) -> None:
    headers = {"Authorization": f"Bearer {token(sid='nginx')}", "Accept-Encoding": "gzip"}
    async with behind_nginx(before_model, tmp_path) as url, aiohttp.ClientSession(headers=headers) as http:
        async with asyncio.timeout(PATIENCE), http.get(url + "/v1/events") as response:
            assert b"event: welcome" in await response.content.readuntil(b"\n\n")
            push(kafka_of(before_model), "user/nginx", b'"hello"')
            assert b'"hello"' in await response.content.readuntil(b"\n\n")
        model.open.clear()
        asked = {"model": "llm", "stream": True, "messages": [{"role": "user", "content": "to be"}]}
        async with asyncio.timeout(PATIENCE), http.post(url + "/v1/chat/completions", json=asked) as response:
            assert b'"role": "assistant"' in await response.content.readuntil(b"\n\n")
            model.open.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


@pytest.fixture
def few(inference: Any, start_gateway: Callable[..., Gateway]) -> Callable[..., Gateway]:
    """`few(heartbeat)`: a gateway that lets a user of the plan `single` have one session."""

    def start(heartbeat: float = 3600) -> Gateway:
        gateway = start_gateway(
            {
                "kafka": {"embedded": True},
                "inference": {"url": inference.url},
                "admission": {"rules": [{"claim": "plan", "value": "single", "sessions": 1}]},
                "sessions": {"heartbeat_seconds": heartbeat, "slow_consumer_timeout_seconds": heartbeat / 2},
            }
        )
        gateway.wait_ready()
        return gateway

    return start


async def test_a_page_that_is_reloaded_again_and_again_is_let_in(few: Callable[..., Gateway]) -> None:
    """A client that is gone doesn't count until the next heartbeat."""
    gateway = few()
    for _ in range(5):
        async with aiohttp.ClientSession() as http, stream(http, gateway, plan="single") as events:
            assert (await events.next()).kind == "welcome"
        await soon(lambda: gateway.metric("sessions") == 0)
    assert gateway.metric("sessions_closed_total", reason="client") == 5


async def test_a_client_that_hangs_up_half_is_gone(few: Callable[..., Gateway]) -> None:
    """It sends FIN and takes no more of what is sent."""
    gateway = few()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(head_of("/v1/events").replace(b"HTTP/1.0", b"HTTP/1.1"))
        assert b"200" in await asyncio.to_thread(wire.recv, 12)
        await soon(lambda: gateway.metric("sessions") == 1)
        wire.shutdown(socket.SHUT_WR)
        await soon(lambda: gateway.metric("sessions") == 0)


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction))]


def deafen(wire: socket.socket) -> None:
    """From now on nothing reaches the socket, as if its network had gone: a filter of the system drops all segments."""
    drop_all = _Instruction(0x06, 0, 0, 0)  # BPF_RET | BPF_K: 0 bytes are kept
    wire.setsockopt(socket.SOL_SOCKET, 26, bytes(_Program(1, ctypes.pointer(drop_all))))  # SO_ATTACH_FILTER


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
async def test_a_client_whose_network_died_is_gone_after_heartbeats(few: Callable[..., Gateway]) -> None:
    gateway = few(0.5)
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(head_of("/v1/events"))
        await soon(lambda: gateway.metric("sessions") == 1)
        while await asyncio.to_thread(wire.recv, 4096) != b":\n":  # as long as it hears, it stays
            assert gateway.metric("sessions") == 1
        deafen(wire)
        await soon(lambda: gateway.metric("sessions") == 0)
