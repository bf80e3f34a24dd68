"""The end of a connection: its requests are answered first, its client is heard, and no call harms another."""

import asyncio
import gc
import logging
import socket
import struct
from typing import Any

import grpc
import pytest

from inference.http2.client import ENDS, prefixed
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.http2 import frames
from podpair.inference.http2.frames import ErrorCode


def last_and_code(payload: bytes) -> tuple[int, int]:
    last, code = struct.unpack_from(">LL", payload)
    return last, code


async def test_requests_that_are_on_their_way_when_it_leaves_are_answered(connect: Any, server: Http2Server) -> None:
    held: asyncio.Queue[Call] = asyncio.Queue()
    server.add_direct("s", "Held", lambda message, call: held.put_nowait(call))
    client = await connect()
    client.ask(1, path="/s/Held")
    call = await asyncio.wait_for(held.get(), 30)
    stopping = asyncio.create_task(server.stop(30))
    _, _, _, payload = await client.frame(frames.GOAWAY)
    assert last_and_code(payload) == (frames.LARGEST_WINDOW, ErrorCode.NO_ERROR)
    _, _, _, ping = await client.frame(frames.PING)
    client.ask(3)  # sent before the client knew
    assert (await client.answer(3))[0] == prefixed(b"hello")
    client.send(frames.frame(frames.PING, frames.ACK, 0, ping))
    _, _, _, payload = await client.frame(frames.GOAWAY)
    assert last_and_code(payload) == (3, ErrorCode.NO_ERROR)
    client.ask(5)
    _, _, stream, payload = await client.frame(frames.RST_STREAM)
    assert (stream, int.from_bytes(payload, "big")) == (5, ErrorCode.REFUSED_STREAM)
    assert not stopping.done()
    call.answer(b"at last")
    assert (await client.answer(1))[0] == prefixed(b"at last")
    await client.ended()
    client.close()
    await asyncio.wait_for(stopping, 30)


async def test_a_client_that_says_nothing_when_it_leaves_is_not_waited_for(connect: Any, server: Http2Server) -> None:
    client = await connect()
    client.ask(1)
    await client.answer(1)
    stopping = asyncio.create_task(server.stop(60))
    assert last_and_code((await client.frame(frames.GOAWAY))[3])[0] == frames.LARGEST_WINDOW
    assert last_and_code((await client.frame(frames.GOAWAY))[3])[0] == 1
    await client.ended()
    await asyncio.wait_for(stopping, 30)


async def test_a_call_that_fails_at_the_end_of_its_connection_harms_no_other(
    connect: Any, server: Http2Server, caplog: pytest.LogCaptureFixture
) -> None:
    left: asyncio.Queue[bytes] = asyncio.Queue()

    def held(message: bytes, call: Call) -> None:
        def on_cancelled() -> None:
            left.put_nowait(message)
            if message == b"bad":
                raise ZeroDivisionError

        call.on_cancelled = on_cancelled

    server.add_direct("s", "Held", held)
    client = await connect()
    for stream, message in ((1, b"bad"), (3, b"good")):
        client.ask(stream, message, path="/s/Held")
    await client.settled()
    with caplog.at_level(logging.ERROR):
        client.close()
        assert {await asyncio.wait_for(left.get(), 30) for _ in range(2)} == {b"bad", b"good"}
    assert "a call failed at the end of its connection" in caplog.text
    await asyncio.wait_for(server.stop(1), 30)


async def test_a_method_that_fails_where_its_message_comes_ends_alone(
    connect: Any, server: Http2Server, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(message: bytes, call: Call) -> None:
        raise ZeroDivisionError

    server.add_direct("s", "Bug", bug)
    client = await connect()
    with caplog.at_level(logging.ERROR):
        client.ask(1, path="/s/Bug")
        _, _, stream, payload = await client.frame(frames.RST_STREAM)
    assert (stream, int.from_bytes(payload, "big")) == (1, ErrorCode.INTERNAL_ERROR)
    client.ask(3)
    assert (await client.answer(3))[0] == prefixed(b"hello")


async def test_a_call_that_is_cancelled_before_its_method_began_leaves_nothing(
    connect: Any, server: Http2Server, recwarn: pytest.WarningsRecorder
) -> None:
    async def never(message: bytes, call: Any) -> bytes:
        return message

    server.add_registered_method_handlers("s", {"Never": grpc.unary_unary_rpc_method_handler(never)})
    client = await connect()
    client.send(
        frames.frame(frames.HEADERS, frames.END_HEADERS, 1, client.block("/s/Never")),
        frames.reset(1, ErrorCode.CANCEL),
    )
    await client.settled()
    gc.collect()
    assert [warning for warning in recwarn.list if "never awaited" in str(warning.message)] == []


async def test_a_silent_peer_is_looked_for_by_tcp(connect: Any, server: Http2Server) -> None:
    client = await connect()
    await client.settled()
    (connection,) = server._connections
    connected = connection._transport.get_extra_info("socket")
    assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


async def test_a_stream_is_not_used_twice(connect: Any) -> None:
    client = await connect()
    client.ask(5)
    await client.answer(5)
    client.send(frames.frame(frames.HEADERS, ENDS, 3, client.block()))
    assert await client.fault() == ErrorCode.STREAM_CLOSED


async def test_data_after_the_end_of_a_request_ends_it(connect: Any, server: Http2Server) -> None:
    server.add_direct("s", "Held", lambda message, call: None)
    client = await connect()
    client.ask(1, path="/s/Held")
    client.send(frames.frame(frames.DATA, 0, 1, b"more"))
    _, _, stream, payload = await client.frame(frames.RST_STREAM)
    assert (stream, int.from_bytes(payload, "big")) == (1, ErrorCode.STREAM_CLOSED)
