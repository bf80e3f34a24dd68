"""A server on HTTP/2 of podpair's own, and clients of it that send what they are given."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference.http2.client import LARGEST_MESSAGE, Client, make_server
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.http2 import frames
from podpair.inference.http2.frames import Setting


@pytest.fixture
async def server() -> AsyncIterator[Http2Server]:
    server = make_server(largest=LARGEST_MESSAGE)
    server.port = await server.start("127.0.0.1:0")  # type: ignore[attr-defined]
    yield server
    await asyncio.wait_for(server.stop(0.1), 30)


@pytest.fixture
async def connect(server: Any) -> AsyncIterator[Any]:
    writers = []

    async def connect(settings: dict[Setting, int] | None = None, greeting: bytes = frames.PREFACE) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writers.append(writer)
        client = Client(reader, writer)
        client.send(greeting, frames.settings(settings or {}))
        return client

    yield connect
    for writer in writers:
        writer.close()
