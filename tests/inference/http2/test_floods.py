"""Pings, settings and cancelled requests: what clients have reasons for is borne, a flood ends the connection."""

from typing import Any

from inference.http2.client import prefixed
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.http2 import frames
from podpair.inference.http2.connection import MOST_STREAMS
from podpair.inference.http2.flood_guard import FloodGuard
from podpair.inference.http2.frames import ErrorCode

PING = frames.frame(frames.PING, 0, 0, bytes(8))


def guard() -> tuple[FloodGuard, list[float]]:
    now = [0.0]
    return FloodGuard(lambda: now[0]), now


def allowed(ask: Any) -> int:
    """Return how many are allowed in a row."""
    count = 0
    while ask():
        count += 1
    return count


def test_frames_that_carry_nothing_are_earned_by_frames_that_carry_something_and_by_time() -> None:
    flood, now = guard()
    assert allowed(flood.allows_empty_frame) == 1000
    flood.frames += 100
    assert allowed(flood.allows_empty_frame) == 199  # the one that was refused counts
    now[0] += 3
    assert allowed(flood.allows_empty_frame) == 299
    now[0] += 1e6
    assert allowed(flood.allows_empty_frame) == 1000


def test_resets_are_counted_apart() -> None:
    flood, now = guard()
    assert allowed(flood.allows_reset) == 2 * MOST_STREAMS
    assert allowed(flood.allows_empty_frame) == 1000
    flood.requests += 10
    assert allowed(flood.allows_reset) == 19
    now[0] += 2
    assert allowed(flood.allows_reset) == 1999


async def test_empty_data_by_thousands_ends_the_connection(connect: Any, server: Http2Server) -> None:
    server.add_direct("s", "Held", lambda message, call: None)
    client = await connect()
    client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, client.block("/s/Held")))
    client.send(frames.frame(frames.DATA, 0, 1) * 2000)
    assert await client.fault() == ErrorCode.ENHANCE_YOUR_CALM


async def test_a_ping_for_each_answer_as_clients_measure_by_is_answered(connect: Any) -> None:
    client = await connect()
    for stream in range(1, 6001, 2):
        client.ask(stream, b"x")
        client.send(PING)
        if stream % 200 == 1:
            await client.settled()
    client.ask(6001)
    while (await client.frame(frames.DATA))[2] != 6001:
        pass


async def test_thousands_of_cancelled_requests_leave_the_connection_to_the_others(
    connect: Any, server: Http2Server
) -> None:
    held: list[Call] = []
    server.add_direct("s", "Held", lambda message, call: held.append(call))
    client = await connect()
    for stream in range(1, 10_001, 2):
        client.ask(stream, path="/s/Held")
        client.send(frames.reset(stream, ErrorCode.CANCEL))
    client.ask(10_001)
    assert (await client.answer(10_001))[0] == prefixed(b"hello")
    assert len(held) == 5000
    assert all(call.done for call in held)


async def test_requests_begun_and_reset_by_tens_of_thousands_end_the_connection(
    connect: Any, server: Http2Server
) -> None:
    held: list[Call] = []
    server.add_direct("s", "Held", lambda message, call: held.append(call))
    client = await connect()
    for stream in range(1, 40_001, 2):
        client.ask(stream, path="/s/Held")
        client.send(frames.reset(stream, ErrorCode.CANCEL))
    assert await client.fault() == ErrorCode.ENHANCE_YOUR_CALM
    assert all(call.done for call in held)


async def test_requests_that_the_client_makes_the_server_reset_count_as_well(connect: Any, server: Http2Server) -> None:
    server.add_direct("s", "Held", lambda message, call: None)
    client = await connect()
    for stream in range(1, 40_001, 2):
        client.ask(stream, path="/s/Held")
        client.send(frames.window_update(stream, 0))
    assert await client.fault() == ErrorCode.ENHANCE_YOUR_CALM
