"""Header fields in both directions: what is malformed or too large ends its call alone, and a client's limits are kept."""

from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from inference.http2.client import ENDS, prefixed
from podpair.inference.grpc import wire_format
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.grpc.status import Status
from podpair.inference.http2 import frames
from podpair.inference.http2.frames import ErrorCode, Setting
from podpair.inference.http2.header_blocks import literal

REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/Echo"), (b"content-type", b"application/grpc")]


def send_block(client: Any, stream: int, block: bytes) -> None:
    client.send(frames.field_block(stream, block, frames.SMALLEST_FRAME, ended=False))
    client.send(frames.frame(frames.DATA, frames.END_STREAM, stream, prefixed(b"hello")))


@pytest.mark.parametrize("size", [17_000, 200_000])
async def test_metadata_that_is_too_large_ends_its_call_alone(connect: Any, size: int) -> None:
    client = await connect()
    send_block(client, 1, client.block(first="1", large="x" * size, last="2"))
    fields = (await client.answer(1))[1]
    assert fields["grpc-status"] == "8"
    assert "16384 are accepted" in fields["grpc-message"]
    # What was added to the table by it, before and after, is there.
    client.ask(3, first="1", last="2")
    assert (await client.answer(3))[0] == prefixed(b"hello")


async def test_a_client_whose_table_is_smaller_is_told_that_none_is_used(connect: Any) -> None:
    client = await connect({Setting.HEADER_TABLE_SIZE: 1024})
    client.decoder.max_allowed_table_size = 1024
    for stream in (1, 3):
        client.ask(stream)
        assert (await client.answer(stream))[0] == prefixed(b"hello")
    assert client.decoder.header_table_size == 0
    client.send(frames.settings({Setting.HEADER_TABLE_SIZE: 0}))
    client.decoder.max_allowed_table_size = 0
    client.ask(5)
    assert (await client.answer(5))[1]["grpc-status"] == "0"


async def test_a_status_with_long_details_reaches_the_client(server: Any) -> None:
    server.add_direct("s", "Long", lambda message, call: call.fail(Status.NOT_FOUND, message.decode()))
    details = "a" + "ü%\n" * 100_000
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/s/Long")(details.encode())
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    shown = error.value.details() or ""
    assert shown.endswith("…")
    assert details.startswith(shown[:-1])
    assert len(shown) > 500


@given(st.text(max_size=20), st.sampled_from(["x", "ü", "€", "𝄞", "%"]))
def test_details_are_as_they_were_or_cut_between_characters(before: str, character: str) -> None:
    before = before.encode("utf-8", "replace").decode()
    for details in (before, before + character * 5000):
        (shown,) = [value for name, value in decoded(wire_format.trailers(Status.OK, details))[1:]] or [""]
        assert shown == details or (len(details) >= 5000 and details.startswith(shown[:-1]) and shown[-1] == "…")


def decoded(block: bytes) -> list[tuple[str, str]]:
    return [(str(name), unquote(str(value))) for name, value in Decoder().decode(block)]


async def test_trailers_that_are_larger_than_a_frame_go_on_in_others(connect: Any, server: Http2Server) -> None:
    value = "v" * 40_000
    server.add_direct("s", "Fail", lambda message, call: call.fail(Status.ABORTED, "no", (("key", value),)))
    client = await connect()
    client.ask(1, path="/s/Fail")
    fields = (await client.answer(1))[1]
    assert (fields["grpc-status"], fields["key"]) == ("10", value)


async def test_binary_values_of_one_name_may_be_joined(connect: Any, server: Http2Server) -> None:
    def mirror(message: bytes, call: Call) -> None:
        values: list[Any] = [value for name, value in call.invocation_metadata() if name == "key-bin"]
        call.answer(b"|".join(values))

    server.add_direct("s", "Mirror", mirror)
    client = await connect()
    client.ask(1, path="/s/Mirror", key_bin="YWE=,YmI, Yw,ZGRk")
    assert (await client.answer(1))[0] == prefixed(b"aa|bb|c|ddd")


CONTENT_TYPES = {
    "application/grpc": 200, "application/grpc+proto": 200, "application/grpc;charset=utf-8": 200,
    "application/grpc-web": 415, "application/grpc-web+proto": 415, "application/grpcx": 415, "application/json": 415,
}  # fmt: skip


@pytest.mark.parametrize(("content_type", "status"), CONTENT_TYPES.items())
async def test_other_protocols_are_refused(connect: Any, content_type: str, status: int) -> None:
    client = await connect()
    client.ask(1, content_type=content_type)
    assert (await client.answer(1))[1][":status"] == str(status)
    client.send(frames.frame(frames.HEADERS, ENDS, 3, client.block(**{":method": "GET"})))
    assert (await client.answer(3))[1] == {":status": "405"}


MALFORMED = {
    "a name in upper case": [*REQUEST, (b"Key", b"1")],
    "a field of HTTP/1.1": [*REQUEST, (b"connection", b"close")],
    "te other than trailers": [*REQUEST, (b"te", b"gzip")],
    "no path": [field for field in REQUEST if field[0] != b":path"],
    "an empty path": [(name, b"" if name == b":path" else value) for name, value in REQUEST],
    "two paths": [*REQUEST[:3], (b":path", b"/"), REQUEST[3]],
    "an answer's pseudo-header": [(b":status", b"200"), *REQUEST],
    "a pseudo-header that is late": [REQUEST[3], *REQUEST[:3]],
    "no pseudo-header": REQUEST[3:],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_ends_alone(connect: Any, fields: list[tuple[bytes, bytes]]) -> None:
    client = await connect()
    send_block(client, 1, b"".join(literal(*field) for field in fields))
    _, _, stream, payload = await client.frame(frames.RST_STREAM)
    assert (stream, int.from_bytes(payload, "big")) == (1, ErrorCode.PROTOCOL_ERROR)
    client.ask(3)
    assert (await client.answer(3))[0] == prefixed(b"hello")


@pytest.mark.parametrize(("length", "fits"), [(10, True), (9, False), (11, False)])
async def test_a_request_has_the_length_that_it_announces(connect: Any, length: int, fits: bool) -> None:
    client = await connect()
    client.ask(1, content_length=str(length))
    if fits:
        assert (await client.answer(1))[0] == prefixed(b"hello")
        return
    _, _, stream, payload = await client.frame(frames.RST_STREAM)
    assert (stream, int.from_bytes(payload, "big")) == (1, ErrorCode.PROTOCOL_ERROR)
    client.ask(3)
    assert (await client.answer(3))[0] == prefixed(b"hello")


async def test_trailers_of_a_request_end_it(connect: Any) -> None:
    client = await connect()
    client.send(
        frames.frame(frames.HEADERS, frames.END_HEADERS, 1, client.block()),
        frames.frame(frames.DATA, 0, 1, prefixed(b"hello")[:7]),
        frames.frame(frames.DATA, 0, 1, prefixed(b"hello")[7:]),
        frames.frame(frames.HEADERS, ENDS, 1, literal(b"key", b"1")),
    )
    assert (await client.answer(1))[0] == prefixed(b"hello")
