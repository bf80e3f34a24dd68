"""The listener's acceptor: each connection counts once against the limit, while it is set up as afterwards."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from podpair.common.listener.acceptor import Acceptor
from podpair.common.listener.connections import ConnectionLimits, Connections


async def hello(_: web.BaseRequest) -> web.Response:
    return web.Response(text="hello")


@pytest.fixture
async def listening() -> Any:
    """`listening(limit)` starts a server for so many connections; returns its acceptor and the reasons of refusals."""
    made: list[tuple[Acceptor, web.Server]] = []

    async def begin(limit: int) -> tuple[Acceptor, list[str]]:
        refused: list[str] = []
        limits = ConnectionLimits(tls_handshake=5, head=60, stall=60, keep_alive=60, connections=limit)
        server = web.Server(hello)
        acceptor = Acceptor(server, Connections(limits, lambda _: None), on_refused=refused.append)
        made.append((acceptor, server))
        await acceptor.listen("127.0.0.1", 0)
        return acceptor, refused

    yield begin
    for acceptor, server in made:
        await acceptor.close()
        await server.shutdown(0.1)


async def test_a_connection_that_is_set_up_is_counted_once(listening: Callable[..., Any]) -> None:
    acceptor, refused = await listening(4)
    host, port = acceptor.addresses[0][:2]
    clients = []
    for number in range(1, 5):
        clients.append(socket.create_connection((host, port)))  # by the kernel: the loop has not seen it yet
        for _ in range(20):  # turns of the loop, in which the connection is made
            await asyncio.sleep(0)
            assert acceptor.connections.open + acceptor.beginning <= number
    assert (acceptor.connections.open, acceptor.beginning, refused) == (4, 0, [])
    for client in clients:
        client.close()


async def test_one_more_than_the_limit_is_refused_and_the_count_goes_down_again(listening: Callable[..., Any]) -> None:
    acceptor, refused = await listening(2)
    host, port = acceptor.addresses[0][:2]
    kept = [await asyncio.open_connection(host, port) for _ in range(2)]
    for _, writer in kept:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")  # busy: none is closed to make room
        await writer.drain()
    for _ in range(20):
        await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection(host, port)
    assert (await reader.readline()).startswith(b"HTTP/1.1 503")
    assert refused == ["connections"]
    for _, each in [*kept, (reader, writer)]:
        each.close()
    async with asyncio.timeout(60):
        while acceptor.connections.open:
            await asyncio.sleep(0)
    assert acceptor.beginning == 0
