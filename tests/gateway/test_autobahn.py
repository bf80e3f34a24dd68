"""RFC 6455 by Autobahn's cases, over the gateway's own port: its acceptor, connections, handshake and frames, with a route that
echoes messages where the gateway's own would read them as JSON.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from harness import environments
from harness.processes import output_of
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.frames import text_frame_header
from podpair.gateway.core.handshake import switching_protocols
from podpair.gateway.http.port import make_acceptor
from podpair.gateway.http.ws_protocol import (
    DetachedResponse,
    Heartbeats,
    Message,
    StreamCallbacks,
    WebSocketStream,
    detach_transport,
)
from podpair.gateway.metrics import Metrics

HERE = Path(__file__).parent
LARGEST = 1 << 25  # bytes of a message: the cases send 16 MiB
BINARY = 0x82  # FIN, opcode 2
# Cases for which Autobahn has no verdict: what is done with messages before a close frame, and with close codes nobody defined.
OPEN = {case: ["INFORMATIONAL", "INFORMATIONAL"] for case in ("7.1.6", "7.13.1", "7.13.2")}


class Echo:
    """One connection whose messages are sent back as they came."""

    def __init__(self, transport: asyncio.Transport, heartbeats: Heartbeats) -> None:
        self.transport = transport
        self.stream = WebSocketStream(
            transport, heartbeats, most=LARGEST, callbacks=StreamCallbacks(self.echo, lambda: None, self.broken)
        )

    def echo(self, message: Message) -> None:
        if self.transport.is_closing():
            return
        data = message.encode() if isinstance(message, str) else bytes(message)
        header = text_frame_header(len(data))
        self.transport.write((header if isinstance(message, str) else bytes((BINARY,)) + header[1:]) + data)

    def broken(self, code: int, reason: str) -> None:
        self.stream.close(code, reason)


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """The URL of a server that echoes."""
    config = Config.model_validate({"auth": {"disabled": True}})
    heartbeats = Heartbeats(60)

    async def upgrade(request: web.Request) -> web.StreamResponse:
        answer = switching_protocols(request.headers.items(), None, request.version[:2])
        taken = detach_transport(request)
        if taken is not None:
            transport, behind = taken
            connection = Echo(transport, heartbeats)
            transport.set_protocol(connection.stream)
            transport.write(answer)
            connection.stream.data_received(behind)
            connection.stream.resume()
        return DetachedResponse()

    app = web.Application()
    app.router.add_get("/", upgrade)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    acceptor = make_acceptor(runner, config, Metrics(), None)
    await acceptor.listen("127.0.0.1", 0)
    try:
        yield "ws://{}:{}".format(*acceptor.addresses[0][:2])
    finally:
        await acceptor.close()
        await runner.cleanup()


@pytest.mark.process
@pytest.mark.timeout(600)
async def test_all_cases_but_those_of_compression(echo: str) -> None:
    python = await asyncio.to_thread(environments.python, HERE / "outside/autobahn.lock")
    told = await asyncio.to_thread(output_of, python, HERE / "outside/autobahn.py", echo, timeout=600)
    results: list[list[Any]] = json.loads(told)
    assert len(results) > 200
    assert {case: verdict for case, *verdict in results if verdict != ["OK", "OK"]} == OPEN
