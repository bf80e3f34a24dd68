"""What HTTP itself refuses is the documented JSON too, on both ports, and repeats nothing of what came: it may be a token."""

import gzip
import json
import re
import socket
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from gateway.conftest import ROW
from harness import environments
from harness.pair import Gateway, token
from harness.processes import ROOT, output_of

MARK = "xyzzy-a-token-perhaps"
HEAD = b"Host: h\r\nAuthorization: Bearer %b\r\n" % token(sid="http").encode()
BODY = json.dumps({"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": ROW}]}).encode()
SAMPLE = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"


def post(*headers: str, body: bytes = b"", path: str = "/v1/infer", sized: bool = True) -> bytes:
    lines = [*headers, f"Content-Length: {len(body)}"] if sized else headers
    told = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    return b"POST %b HTTP/1.1\r\n%b%b\r\n%b" % (path.encode(), HEAD, told, body)


CODED = "the body can't be decoded as its Content-Encoding says"
FRAMED = "the body is not framed as the request's headers say"
NO_HTTP = "that is not an HTTP/1.1 request"
LONG = "longer than 8190 bytes"

# What is sent, the statuses of all that is answered, and what the last says. Asked of both ports.
BOTH: dict[str, tuple[bytes, list[int], str]] = {
    "noise": (f"{MARK}\r\n\r\n".encode(), [400], NO_HTTP),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00" + MARK.encode() + b"\r\n\r\n", [400], NO_HTTP),
    "another version": (f"GET /{MARK} HTTP/3.7\r\nHost: h\r\n\r\n".encode(), [400], NO_HTTP),
    "no host": (f"GET /healthz HTTP/1.1\r\nX: {MARK}\r\n\r\n".encode(), [400], NO_HTTP),
    "a header without a colon": (f"GET /healthz HTTP/1.1\r\nHost: h\r\n{MARK}\r\n\r\n".encode(), [400], NO_HTTP),
    "a space before the colon": (f"GET /healthz HTTP/1.1\r\nHost: h\r\n{MARK} : a\r\n\r\n".encode(), [400], NO_HTTP),
    "a NUL in a header": (f"GET /healthz HTTP/1.1\r\nHost: h\r\nX: {MARK}\0\r\n\r\n".encode(), [400], NO_HTTP),
    "two lengths": (
        f"GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{MARK}".encode(), [400], "",
    ),
    "length and chunks": (
        f"POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n{MARK}".encode(), [400], "",
    ),
    "an unknown transfer coding": (
        f"POST /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: {MARK}\r\n\r\n".encode(), [400], NO_HTTP,
    ),
    "an empty transfer coding": (
        f"POST /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n{MARK}".encode(), [400], NO_HTTP,
    ),
    "a long target": (f"GET /healthz?{MARK}{'x' * 8190} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), [431], LONG),
    "a long header": (f"GET /healthz HTTP/1.1\r\nHost: h\r\nX: {MARK}{'x' * 8190}\r\n\r\n".encode(), [431], LONG),
    "a long name": (f"GET /healthz HTTP/1.1\r\nHost: h\r\n{MARK}{'x' * 8190}: a\r\n\r\n".encode(), [431], LONG),
    "many headers": (b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 200 + b"\r\n", [431], "more than 128 headers"),
    "no such place": (b"GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", [404], "there is no /nothing"),
    "a method that it does not take": (
        b"DELETE /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", [405], "/healthz does not take DELETE",
    ),
    "an unknown expectation": (
        f"GET /healthz HTTP/1.1\r\nHost: h\r\nExpect: {MARK}\r\nConnection: close\r\n\r\n".encode(), [417], "100-continue",
    ),
    "a tunnel": (b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", [404], "this is not a proxy"),
    "a tunnel, and what it is to carry": (b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n" + SAMPLE, [404], "this is not a proxy"),
    "bytes behind the last request": (
        b"GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + SAMPLE, [400], "data follows a request",
    ),
}  # fmt: skip

CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"
PUBLIC: dict[str, tuple[bytes, list[int], str]] = {
    "not gzip": (post("Content-Encoding: gzip", body=MARK.encode()), [400], CODED),
    "not gzip, over V2": (
        post("Content-Encoding: gzip", body=MARK.encode(), path="/v2/models/digits/infer"), [400], CODED,
    ),
    "not gzip, chat": (post("Content-Encoding: gzip", body=MARK.encode(), path="/v1/chat/completions"), [400], CODED),
    "not deflate": (post("Content-Encoding: deflate", body=b"\x78\x9c" + MARK.encode()), [400], CODED),
    "half of it": (post("Content-Encoding: deflate", body=zlib.compress(BODY)[:-9]), [400], CODED),
    "damaged": (post("Content-Encoding: gzip", body=gzip.compress(BODY)[:-20] + b"\0" * 20), [400], CODED),
    "in no coding that is taken": (post(f"Content-Encoding: {MARK}", body=BODY), [415], "gzip or deflate, or none, are"),
    "brotli": (post("Content-Encoding: br", body=MARK.encode()), [415], "gzip or deflate, or none, are"),
    "zstd": (post("Content-Encoding: zstd", body=MARK.encode()), [415], "gzip or deflate, or none, are"),
    "packed twice": (post("Content-Encoding: gzip, gzip", body=MARK.encode()), [415], "gzip or deflate, or none, are"),
    "another one, over V2": (
        post(f"Content-Encoding: {MARK}", body=BODY, path="/v2/models/digits/infer"), [415], "gzip or deflate",
    ),
    "too much when it is unpacked": (
        post("Content-Encoding: gzip", CLOSE, body=gzip.compress(b" " * (1 << 22))), [413], "limits.message_bytes",
    ),
    "too much when it is unpacked, in chunks": (
        post("Content-Encoding: deflate", CLOSE, CHUNKED, sized=False,
             body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(zlib.compress(b" " * (1 << 22))), zlib.compress(b" " * (1 << 22)))),
        [413], "limits.message_bytes",
    ),
    "chunks that are none": (post(CHUNKED, body=MARK.encode() + b"\r\n", sized=False), [400], ""),
    "a chunk that goes on": (post(CHUNKED, body=b"2\r\n{}" + MARK.encode() + b"\r\n", sized=False), [400], ""),
    "a huge chunk": (post(CHUNKED, body=b"f" * 40 + b"\r\n" + MARK.encode(), sized=False), [400], ""),
    "HEAD of a session": (b"HEAD /v1/ws HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n", [405], ""),
    "an unknown method": (
        b"BREW /v1/infer HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n", [400], NO_HTTP,
    ),
    "a known method": (
        b"PATCH /v1/infer HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n", [405], "/v1/infer does not take PATCH",
    ),
    "a method that V2 does not take": (
        b"PUT /v2/models/digits/infer HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n", [405], "does not take PUT",
    ),
}  # fmt: skip


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def answers(url: str, data: bytes) -> list[Answer]:
    """All that is answered to these bytes, until the other end closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        received = b""
        try:
            while chunk := connection.recv(65_536):
                received += chunk
        except ConnectionResetError:
            pass
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.[01] (\d{3}) .*", first)
        assert match is not None, first
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = 0 if data.startswith(b"HEAD") else int(headers.get("content-length", 0))
        found.append(Answer(int(match[1]), headers, received[:size]))
        received = received[size:]
    return found


def told(answer: Answer, path: str) -> str:
    """The message of an error, which has the form of its part."""
    assert answer.headers["content-type"].startswith("application/json")
    error: Any = json.loads(answer.body)["error"]
    if path.startswith("/v2"):
        assert isinstance(error, str)
        return error
    assert set(error) == {"code", "message"}
    assert error["code"] in ("invalid", "not_found")
    return str(error["message"])


def check(gateway: Gateway, url: str, data: bytes, statuses: list[int], said: str) -> None:
    lines = len(gateway.lines)
    found = answers(url, data)
    assert [answer.status for answer in found] == statuses, found
    for answer in found:
        assert MARK.encode() not in answer.body
        if not data.startswith(b"HEAD"):
            message = told(answer, data.split(b" ")[1].decode("latin-1") if b"/v2/models" in data[:40] else "/v1")
            assert len(message) < 300
        assert ("allow" in answer.headers) == (answer.status == 405)
        assert answer.headers.get("accept-encoding") == ("gzip, deflate" if answer.status == 415 else None)
    if not data.startswith(b"HEAD"):
        assert said in message
    assert gateway.get("/healthz")[0] == 200
    assert not [line for line in gateway.lines[lines:] if MARK in line or '"ERROR"' in line or "Traceback" in line]


@pytest.mark.parametrize("port", ["public", "operators"])
@pytest.mark.parametrize("name", BOTH)
def test_what_http_refuses(pair: Gateway, name: str, port: str) -> None:
    check(pair, pair.url if port == "public" else pair.operations, *BOTH[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_client_sends_amiss(pair: Gateway, name: str) -> None:
    check(pair, pair.url, *PUBLIC[name])


@pytest.mark.parametrize("path", ["/v1/infer", "/v2/models/digits/infer", "/v1/chat/completions", "/nothing"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_stranger_s_body_is_no_line_of_the_log(pair: Gateway, path: str, coding: str) -> None:
    lines = len(pair.lines)
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Encoding: {coding}\r\nContent-Length: {len(MARK)}\r\n\r\n"
    for _ in range(3):
        (answer, *more) = answers(pair.url, head.encode() + MARK.encode() + b"\x16 noise\r\n\r\n")
        assert answer.status in (400, 401, 404, 415)
        assert all(one.status == 400 for one in more)
        assert MARK.encode() not in answer.body
    assert pair.get("/healthz")[0] == 200
    assert not [line for line in pair.lines[lines:] if "exc_info" in line or '"ERROR"' in line]


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)])
async def test_bodies_in_codings_that_are_taken(
    pair: Gateway, http: aiohttp.ClientSession, coding: str, pack: Any
) -> None:
    headers = {"Authorization": f"Bearer {token()}", "Content-Encoding": coding, "Content-Type": "application/json"}
    url = pair.url + "/v2/models/digits/infer"
    async with http.post(url, data=pack(BODY), headers=headers, compress=None) as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["outputs"]


async def test_a_leftover_content_encoding_without_a_body_is_no_matter(
    pair: Gateway, http: aiohttp.ClientSession
) -> None:
    """A client that is told to pack its bodies may leave the header in all its requests."""
    for coding in ("gzip", "deflate", "other"):
        headers = {"Authorization": f"Bearer {token()}", "Content-Encoding": coding}
        async with http.get(pair.url + "/v2/models/digits", headers=headers) as answer:
            assert answer.status == 200


@pytest.mark.timeout(600)
def test_tritonclient_s_leftover_header_is_named(pair: Gateway) -> None:
    """It writes Content-Encoding into the headers that it was given, and sends them with the next body, which isn't packed."""
    python = environments.python(ROOT / "tests/inference/clients.lock")
    program = Path(__file__).parent / "outside/triton_headers.py"
    lines = len(pair.lines)
    packed, plain, fresh = json.loads(output_of(python, program, pair.url.removeprefix("http://"), token()))
    assert (packed, fresh) == ("ok", "ok")
    assert CODED in plain
    assert not [line for line in pair.lines[lines:] if '"ERROR"' in line]


async def test_what_fits_is_taken(pair: Gateway) -> None:
    """8,190 bytes of one header's value."""
    fits = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: " + b"x" * 8190 + b"\r\n\r\n"
    assert [answer.status for answer in answers(pair.url, fits)] == [200]
