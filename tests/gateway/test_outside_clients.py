"""WebSocket and SSE clients that others wrote, each at a gateway: the table of docs/clients.md, and what it says of them."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from playwright.async_api import async_playwright

from gateway.conftest import PATIENCE, ROW, kafka_of
from gateway.test_event_stream import stream
from harness import environments, javascript
from harness.machine import require
from harness.pair import Gateway, Inference, token
from harness.processes import ROOT

OUTSIDE = Path(__file__).parent / "outside"
PYTHON_LOCK = OUTSIDE.parent / "clients.lock"
NODE_LOCK = OUTSIDE / "javascript/package-lock.json"
SSE_NODE = ["eventsource", "undici", "eventsource-client", "@microsoft/fetch-event-source"]
SSE_PYTHON = ["httpx-sse", "sseclient-py", "aiohttp-sse-client"]
WS_NODE = ["ws", "undici"]
WS_PYTHON = ["websockets", "websocket-client", "httpx-ws", "aiohttp", "picows"]
fetched = pytest.mark.timeout(600)  # what they need may have to be fetched


@pytest.fixture(scope="module")
def gateway(inference: Inference, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One that beats often, so that a client which takes a heartbeat for an event says so."""
    made = Gateway(
        tmp_path_factory.mktemp("outside"),
        {
            "kafka": {"embedded": True},
            "inference": {"url": inference.url},
            "auth": {"query_token": True},
            "sessions": {"heartbeat_seconds": 0.2},
        },
    )
    made.wait_ready()
    yield made
    made.stop()


class Relay:
    """Stands between a client and the gateway, so that a connection can be cut as networks do."""

    def __init__(self, gateway: Gateway) -> None:
        self._host, self._port = gateway.url.removeprefix("http://").split(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = server
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, outside = await asyncio.open_connection(self._host, int(self._port))
        pair = {writer, outside}
        self._writers |= pair

        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pipe(reader, outside), pipe(inside, writer))
        self._writers -= pair

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def close(self) -> None:
        self._server.close()
        self.cut()


@asynccontextmanager
async def program(*command: str | Path, cwd: Path | None = None) -> AsyncIterator[Callable[[], Any]]:
    """A client of others; what is yielded reads its next line."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout, process.stderr

    async def line() -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            text = await out.readline()
            assert text, (await err.read()).decode()[-2000:]
        found: dict[str, Any] = json.loads(text)
        return found

    try:
        yield line
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def node_command(name: str, client: str) -> tuple[list[str | Path], Path]:
    return [javascript.node(), OUTSIDE / "javascript" / name, client], javascript.packages(NODE_LOCK)


def python_command(name: str, client: str) -> tuple[list[str | Path], None]:
    return [environments.python(PYTHON_LOCK), OUTSIDE / name, client], None


async def live_through_it(
    line: Callable[[], Any], relay: Relay, gateway: Gateway, http: aiohttp.ClientSession, push: Any
) -> None:
    """It resumes by itself what was cut, takes no heartbeat for an event, and ends when it is taken over."""
    welcome = await line()
    assert welcome["type"] == "welcome"
    session = welcome["data"]["session"]
    await asyncio.to_thread(push, kafka_of(gateway), session, b'"one"')
    assert ((one := await line())["type"], one["data"]["data"]) == ("push", "one")
    relay.cut()
    await asyncio.to_thread(push, kafka_of(gateway), session, b'"two"')
    again = await line()
    assert (again["type"], again["data"]["session"], again["data"]["resumed"]) == ("welcome", session, True)
    assert ((two := await line())["type"], two["data"]["data"]) == ("push", "two")
    async with stream(http, gateway, sub="outside", params={"resume": again["data"]["resume"]}) as other:
        assert ((close := await line())["type"], close["data"]["code"]) == ("close", 4009)
        assert (await line())["type"] == "ended"
        await asyncio.to_thread(push, kafka_of(gateway), session, b'"three"')
        assert (await other.event("push")).data["data"] == "three"


@fetched
@pytest.mark.parametrize(
    ("command", "client"),
    [*((node_command, one) for one in SSE_NODE), *((python_command, one) for one in SSE_PYTHON)],
)
async def test_event_stream_clients(
    gateway: Gateway, http: aiohttp.ClientSession, push: Any, command: Callable[..., Any], client: str
) -> None:
    arguments, cwd = await asyncio.to_thread(command, "sse.mjs" if command is node_command else "sse.py", client)
    relay = Relay(gateway)
    url = f"{await relay.start()}/v1/events?token={quote(token('outside'))}"
    try:
        async with program(*arguments, url, cwd=cwd) as line:
            await live_through_it(line, relay, gateway, http, push)
    finally:
        relay.close()


async def test_chromiums_event_source(gateway: Gateway, http: aiohttp.ClientSession, push: Any) -> None:
    (chromium,) = require("chromium")
    relay = Relay(gateway)
    url = await relay.start()
    lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def line() -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            return await lines.get()

    script = """(url) => {
        const source = new EventSource(url);
        for (const type of ["message", "welcome", "push", "gap", "close"])
            source.addEventListener(type, ({data}) => say({type, data: JSON.parse(data)}));
        source.addEventListener("error", () => source.readyState === 2 && say({type: "ended"}));
    }"""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = await browser.new_page()
        await page.expose_function("say", lines.put_nowait)
        await page.goto(url + "/healthz")
        await page.evaluate(script, f"/v1/events?token={quote(token('outside'))}")
        await live_through_it(line, relay, gateway, http, push)
        await browser.close()
    relay.close()


@fetched
@pytest.mark.parametrize(
    ("command", "client"),
    [*((node_command, one) for one in WS_NODE), *((python_command, one) for one in WS_PYTHON)],
)
async def test_websocket_clients(gateway: Gateway, command: Callable[..., Any], client: str) -> None:
    arguments, cwd = await asyncio.to_thread(command, "ws.mjs" if command is node_command else "ws.py", client)
    async with program(*arguments, gateway.ws, token(), json.dumps(ROW), cwd=cwd) as line:
        assert (await line())["type"] == "welcome"
        while (event := await line())["type"] == "accepted":
            pass
        assert (event["type"], event["id"]) == ("result", "r")


def test_the_table_names_what_is_tried() -> None:
    """Each client with the version that its lock file pins."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", PYTHON_LOCK.read_text(), re.MULTILINE))
    packages = json.loads(NODE_LOCK.read_text())["packages"]
    page = (ROOT / "docs/clients.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \((Python|Node\.js)\) \| ([0-9.]+) \|", page, re.MULTILINE)
    node = {(one, packages[f"node_modules/{one}"]["version"]) for one in {*SSE_NODE, *WS_NODE}}
    python = {(one, pinned[one]) for one in {*SSE_PYTHON, *WS_PYTHON}}
    assert {(name, version) for name, where, version in rows if where == "Node.js"} == node
    assert {(name, version) for name, where, version in rows if where == "Python"} == python
