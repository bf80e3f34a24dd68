"""HTTP/2 that is nearly right, or noise: a connection answers or ends, and nothing else fails."""

import asyncio
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.http2.client import make_server
from podpair.inference.http2 import frames
from podpair.inference.http2.connection import Connection
from podpair.inference.http2.frames import ConnectionFault
from podpair.inference.http2.header_blocks import BlockDecoder, literal

pytestmark = pytest.mark.pure

PATH = literal(b":path", b"/s/Echo")
HEAD = (
    literal(b":method", b"POST") + literal(b":scheme", b"http") + PATH + literal(b"content-type", b"application/grpc")
)
payloads = st.binary(max_size=40) | st.sampled_from(
    [
        HEAD,
        HEAD[:20],
        HEAD[20:],
        b"\0\0\0\0\5hello",
        b"\0\0\0",
        bytes(8),
        b"\0\4\0\0\0\7",
        b"\0\4\0\xff\xff\xff",
        b"\0\0\4\0",
    ]
)
flags = st.sampled_from([0, 1, 4, 5, 8, 9, 12, 13, 0x25, 0x2D])
some_frames = st.builds(
    frames.frame,
    st.sampled_from([*range(10), *[frames.HEADERS, frames.DATA] * 4, 11]),
    flags,
    st.integers(0, 9),
    payloads,
)


@given(st.lists(some_frames, max_size=30), st.lists(st.integers(1, 300), min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_connection_answers_or_ends_whatever_comes(sent: list[bytes], pieces: list[int]) -> None:
    async def run() -> None:
        server = make_server(largest=1000)
        server.add_direct("s", "Echo", lambda message, call: call.answer(message * 100))
        connection, transport = Connection(server), MagicMock()
        transport.is_closing.return_value = False
        connection.connection_made(transport)
        data, turn = frames.PREFACE + b"".join(sent), 0
        while data:
            size = pieces[turn % len(pieces)]
            connection.data_received(data[:size])
            data, turn = data[size:], turn + 1
        await asyncio.sleep(0)
        connection.connection_lost(None)
        assert connection.streams == {}
        assert server.budget.bytes == 0

    asyncio.run(run())


@given(st.lists(st.binary(max_size=60), max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_block_is_decoded_as_without_what_is_remembered_or_ends_the_connection(blocks: list[bytes]) -> None:
    known, plain = BlockDecoder(list), BlockDecoder(list)
    for block in [*blocks, *blocks]:
        try:
            wanted = plain.decode(block)
        except ConnectionFault:
            with pytest.raises(ConnectionFault):
                known.decode(block)
            return
        plain._known.clear()
        assert known.decode(block) == wanted
