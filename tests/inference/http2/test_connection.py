"""gRPC over HTTP/2 of our own, frame by frame: what clients may send, what of it ends a stream or a connection, and windows."""

import asyncio
import gzip
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from inference.http2.client import ENDS, LARGEST_MESSAGE, increment, make_server, prefixed
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.grpc.status import Status
from podpair.inference.http2 import frames
from podpair.inference.http2.connection import MOST_STREAMS
from podpair.inference.http2.frames import ErrorCode, Setting
from podpair.inference.http2.header_blocks import LARGEST_BLOCK, BlockDecoder, literal

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


async def test_a_call_is_answered_by_head_message_and_trailers(connect: Any) -> None:
    client = await connect()
    for stream in (1, 3, 5, 7):
        client.ask(stream)
        data, fields = await client.answer(stream)
        assert data == prefixed(b"hello")
        assert fields == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}


async def test_frames_come_in_any_pieces_padded_with_priorities_and_continued(connect: Any) -> None:
    client = await connect()
    block = client.block()
    padding = bytes(7)
    whole = b"".join(
        (
            frames.frame(
                frames.HEADERS, frames.PADDED | frames.WITH_PRIORITY, 1, b"\x07" + bytes(5) + block[:9] + padding
            ),
            frames.frame(frames.CONTINUATION, 0, 1, block[9:12]),
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[12:]),
            frames.frame(frames.PRIORITY, 0, 1, bytes(5)),
            frames.frame(0xBE, 0, 1, b"of an extension"),
            frames.frame(frames.DATA, frames.PADDED, 1, b"\x07" + prefixed(b"hello")[:3] + padding),
            frames.frame(frames.DATA, 0, 1, prefixed(b"hello")[3:]),
            frames.frame(frames.DATA, frames.END_STREAM, 1),
        )
    )
    for i in range(len(whole)):
        client.send(whole[i : i + 1])
        await asyncio.sleep(0)
    assert (await client.answer(1))[0] == prefixed(b"hello")


FAULTS = {
    "a request on an even stream": (frames.frame(frames.HEADERS, ENDS, 2), ErrorCode.PROTOCOL_ERROR),
    "a block that is interrupted": (
        frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR,
    ),
    "a block that goes on of itself": (frames.frame(frames.CONTINUATION, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "a block without an end": (
        frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.CONTINUATION, 0, 1, bytes(LARGEST_BLOCK // 8 + 1)) * 8,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "an entry that no table has": (frames.frame(frames.HEADERS, ENDS, 1, b"\xff\x7f"), ErrorCode.COMPRESSION_ERROR),
    "fields that are too large": (
        frames.frame(frames.HEADERS, ENDS, 1, b"\x40" + literal(b"a", bytes(3900))[1:] + b"\xbe" * 100),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a block that goes on with nothing": (
        frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.CONTINUATION, 0, 1) * 2000, ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a priority that is cut short": (
        frames.frame(frames.HEADERS, ENDS | frames.WITH_PRIORITY, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR,
    ),
    "more padding than payload": (frames.frame(frames.DATA, frames.PADDED, 1, b"\x01"), ErrorCode.PROTOCOL_ERROR),
    "data without a request": (frames.frame(frames.DATA, 0, 9, b"x"), ErrorCode.PROTOCOL_ERROR),
    "a reset without a request": (frames.reset(9, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "a push": (frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a short ping": (frames.frame(frames.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "a short setting": (frames.frame(frames.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "a short reset": (frames.frame(frames.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "a frame that is too large": (frames.HEAD.pack(0x200, 0, frames.DATA, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
    "a window that opens by nothing": (increment(0, 0), ErrorCode.PROTOCOL_ERROR),
    "a window that is too large": (increment(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a first window that is too large": (
        frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a small largest frame": (frames.settings({Setting.MAX_FRAME_SIZE: 100}), ErrorCode.PROTOCOL_ERROR),
    "thousands of pings": (frames.frame(frames.PING, 0, 0, bytes(8)) * 2000, ErrorCode.ENHANCE_YOUR_CALM),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "code"), FAULTS.values(), ids=FAULTS)
async def test_what_ends_a_connection(connect: Any, sent: bytes, code: ErrorCode) -> None:
    client = await connect()
    client.send(sent)
    assert await client.fault() == code
    other = await connect()
    other.ask(1)
    assert (await other.answer(1))[0] == prefixed(b"hello")


async def test_http_of_another_version_is_no_connection(connect: Any) -> None:
    client = await connect(greeting=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await client.fault() == ErrorCode.PROTOCOL_ERROR


async def test_requests_begun_and_reset_by_thousands_end_the_connection(connect: Any, server: Http2Server) -> None:
    held: list[Call] = []
    server.add_direct("s", "Held", lambda message, call: held.append(call))
    client = await connect()
    for stream in range(1, 30_001, 2):
        client.ask(stream, path="/s/Held")
        client.send(frames.reset(stream, ErrorCode.CANCEL))
    assert await client.fault() == ErrorCode.ENHANCE_YOUR_CALM
    assert all(call.done for call in held)


async def test_more_streams_than_are_allowed_are_refused(connect: Any, server: Http2Server) -> None:
    held: list[Call] = []
    server.add_direct("s", "Held", lambda message, call: held.append(call))
    client = await connect()
    for number in range(MOST_STREAMS + 1):
        client.ask(2 * number + 1, b"", path="/s/Held")
    _, _, stream, payload = await client.frame(frames.RST_STREAM)
    assert (stream, int.from_bytes(payload, "big")) == (2 * MOST_STREAMS + 1, ErrorCode.REFUSED_STREAM)
    held[0].answer(b"")
    assert (await client.answer(1))[1]["grpc-status"] == "0"


async def test_an_answer_waits_for_the_windows_of_stream_and_connection(connect: Any) -> None:
    client = await connect({Setting.INITIAL_WINDOW_SIZE: 10})
    message = bytes(range(256)) * 400
    client.ask(1, message[:60_000], grpc_timeout="1H")
    _, _, _, first = await client.frame(frames.DATA)
    assert len(first) == 10
    client.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 20}))
    _, _, _, second = await client.frame(frames.DATA)
    assert len(second) == 10
    client.send(increment(1, 60_000 + 5 - 20))
    data, fields = await client.answer(1)
    assert first + second + data == prefixed(message[:60_000])
    assert fields["grpc-status"] == "0"
    # What is left of the connection's.
    client.ask(3, message[:30_000])
    client.send(increment(3, 100_000))
    got = b""
    while len(got) < 65_535 - 60_005:
        got += (await client.frame(frames.DATA))[3]
    assert len(got) == 65_535 - 60_005
    client.send(increment(3, 100_000), increment(0, 100_000))
    assert got + (await client.answer(3))[0] == prefixed(message[:30_000])


async def test_a_client_sends_no_more_than_it_may_and_as_much_as_its_message_needs(connect: Any) -> None:
    client = await connect()
    message = prefixed(bytes(LARGEST_MESSAGE))
    client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, client.block()))
    client.send(*(frames.frame(frames.DATA, 0, 1, message[i : i + 5000]) for i in range(0, 65_000, 5000)))
    while (update := await client.frame(frames.WINDOW_UPDATE))[2] == 0:
        pass
    assert int.from_bytes(update[3], "big") == len(message) - 65_535
    client.send(*(frames.frame(frames.DATA, 0, 1, message[i : i + 5000]) for i in range(65_000, len(message), 5000)))
    client.send(increment(0, len(message)), increment(1, len(message)), frames.frame(frames.DATA, frames.END_STREAM, 1))
    assert (await client.answer(1))[0] == message
    client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 3, client.block()))
    client.send(
        frames.frame(frames.DATA, 0, 3, prefixed(bytes(9))), *[frames.frame(frames.DATA, 0, 3, bytes(16_384))] * 5
    )


async def test_a_stream_that_is_not_read_is_sent_no_more_than_its_window(connect: Any, server: Http2Server) -> None:
    go = asyncio.Event()

    async def sizes(messages: AsyncIterator[bytes], context: Any) -> None:
        await go.wait()
        async for message in messages:
            await context.write(b"%d" % len(message))

    server.add_registered_method_handlers("s", {"Sizes": grpc.stream_stream_rpc_method_handler(sizes)})
    client = await connect()
    client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, client.block("/s/Sizes")))
    one = frames.frame(frames.DATA, 0, 1, prefixed(bytes(10_000)))
    client.send(*[one] * 6, frames.frame(frames.PING, 0, 0, bytes(8)))
    while (came := await client.frame(frames.WINDOW_UPDATE, frames.PING))[0] != frames.PING:
        assert came[2] == 0
    go.set()
    got = b""
    while (came := await client.frame(frames.WINDOW_UPDATE, frames.DATA))[0] == frames.DATA or came[2] == 0:
        got += came[3] if came[0] == frames.DATA else b""
    client.send(*[one] * 3, frames.frame(frames.DATA, frames.END_STREAM, 1))
    data, fields = await client.answer(1)
    assert fields["grpc-status"] == "0"
    assert got + data == prefixed(b"10000") * 9


async def test_what_is_refused(connect: Any) -> None:
    client = await connect()
    client.ask(1, path="/s/None")
    assert (await client.answer(1))[1]["grpc-status"] == "12"
    client.send(frames.frame(frames.HEADERS, ENDS, 3, client.block(content_type="text/html")))
    assert (await client.answer(3))[1] == {":status": "415"}
    client.send(frames.frame(frames.HEADERS, ENDS, 5, client.block()))
    fields = (await client.answer(5))[1]
    assert (fields["grpc-status"], fields["grpc-message"]) == ("12", "the method takes exactly one message")
    client.ask(7, grpc_encoding="snappy")
    fields = (await client.answer(7))[1]
    assert (fields["grpc-status"], fields["grpc-accept-encoding"]) == ("12", "identity,deflate,gzip")
    client.ask(9, grpc_timeout="soon")
    assert (await client.answer(9))[1]["grpc-status"] == "13"
    client.ask(11, key_bin="a")
    assert (await client.answer(11))[1]["grpc-status"] == "13"
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, 13, client.block())
    client.send(head, frames.frame(frames.DATA, 0, 13, struct.pack(">BL", 0, LARGEST_MESSAGE + 1)))
    assert (await client.answer(13))[1]["grpc-status"] == "8"
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, 15, client.block())
    client.send(head, frames.frame(frames.DATA, frames.END_STREAM, 15, prefixed(b"hello")[:7]))
    assert (await client.answer(15))[1]["grpc-status"] == "13"


COMPRESSED = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", COMPRESSED)
async def test_messages_that_are_compressed(connect: Any, encoding: str) -> None:
    compress = COMPRESSED[encoding]
    sent = {
        compress(b"hello" * 100): ("0", b"hello" * 100), compress(bytes(LARGEST_MESSAGE + 1)): ("8", b""),
        compress(b"hello")[:-3]: ("13", b""), b"none": ("13", b""),
    }  # fmt: skip
    client = await connect()
    for stream, (message, (status, answer)) in zip(range(1, 99, 2), sent.items(), strict=False):
        block = client.block(grpc_encoding=encoding)
        client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block))
        client.send(frames.frame(frames.DATA, frames.END_STREAM, stream, prefixed(message, 1)))
        data, fields = await client.answer(stream)
        assert fields["grpc-status"] == status
        assert data == (prefixed(answer) if status == "0" else b"")


@pytest.mark.parametrize(
    "compression", [grpc.Compression.NoCompression, grpc.Compression.Deflate, grpc.Compression.Gzip]
)
async def test_answers_are_compressed_for_clients_that_decompress_them(compression: grpc.Compression) -> None:
    server = make_server(compression=int(compression))
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        message = b"hello" * 100_000
        assert await channel.unary_unary("/s/Echo")(message, compression=compression) == message
    await server.stop(5)


async def test_a_deadline_that_passes_ends_the_call_here_too(connect: Any, server: Http2Server) -> None:
    told: asyncio.Queue[Call] = asyncio.Queue()

    def never(message: bytes, call: Call) -> None:
        call.on_cancelled = lambda: told.put_nowait(call)

    server.add_direct("s", "Never", never)
    client = await connect()
    client.ask(1, path="/s/Never", grpc_timeout="50m")
    assert (await client.answer(1))[1]["grpc-status"] == "4"
    assert (await asyncio.wait_for(told.get(), 30)).done


async def test_binary_metadata_goes_both_ways(server: Any) -> None:
    def mirror(message: bytes, call: Call) -> None:
        (value,) = [value for name, value in call.invocation_metadata() if name == "key-bin"]
        assert value == b"\x00\xff"
        call.fail(Status.NOT_FOUND, "100 %\n", (("key-bin", "ab"),))

    server.add_direct("s", "Mirror", mirror)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/s/Mirror")(b"", metadata=(("key-bin", b"\x00\xff"),))
    assert error.value.details() == "100 %\n"
    assert ("key-bin", b"ab") in list(error.value.trailing_metadata() or ())


def test_a_block_means_what_the_table_says_when_it_comes() -> None:
    """The same bytes stand for other fields once the client's table has changed."""
    parsed = []

    def parse(fields: Any) -> list[tuple[bytes, bytes]]:
        parsed.append(list(fields))
        return parsed[-1]

    decoder = BlockDecoder(parse)
    newest = b"\xbe"  # the entry added last
    for value in (b"one", b"two"):
        decoder.decode(b"\x40\x01a\x03" + value)
        assert decoder.decode(newest) == [(b"a", value)]
        assert decoder.decode(newest) == [(b"a", value)]
    assert len(parsed) == 4
    # A table that is made smaller and larger again is empty.
    decoder.decode(b"\x20\x3f\xe1\x1f")
    with pytest.raises(frames.ConnectionFault):
        decoder.decode(newest)
