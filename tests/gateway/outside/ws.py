"""A WebSocket client asks a model and says what it is answered. Arguments: the client, the address, the token, a row."""

import asyncio
import json
import sys
from typing import Any

client, url, token, row = sys.argv[1:5]
BEARER = {"Authorization": f"Bearer {token}"}
ASKED = json.dumps({"type": "infer", "id": "r", "model": "digits", "data": json.loads(row)})


def done(text: Any) -> bool:
    sys.stdout.write(f"{text if isinstance(text, str) else bytes(text).decode()}\n")
    return bool(json.loads(text)["type"] == "result")


async def in_websockets() -> None:
    from websockets.asyncio.client import connect

    async with connect(url, additional_headers=BEARER) as socket:
        await socket.send(ASKED)
        while not done(await socket.recv()):
            pass


def in_websocket_client() -> None:
    from websocket import create_connection

    socket = create_connection(url, header=BEARER)
    socket.send(ASKED)
    while not done(socket.recv()):
        pass
    socket.close()


async def in_httpx_ws() -> None:
    from httpx_ws import aconnect_ws

    async with aconnect_ws(url, headers=BEARER) as socket:
        await socket.send_text(ASKED)
        while not done(await socket.receive_text()):
            pass


async def in_aiohttp() -> None:
    import aiohttp

    async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=BEARER) as socket:
        await socket.send_str(ASKED)
        while not done(await socket.receive_str()):
            pass


async def in_picows() -> None:
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    class Listener(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, ASKED.encode())

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.TEXT and done(frame.get_payload_as_utf8_text()):
                transport.send_close(1000)
                transport.disconnect()

    transport, _ = await ws_connect(Listener, url, extra_headers=BEARER)
    await transport.wait_disconnected()


if client == "websocket-client":
    in_websocket_client()
else:
    asyncio.run(
        {"websockets": in_websockets, "httpx-ws": in_httpx_ws, "aiohttp": in_aiohttp, "picows": in_picows}[client]()
    )
