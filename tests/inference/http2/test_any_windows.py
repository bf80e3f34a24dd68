"""Whatever windows a client opens, and when: it is sent no more than they take, and each call's answer whole in the end."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.http2.client import make_server, prefixed
from podpair.inference.http2 import frames
from podpair.inference.http2.connection import Connection
from podpair.inference.http2.frames import ErrorCode, Setting
from podpair.inference.http2.header_blocks import literal

pytestmark = pytest.mark.pure

HEAD = b"".join(
    literal(*field)
    for field in (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/Echo"), (b"content-type", b"application/grpc"),
    )
)  # fmt: skip
WHOLE = 1 << 20
actions = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 60_000)),
    st.tuples(st.just("stream"), st.integers(0, 9), st.integers(1, 70_000)),
    st.tuples(st.just("connection"), st.integers(1, 70_000)),
    st.tuples(st.just("settings"), st.sampled_from([0, 1, 100, 5000, 65_535, 200_000])),
    st.tuples(st.just("reset"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["pause", "resume"])),
)


class Client:
    """Both a transport and the client beyond it, which keeps account of its windows."""

    def __init__(self) -> None:
        self.window, self.initial = frames.DEFAULT_WINDOW, frames.DEFAULT_WINDOW
        self.windows: dict[int, int] = {}
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.paused = False

    def write(self, data: bytes) -> None:
        while data:
            upper, lower, kind, flags, number = frames.HEAD.unpack_from(data)
            end = frames.HEAD_BYTES + (upper << 8 | lower)
            if kind == frames.DATA:
                self.window -= end - frames.HEAD_BYTES
                self.windows[number] -= end - frames.HEAD_BYTES
                assert self.window >= 0
                assert self.windows[number] >= 0
                assert number not in self.ended
                assert not self.paused
                self.data[number] += data[frames.HEAD_BYTES : end]
            elif kind == frames.HEADERS and flags & frames.END_STREAM:
                self.ended.add(number)
            assert kind != frames.GOAWAY
            data = data[end:]

    def is_closing(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def act(connection: Connection, client: Client, asked: dict[int, int], action: tuple[Any, ...]) -> None:
    kind, *more = action
    if kind == "ask":
        number = 2 * len(asked) + 1
        asked[number] = more[0]
        client.windows[number], client.data[number] = client.initial, b""
        message = prefixed(bytes(more[0]))
        pieces = [message[at : at + 16_384] for at in range(0, len(message), 16_384)]
        data = b"".join(frames.frame(frames.DATA, 0, number, piece) for piece in pieces)
        end = frames.frame(frames.DATA, frames.END_STREAM, number)
        connection.data_received(frames.frame(frames.HEADERS, frames.END_HEADERS, number, HEAD) + data + end)
    elif kind == "connection":
        client.window += more[0]
        connection.data_received(frames.window_update(0, more[0]))
    elif kind == "settings":
        client.windows = {number: window + more[0] - client.initial for number, window in client.windows.items()}
        client.initial = more[0]
        connection.data_received(frames.settings({Setting.INITIAL_WINDOW_SIZE: more[0]}))
    elif kind in ("pause", "resume"):
        if client.paused is (kind == "resume"):
            client.paused = kind == "pause"
            connection.pause_writing() if client.paused else connection.resume_writing()
    elif (number := 2 * more[0] + 1) in asked and number not in client.ended:
        if kind == "stream":
            client.windows[number] += more[1]
            connection.data_received(frames.window_update(number, more[1]))
        else:
            connection.data_received(frames.reset(number, ErrorCode.CANCEL))
            del asked[number]
            asked[-number] = 0  # its number is used


@given(st.lists(actions, max_size=40))
@settings(max_examples=200, deadline=None)
def test_answers_are_whole_and_windows_are_kept(script: list[tuple[Any, ...]]) -> None:
    async def run() -> None:
        server = make_server()
        connection, client, asked = Connection(server), Client(), dict[int, int]()
        connection.connection_made(client)
        connection.data_received(frames.PREFACE + frames.settings({}))
        for action in script:
            act(connection, client, asked, action)
            await asyncio.sleep(0)
            for number, size in asked.items():
                owed = number > 0 and len(client.data[number]) < len(prefixed(bytes(size)))
                assert not owed or client.paused or client.window <= 0 or client.windows[number] <= 0
        act(connection, client, asked, ("resume",))
        left = {number: size for number, size in asked.items() if number > 0}
        for number in left:
            client.windows[number] += WHOLE
            if number not in client.ended:
                connection.data_received(frames.window_update(number, WHOLE))
        client.window += len(left) * WHOLE + 1
        connection.data_received(frames.window_update(0, len(left) * WHOLE + 1))
        await asyncio.sleep(0)
        assert {number: client.data[number] for number in left} == {
            number: prefixed(bytes(size)) for number, size in left.items()
        }
        assert set(left) <= client.ended
        connection.connection_lost(None)
        assert server.budget.bytes == 0

    asyncio.run(run())
