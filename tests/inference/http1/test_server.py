"""HTTP/1.1 as it may come over a socket: whole, in pieces, several at once, in chunks, or broken."""

import asyncio
import ctypes
import gzip
import json
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from podpair.inference.http1 import connection

TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
BODY = json.dumps({"inputs": [TENSOR]}).encode()
PATH = b"/v2/models/plus/infer"
POST = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % (PATH, len(BODY))
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH


class Wire:
    """A socket to the server, and the answers that come over it."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), 20)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        if headers.get("transfer-encoding") == "chunked":
            content = b""
            while size := int(self._file.readline(), 16):
                content += self._file.read(size)
                self._file.readline()
            self._file.readline()
            return status, headers, content
        return status, headers, self._file.read(int(headers.get("content-length", 0))) if body else b""

    def ended(self) -> bool:
        """Whether the server says nothing more; waits for its end."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def wire(served: Any) -> Iterator[Wire]:
    wire = Wire(served.url)
    yield wire
    wire.close()


def good(answer: tuple[int, dict[str, str], bytes]) -> bool:
    return answer[0] == 200 and json.loads(answer[2])["outputs"][0]["data"] == [3.0]


def test_a_connection_is_kept_and_answers_carry_a_date(wire: Wire) -> None:
    for _ in range(3):
        wire.send(POST + b"\r\n" + BODY)
        status, headers, _ = wire.answer()
        assert (status, "connection" in headers) == (200, False)
        assert headers["date"].endswith("GMT")


@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_request_may_come_in_pieces(wire: Wire, size: int) -> None:
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = POST + b"\r\n" + BODY
    for i in range(0, len(data), size):
        wire.send(data[i : i + size])
    assert good(wire.answer())


def test_requests_that_are_sent_ahead_are_answered_in_their_order(wire: Wire) -> None:
    asked = [json.dumps({"id": str(i), "inputs": [TENSOR]}).encode() for i in range(200)]
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
    wire.send(b"".join(head % (PATH, len(body)) + body for body in asked))
    assert [json.loads(wire.answer()[2])["id"] for _ in asked] == [str(i) for i in range(200)]


def test_handlers_of_all_kinds_keep_the_order_too(wire: Wire) -> None:
    wire.send((LIVE + POST + b"\r\n" + BODY + b"\r\n\r\n") * 2 + b"GET /none HTTP/1.1\r\nHost: h\r\n\r\n" + LIVE)
    assert [wire.answer()[0] for _ in range(6)] == [200, 200, 200, 200, 404, 200]


def test_far_more_sent_ahead_than_is_taken_waits_in_the_socket(wire: Wire) -> None:
    big = json.dumps({"inputs": [TENSOR], "parameters": {"padding": "x" * 50_000}}).encode()
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (PATH, len(big))
    wire.send((head + big) * 20)
    assert all(good(wire.answer()) for _ in range(20))


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_body_in_chunks(wire: Wire, size: int) -> None:
    pieces = [BODY[i : i + size] for i in range(0, len(BODY), size)]
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    for _ in range(2):
        wire.send(CHUNKED)
        wire.send(chunks + b"0\r\nTrailer: t\r\n\r\n")
        assert good(wire.answer())


def test_a_request_behind_chunks_in_one_piece_is_answered_too(wire: Wire) -> None:
    wire.send((CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) + LIVE) * 2)
    for _ in range(2):
        assert good(wire.answer())
        assert wire.answer()[2] == b'{"live":true}'


def test_a_client_that_asks_first_is_told_to_go_on(wire: Wire) -> None:
    wire.send(POST + b"Expect: 100-continue\r\n\r\n")
    assert wire.answer()[0] == 100
    wire.send(BODY)
    assert good(wire.answer())


def test_a_client_that_asks_first_to_send_too_much_is_told_not_to(wire: Wire) -> None:
    wire.send(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 1000001\r\nExpect: 100-continue\r\n\r\n" % PATH)
    assert wire.answer()[0] == 413
    assert wire.ended()


def test_head_has_the_headers_only(wire: Wire) -> None:
    wire.send(LIVE.replace(b"GET", b"HEAD") + LIVE)
    status, headers, _ = wire.answer(body=False)
    assert (status, headers["content-length"]) == (200, "13")
    assert wire.answer()[2] == b'{"live":true}'


def test_http_1_0_is_answered_and_ended_unless_it_asks_to_go_on(wire: Wire) -> None:
    old = POST.replace(b"HTTP/1.1", b"HTTP/1.0")
    wire.send(old + b"Connection: keep-alive\r\n\r\n" + BODY)
    answer = wire.answer()
    assert good(answer)
    assert answer[1]["connection"] == "keep-alive"
    wire.send(old + b"\r\n" + BODY)
    assert wire.answer()[1]["connection"] == "close"
    assert wire.ended()


def test_connection_close_is_heeded(wire: Wire) -> None:
    wire.send(POST + b"Connection: close\r\n\r\n" + BODY)
    assert good(wire.answer())
    assert wire.ended()


def test_an_upgrade_is_not_made_and_the_request_is_answered(wire: Wire) -> None:
    wire.send(POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + BODY)
    assert good(wire.answer())


def test_targets_with_a_query_escapes_or_a_whole_address(wire: Wire) -> None:
    for target in (b"/v2/models/%70lus/infer?x=1", b"http://h:1/v2/models/plus/infer"):
        wire.send((POST + b"\r\n" + BODY).replace(PATH, target))
        assert good(wire.answer())


BROKEN = {
    "nonsense": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /v2\r\n\r\n", 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "two lengths": (POST + b"Content-Length: 3\r\n\r\n", 400),
    "a negative length": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    "a length that is no number": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\n", 400),
    "a length and chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a length of thousands of digits": (
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"0" * 5000 + b"5\r\n\r\n12345",
        400,
    ),
    "two hosts": (b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "the same host twice": (b"GET /v2 HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
    "two hosts in HTTP/1.0": (b"GET /v2 HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a host with a path": (b"GET /v2 HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400),
    "a host with a name of a user": (b"GET /v2 HTTP/1.1\r\nHost: me@a\r\n\r\n", 400),
    "two hosts in one": (b"GET /v2 HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "a port that is no number": (b"GET /v2 HTTP/1.1\r\nHost: a:http\r\n\r\n", 400),
    "a host with half an escape": (b"GET /v2 HTTP/1.1\r\nHost: a%2\r\n\r\n", 400),
    "another coding": (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "a space before the colon": (b"GET /v2 HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    "a folded header": (b"GET /v2 HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", 400),
    "a NUL": (b"GET /v2 HTTP/1.1\r\nHost: h\r\nA: b\0\r\n\r\n", 400),
    "lines without CR": (b"GET /v2 HTTP/1.1\nHost: h\n\nGET /v2 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "no host": (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
    "another expectation": (POST + b"Expect: miracles\r\n\r\n", 417),
    "a head without end": (b"GET /v2 HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 20_000, 431),
    "a head too long": (b"GET /v2 HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 20_000 + b"\r\n\r\n", 431),
    "chunks that are none": (CHUNKED + b"zz\r\n", 400),
    "chunks that exceed their size": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400),
    "chunks beyond the limit": (CHUNKED + b"%x\r\n" % 1_100_000 + b"x" * 1_100_000, 413),
    "too many bytes": (POST.replace(b"Content-Length: ", b"Content-Length: 9999999"), 413),
}


@pytest.mark.parametrize(("data", "status"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_understood_is_refused_and_the_connection_ends(wire: Wire, data: bytes, status: int) -> None:
    wire.send(data if data.endswith(b"\n") or status in (413, 431) else data + b"\r\n")
    if b"9999999" in data:
        wire.send(b"\r\n")
    got, headers, body = wire.answer()
    assert (got, headers["connection"], list(json.loads(body))) == (status, "close", ["error"])
    assert wire.ended()


def test_a_compressed_body(wire: Wire) -> None:
    for coding, packed in ((b"gzip", gzip.compress(BODY)), (b"deflate", zlib.compress(BODY)), (b"identity", BODY)):
        head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
        wire.send(head % (PATH, coding, len(packed)) + packed)
        assert good(wire.answer())
    bomb = gzip.compress(b" " * 5_000_000)
    wire.send(head % (PATH, b"gzip", len(bomb)) + bomb)
    assert wire.answer()[0] == 413


@pytest.mark.parametrize("padding", range(8))
async def test_a_large_tensor_is_not_copied_between_the_socket_and_the_model(
    application: Callable[..., Any], padding: int
) -> None:
    """Whatever the length of the JSON before it: its memory is the body's, and aligned."""
    app = await application()
    seen: list[Any] = []
    run = app.gate.run

    def remember(arrays: Any, parameters: Any = ()) -> Any:
        seen.extend(arrays)
        return run(arrays, parameters)

    app.gate.run = remember
    raw = struct.pack("<f", 2.0) * 200_000
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 100_000], "parameters": {"binary_data_size": len(raw)}}
    asked = {"id": "i" * padding, "inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(asked).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    async with app.client.post("/v2/models/gate/infer", data=header + raw, headers=headers) as answer:
        assert (await answer.read()).endswith(struct.pack("<f", 3.0) * 200_000)
    (x,) = seen
    assert x.ctypes.data % 64 == 0
    # A view of the memory that the socket was read into: the JSON lies before the tensor.
    start = x.ctypes.data - len(header)
    assert ctypes.string_at(start, len(header)) == header


async def test_clients_that_do_not_get_on_are_ended(
    application: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = await application()
    for name in ("HEAD_SECONDS", "STALL_SECONDS", "LINGER_SECONDS", "KEEP_SECONDS"):
        monkeypatch.setattr(connection, name, 0.0)
    url = app.client._base_url
    for sent, status in ((b"GET /v2 HT", b"408"), (POST + b"\r\n{", b"408"), (b"", b""), (b"\r\n", b"")):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer[9:12] == status
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET /v2 HTTP/1.1\nHost: h\n\n",
        b"GET /v2 HTTP/1.1\r\nHost: h\r\nA : b\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: h\r\nContent-Length: 1_0\r\n",
        b"\0",
    ],
)
def test_what_can_become_no_request_is_refused_before_it_is_complete(wire: Wire, sent: bytes) -> None:
    for byte in sent:
        wire.send(bytes([byte]))
    assert wire.answer()[0] == 400
    assert wire.ended()


@pytest.mark.parametrize("first", [LIVE.replace(b"Host", b"Connection: close\r\nHost"), b"GET / HTTP/1.1\r\n\r\n"])
def test_the_last_answer_arrives_whatever_was_sent_behind_it(wire: Wire, first: bytes) -> None:
    """A socket that is closed while bytes are unread is reset, and the answer on its way lost."""
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.send(first)
    for _ in range(20):
        wire.send(b"x" * 50_000)
    assert wire.answer()[1]["connection"] == "close"
    assert wire.ended()


def test_what_a_path_takes_is_told(wire: Wire) -> None:
    asked = {
        b"DELETE /v2": (405, "GET, HEAD, OPTIONS"),
        b"GET /v2/models/plus/infer": (405, "OPTIONS, POST"),
        b"PUT /v2/models/plus/versions/1/ready": (405, "GET, HEAD, OPTIONS"),
        b"OPTIONS /v2/models/plus/generate": (200, "OPTIONS, POST"),
        b"OPTIONS *": (200, "GET, HEAD, OPTIONS, POST"),
        b"OPTIONS /v1": (404, None),
        b"POST /v1": (404, None),
    }
    for line, expected in asked.items():
        wire.send(line + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        status, headers, _ = wire.answer()
        assert (status, headers.get("allow")) == expected


@pytest.mark.parametrize(
    "host",
    [b"", b"h", b"h:80", b"h:", b"127.0.0.1:8081", b"[::1]:8081", b"a-b_c.example.", b"%41.b", b"[fe80::1%25eth0]"],
)
def test_every_host_that_there_may_be_is_taken(wire: Wire, host: bytes) -> None:
    wire.send(b"GET /v2/health/live HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
    assert wire.answer()[0] == 200
