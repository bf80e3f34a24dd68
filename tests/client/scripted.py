"""A gateway that does what a test tells it: docs/protocol.md on the wire, and nothing of its own behind it."""

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

Event = dict[str, Any]
SECONDS = 10.0


class Connection:
    """One WebSocket, from the gateway's side."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        self.request, self.ws = request, ws
        self.query = dict(request.query)
        self.offered = [p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]
        self.frames: asyncio.Queue[Event] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def welcome(self, **members: Any) -> None:
        await self.send(
            {
                "type": "welcome",
                "session": "s-1",
                "resume": "resume-1",
                "resumed": "resume" in self.query,
                "position": self.query.get("position", "e.3.0"),
                "gateway": "gateway-a",
                "expires_at": None,
                "limits": {"in_flight": 8, "message_bytes": 10_000, "idle_seconds": 60, "resume_seconds": 600},
                **members,
            }
        )

    async def send(self, *events: Event) -> None:
        for event in events:
            await self.ws.send_str(json.dumps(event))

    async def text(self, text: str) -> None:
        await self.ws.send_str(text)

    async def frame(self) -> Event:
        """The next frame from the client."""
        return await asyncio.wait_for(self.frames.get(), SECONDS)

    async def infer(self) -> Event:
        frame = await self.frame()
        assert frame["type"] == "infer", frame
        return frame

    async def answer(self, frame: Event, *, route: str = "direct", **members: Any) -> None:
        """Accept and answer a request."""
        await self.send(
            {"type": "accepted", "id": frame["id"], "route": route},
            {"type": "result", "id": frame["id"], "data": {"label": "7"}, "model": frame["model"], **members},
        )

    def cut(self) -> None:
        """The wire breaks, without a closing handshake."""
        assert self.request.transport is not None
        self.request.transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        await self.ws.close(code=code, message=reason.encode())

    async def gone(self) -> int | None:
        """Wait until the client has left; the close code."""
        await asyncio.wait_for(self.closed.wait(), SECONDS)
        return self.ws.close_code


class ScriptedGateway:
    """Serves `/v1/ws`, what else a test adds to `routes`, and the files of a folder."""

    def __init__(self, files: Path | None = None) -> None:
        self.files = files
        self.arrivals: asyncio.Queue[Connection] = asyncio.Queue()
        #: Answers to the next upgrades (and the probes that follow them), in order.
        self.refusals: list[tuple[int, Event, dict[str, str]]] = []
        self.routes: dict[tuple[str, str], Any] = {}
        self.headers: dict[str, str] = {}
        self.url = ""
        self._pending: tuple[int, Event, dict[str, str]] | None = None
        self._connections: list[Connection] = []

    async def __aenter__(self) -> "ScriptedGateway":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections:
            if not connection.closed.is_set():
                connection.cut()
        await self._runner.cleanup()

    async def connection(self) -> Connection:
        """The next client that connects."""
        return await asyncio.wait_for(self.arrivals.get(), SECONDS)

    async def welcomed(self, **members: Any) -> Connection:
        """The next client that connects, welcomed."""
        connection = await self.connection()
        await connection.welcome(**members)
        return connection

    def refuse(self, status: int, code: str, message: str = "", **headers: str) -> None:
        """Answer the next upgrade, and its probe, with an error."""
        body = {"error": {"code": code, "message": message}}
        self.refusals.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/ws":
            return await self._socket(request)
        handler = self.routes.get((request.method, request.path))
        if handler is not None:
            return await handler(request)
        file = self.files / (request.path.strip("/") or "index.html") if self.files else None
        if file is None or not file.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(file, headers=self.headers)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        if upgrade:
            self._pending = self.refusals.pop(0) if self.refusals else None
        if self._pending is not None:
            status, body, headers = self._pending
            return web.json_response(body, status=status, headers=headers)
        if not upgrade:
            return web.json_response({"error": {"code": "invalid", "message": "upgrade"}}, status=426)
        ws = web.WebSocketResponse(protocols=("podpair.v1",), autoping=True)
        await ws.prepare(request)
        connection = Connection(request, ws)
        self._connections.append(connection)
        self.arrivals.put_nowait(connection)
        try:
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    connection.frames.put_nowait(json.loads(message.data))
        finally:
            connection.closed.set()
        return ws
