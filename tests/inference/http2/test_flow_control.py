"""Windows and time: who waits for a window goes on when it opens or the call ends, and nobody else is tried or kept waiting."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from inference.http2.client import increment, prefixed
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.http2_call import Http2Call
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.grpc.status import Status
from podpair.inference.http2 import frames
from podpair.inference.http2.frames import ErrorCode, Setting

SMALL = {Setting.INITIAL_WINDOW_SIZE: 10}


@pytest.fixture
def writing(server: Http2Server) -> asyncio.Queue[Any]:
    """A method that writes more than a small window takes: its calls, and each again when its write has ended."""
    events: asyncio.Queue[Any] = asyncio.Queue()

    async def write(message: bytes, call: Any) -> None:
        events.put_nowait(call)
        try:
            await call.write(bytes(100_000))
        finally:
            events.put_nowait(call)

    server.add_registered_method_handlers("s", {"Write": grpc.unary_stream_rpc_method_handler(write)})
    return events


async def test_a_writer_that_waits_for_a_window_goes_on_when_its_call_fails_and_its_client_leaves(
    connect: Any, writing: asyncio.Queue[Any], server: Http2Server
) -> None:
    client = await connect(SMALL)
    client.ask(1, path="/s/Write")
    await client.frame(frames.DATA)
    call = await writing.get()
    call.fail(Status.INTERNAL, "no")
    client.send(frames.reset(1, ErrorCode.CANCEL))
    assert await asyncio.wait_for(writing.get(), 30) is call
    await asyncio.wait_for(server.stop(0.1), 30)


async def test_what_was_written_before_a_failure_comes_before_its_status(
    connect: Any, writing: asyncio.Queue[Any]
) -> None:
    client = await connect(SMALL)
    client.ask(1, path="/s/Write")
    _, _, _, first = await client.frame(frames.DATA)
    (await writing.get()).fail(Status.INTERNAL, "no")
    client.send(increment(0, 100_000), increment(1, 100_000))
    data, fields = await client.answer(1)
    assert first + data == prefixed(bytes(100_000))
    assert (fields["grpc-status"], fields["grpc-message"]) == ("13", "no")


async def test_a_deadline_ends_a_call_whose_client_takes_nothing(connect: Any, writing: asyncio.Queue[Any]) -> None:
    client = await connect(SMALL)
    client.ask(1, path="/s/Write", grpc_timeout="100m")
    data, fields = await client.answer(1)
    assert len(data) == 10
    assert fields["grpc-status"] == "4"
    call = await writing.get()
    assert await asyncio.wait_for(writing.get(), 30) is call


async def test_only_the_stream_whose_window_opens_goes_on(
    connect: Any, server: Http2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await connect(SMALL)
    streams = range(1, 401, 2)
    for stream in streams:
        client.ask(stream, bytes(100))
    for _ in streams:
        await client.frame(frames.DATA)
    tried = 0
    on_window = Http2Call.on_window

    def counted(call: Http2Call) -> None:
        nonlocal tried
        tried += 1
        on_window(call)

    monkeypatch.setattr(Http2Call, "on_window", counted)
    client.send(*(increment(1, 1) for _ in range(50)), increment(0, 5))
    await client.settled()
    assert tried == 50
    for stream in streams:
        client.send(increment(stream, 100))
        assert (await client.answer(stream))[1]["grpc-status"] == "0"
    assert tried == 50 + len(streams)


async def test_streams_that_wait_for_the_connections_window_go_on_in_turn(connect: Any) -> None:
    client = await connect({Setting.INITIAL_WINDOW_SIZE: 1 << 20})
    for stream in (1, 3, 5):
        client.ask(stream, bytes(60_000))
    assert len((await client.answer(1))[0]) == 60_005
    taken = 0
    while taken < 65_535 - 60_005:
        taken += len((await client.frame(frames.DATA))[3])
    order = []
    for _ in range(4):
        client.send(increment(0, 10_000))
        _, _, stream, payload = await client.frame(frames.DATA)
        assert len(payload) == 10_000
        order.append(stream)
    assert order == [3, 5, 3, 5]
    client.send(increment(0, 1 << 20))
    for _ in range(2):
        while not (await client.frame(frames.DATA, frames.HEADERS))[1] & frames.END_STREAM:
            pass


async def test_a_window_that_settings_make_too_large_ends_the_connection(connect: Any, server: Http2Server) -> None:
    server.add_direct("s", "Held", lambda message, call: None)
    client = await connect()
    client.ask(1, path="/s/Held")
    client.send(increment(1, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW))
    await client.settled()
    client.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: frames.DEFAULT_WINDOW + 1}))
    assert await client.fault() == ErrorCode.FLOW_CONTROL_ERROR


async def test_a_window_that_is_made_smaller_holds_what_waits_for_the_connection(connect: Any) -> None:
    client = await connect({Setting.INITIAL_WINDOW_SIZE: 200_000})
    client.ask(1, bytes(65_000))
    await client.answer(1)
    client.ask(3, bytes(30_000))
    data = b""
    while len(data) < 65_535 - 65_005:
        data += (await client.frame(frames.DATA))[3]
    client.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 100}), increment(0, 100_000))
    await client.settled()
    client.send(increment(3, 30_000))
    data += (await client.answer(3))[0]
    assert data == prefixed(bytes(30_000))


async def test_settings_are_acknowledged_before_what_is_sent_by_them(connect: Any) -> None:
    client = await connect({Setting.INITIAL_WINDOW_SIZE: 0})
    client.ask(1)
    await client.settled()
    client.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 100}))
    assert (await client.frame(frames.SETTINGS, frames.DATA))[:2] == (frames.SETTINGS, frames.ACK)
    assert (await client.answer(1))[0] == prefixed(b"hello")


async def test_a_method_that_never_waits_leaves_others_their_turns(connect: Any, server: Http2Server) -> None:
    stopped, written = False, 0

    async def pour(message: bytes, call: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while not stopped and written < 50_000:
            written += 1
            yield b"x"

    def stop(message: bytes, call: Call) -> None:
        nonlocal stopped
        stopped = True
        call.answer(b"")

    server.add_registered_method_handlers("s", {"Pour": grpc.unary_stream_rpc_method_handler(pour)})
    server.add_direct("s", "Stop", stop)
    client = await connect({Setting.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
    client.send(increment(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW))
    client.ask(1, path="/s/Pour")
    await client.frame(frames.DATA)
    client.ask(3, path="/s/Stop")
    ended = 0
    while ended < 2:
        _, flags, _, _ = await client.frame(frames.HEADERS)
        ended += bool(flags & frames.END_STREAM)
    assert written < 50_000
