"""Messages that come in pieces: counted in the memory budget, decompressed beside the loop, and in their order."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from inference.http2.client import LARGEST_MESSAGE, Client, make_server, prefixed
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.grpc.wire_format import Decompression
from podpair.inference.http2 import frames
from podpair.inference.http2.frames import ErrorCode, Setting

WIDE = {Setting.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW}
LARGE = prefixed(bytes(200_000))


@pytest.fixture
async def server() -> AsyncIterator[Http2Server]:
    """Has room for one large message."""
    server = make_server(pending_bytes=150_000, largest=LARGEST_MESSAGE)
    server.port = await server.start("127.0.0.1:0")  # type: ignore[attr-defined]
    yield server
    await asyncio.wait_for(server.stop(0.1), 30)
    assert server.budget.bytes == 0


def begin(client: Client, stream: int, data: bytes, path: str = "/s/Echo", **more: str) -> None:
    client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, client.block(path, **more)))
    send(client, stream, data)


def send(client: Client, stream: int, data: bytes, ends: bool = False) -> None:
    pieces = [data[at : at + 16_384] for at in range(0, len(data), 16_384)]
    client.send(*(frames.frame(frames.DATA, 0, stream, piece) for piece in pieces))
    if ends:
        client.send(frames.frame(frames.DATA, frames.END_STREAM, stream))


async def test_a_large_message_that_is_still_coming_takes_its_room_from_its_first_piece_on(
    connect: Any, server: Http2Server
) -> None:
    client = await connect(WIDE)
    client.send(frames.window_update(0, 1 << 30))
    begin(client, 1, LARGE[:1000])
    await client.settled()
    assert server.budget.bytes == len(LARGE)
    begin(client, 3, LARGE[:1000])
    fields = (await client.answer(3))[1]
    assert fields["grpc-status"] == "8"
    assert "max_pending_bytes" in fields["grpc-message"]
    assert fields["podpair-retry-after-ms"] == "1000"
    assert server.calls._metrics.registry.get_sample_value("inference_errors_total", {"reason": "overloaded"}) == 1
    # A small one in one piece has no need of it.
    client.ask(5, b"small")
    assert (await client.answer(5))[0] == prefixed(b"small")
    send(client, 1, LARGE[1000:], ends=True)
    assert (await client.answer(1))[0] == LARGE
    assert server.budget.bytes == 0


@pytest.mark.parametrize("end", ["reset", "deadline", "connection"])
async def test_its_room_is_free_again_however_the_call_ends(connect: Any, server: Http2Server, end: str) -> None:
    client = await connect(WIDE)
    begin(client, 1, LARGE[:1000], grpc_timeout="100m" if end == "deadline" else "1H")
    await client.settled()
    if end == "reset":
        client.send(frames.reset(1, ErrorCode.CANCEL))
        await client.settled()
    elif end == "deadline":
        assert (await client.answer(1))[1]["grpc-status"] == "4"
    else:
        assert server.budget.bytes == len(LARGE)
        client.close()
        await asyncio.wait_for(server._empty.wait(), 30)
    assert server.budget.bytes == 0


async def test_messages_that_are_not_read_yet_are_counted(connect: Any, server: Http2Server) -> None:
    go = asyncio.Event()

    async def sizes(messages: AsyncIterator[bytes], context: Any) -> None:
        await go.wait()
        async for message in messages:
            await context.write(b"%d" % len(message))

    server.add_registered_method_handlers("s", {"Sizes": grpc.stream_stream_rpc_method_handler(sizes)})
    client = await connect(WIDE)
    begin(client, 1, prefixed(bytes(10_000)) * 3 + prefixed(bytes(5000))[:100], "/s/Sizes")
    await client.settled()
    assert server.budget.bytes == 30_100
    go.set()
    send(client, 1, prefixed(bytes(5000))[100:], ends=True)
    data, fields = await client.answer(1)
    assert data == prefixed(b"10000") * 3 + prefixed(b"5000")
    assert fields["grpc-status"] == "0"
    assert server.budget.bytes == 0


async def test_the_rest_of_a_message_is_let_in_once_those_before_it_are_read(connect: Any, server: Http2Server) -> None:
    go = asyncio.Event()

    async def sizes(messages: AsyncIterator[bytes], context: Any) -> None:
        await go.wait()
        async for message in messages:
            await context.write(b"%d" % len(message))

    server.add_registered_method_handlers("s", {"Sizes": grpc.stream_stream_rpc_method_handler(sizes)})
    client = await connect(WIDE)
    data = prefixed(bytes(60_000)) + prefixed(bytes(100_000))
    begin(client, 1, data[:65_535], "/s/Sizes")
    client.send(frames.frame(frames.PING, 0, 0, bytes(8)))
    while (came := await client.frame(frames.WINDOW_UPDATE, frames.PING))[0] != frames.PING:
        assert came[2] == 0
    go.set()
    while (came := await client.frame(frames.WINDOW_UPDATE))[2] != 1:
        pass
    assert int.from_bytes(came[3], "big") == len(data) - 65_535
    send(client, 1, data[65_535:], ends=True)
    got = (await client.answer(1))[0]
    assert got.endswith(prefixed(b"100000"))


async def test_a_large_message_is_decompressed_in_a_thread_and_comes_in_its_place(
    connect: Any, server: Http2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    run = Decompression.run

    def watched(work: Decompression) -> None:
        threads.append(threading.current_thread())
        run(work)

    monkeypatch.setattr(Decompression, "run", watched)

    async def sizes(messages: AsyncIterator[bytes], context: Any) -> None:
        async for message in messages:
            await context.write(b"%d" % len(message))

    server.add_registered_method_handlers("s", {"Sizes": grpc.stream_stream_rpc_method_handler(sizes)})
    client = await connect(WIDE)
    messages = [bytes(5), bytes(LARGEST_MESSAGE), bytes(7), bytes(70_000), bytes(9)]
    begin(client, 1, b"".join(prefixed(gzip.compress(m), 1) for m in messages), "/s/Sizes", grpc_encoding="gzip")
    send(client, 1, b"", ends=True)
    data, fields = await client.answer(1)
    assert data == b"".join(prefixed(b"%d" % len(message)) for message in messages)
    assert fields["grpc-status"] == "0"
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_a_call_that_ends_while_a_thread_decompresses_its_message(
    connect: Any, server: Http2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    run = Decompression.run

    def held(work: Decompression) -> None:
        go.wait(30)
        run(work)

    monkeypatch.setattr(Decompression, "run", held)
    client = await connect(WIDE)
    message = gzip.compress(bytes(LARGEST_MESSAGE))
    begin(client, 1, prefixed(message, 1), grpc_encoding="gzip")
    await client.settled()
    client.send(frames.reset(1, ErrorCode.CANCEL))
    await client.settled()
    assert server.budget.bytes == len(message)
    go.set()
    client.ask(3, b"after")
    assert (await client.answer(3))[0] == prefixed(b"after")
    while server.budget.bytes:
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1000, 300_000])
async def test_an_answer_of_any_size_is_compressed(connect: Any, size: int) -> None:
    server = make_server(compression=2)
    server.port = await server.start("127.0.0.1:0")  # type: ignore[attr-defined]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:  # type: ignore[attr-defined]
        asked = [channel.unary_unary("/s/Echo")(b"%d" % i * size) for i in range(5)]
        assert await asyncio.gather(*asked) == [b"%d" % i * size for i in range(5)]
    await asyncio.wait_for(server.stop(5), 30)
    assert server.budget.bytes == 0
