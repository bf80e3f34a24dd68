"""The server's part of RFC 6455 on the wire: which upgrades are answered how, and which frames end a connection with what."""

import asyncio
import json
import socket

import pytest

from gateway.conftest import UPGRADE
from gateway.core.test_frame_reader import frame
from harness.pair import Gateway, token
from podpair.gateway.core.frame_reader import CLOSE, CONTINUATION, PING, TEXT


def ask(
    gateway: Gateway, *lines: str, start: str = "GET /v1/ws HTTP/1.1", without: tuple[str, ...] = ()
) -> socket.socket:
    """An upgrade with these header lines beside the usual ones, but those that are left out."""
    host, port = gateway.url.removeprefix("http://").split(":")
    usual = {"Host": f"{host}:{port}", "Authorization": f"Bearer {token(sid='rfc6455')}", **UPGRADE}
    kept = [f"{name}: {value}" for name, value in usual.items() if name not in without]
    wire = socket.create_connection((host, int(port)), timeout=60)
    wire.sendall("\r\n".join([start, *kept, *lines, "", ""]).encode())
    return wire


def head_of(wire: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = wire.recv(65_536)
        assert piece, data
        data += piece
    head, _, behind = data.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in headers), behind


ACCEPTED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "as usual": ((), ()),
    "tokens in lists, in any case": (
        ("connection: Keep-Alive , UPGRADE", "upgrade: WebSocket"),
        ("Connection", "Upgrade"),
    ),
    "another protocol beside": (("Upgrade: h2c, websocket",), ("Upgrade",)),
    "Connection twice": (("Connection: keep-alive", "Connection: Upgrade"), ("Connection",)),
    "extensions, of which none is taken": (
        ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",),
        (),
    ),
    "an empty body": (("Content-Length: 0",), ()),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_upgrade(pair: Gateway, name: str) -> None:
    lines, without = ACCEPTED[name]
    with ask(pair, *lines, without=without) as wire:
        status, headers, _ = head_of(wire)
    assert status == 101
    assert headers["sec-websocket-accept"] == "s3pplmbitxaq9kygzzhzrbk+xoo="
    assert "sec-websocket-extensions" not in headers
    assert "sec-websocket-protocol" not in headers


def test_the_subprotocol_may_be_offered_in_several_lines(pair: Gateway) -> None:
    with ask(pair, "Sec-WebSocket-Protocol: bearer.x, other", "Sec-WebSocket-Protocol: podpair.v1") as wire:
        status, headers, _ = head_of(wire)
    assert (status, headers["sec-websocket-protocol"]) == (101, "podpair.v1")


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
REFUSED: dict[str, tuple[int, str, tuple[str, ...], tuple[str, ...], str]] = {
    "HTTP/1.0": (426, "HTTP/1.1", (), (), "GET /v1/ws HTTP/1.0"),
    "another version": (426, "speaks 13", ("Sec-WebSocket-Version: 8",), ("Sec-WebSocket-Version",), ""),
    "no version": (426, "speaks 13", (), ("Sec-WebSocket-Version",), ""),
    "two versions": (400, "sec-websocket-version", ("Sec-WebSocket-Version: 13",), (), ""),
    "no key": (400, "16 bytes", (), ("Sec-WebSocket-Key",), ""),
    "two keys": (400, "sec-websocket-key", (KEY,), (), ""),
    "a short key": (400, "16 bytes", ("Sec-WebSocket-Key: c2hvcnQ=",), ("Sec-WebSocket-Key",), ""),
    "a key that is no base64": (400, "16 bytes", ("Sec-WebSocket-Key: !!!",), ("Sec-WebSocket-Key",), ""),
    "Connection without Upgrade": (400, "Connection", ("Connection: keep-alive",), ("Connection",), ""),
    "another upgrade": (426, "WebSocket", ("Upgrade: h2c",), ("Upgrade",), ""),
    "two origins": (400, "origin", ("Origin: http://a.example",) * 2, (), ""),
    "two hosts": (400, "", ("Host: elsewhere.example",), (), ""),
    "no host": (400, "", (), ("Host",), ""),
    "a body": (400, "body", ("Content-Length: 5",), (), ""),
    "a body in chunks": (400, "body", ("Transfer-Encoding: chunked",), (), ""),
    "POST": (405, "POST", (), (), "POST /v1/ws HTTP/1.1"),
    "HEAD": (405, "", (), (), "HEAD /v1/ws HTTP/1.1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_upgrade_that_is_refused(pair: Gateway, name: str) -> None:
    status, said, lines, without, start = REFUSED[name]
    if name == "two origins":
        lines = tuple(f"Origin: {pair.url}" for _ in lines)
    with ask(pair, *lines, without=without, start=start or "GET /v1/ws HTTP/1.1") as wire:
        found, headers, body = head_of(wire)
        while len(body) < int(headers.get("content-length", 0)) and name != "HEAD":
            body += wire.recv(65_536)
    assert found == status, body
    if said:
        assert said in json.loads(body)["error"]["message"]
    if status == 426:
        assert headers["upgrade"] == "websocket"
        assert headers["sec-websocket-version"] == "13"
        assert headers["connection"] == "upgrade"


FRAMES: dict[str, tuple[bytes, int]] = {
    "not masked": (frame(TEXT, b'{"type":"cancel","id":"x"}', masked=False), 1002),
    "a reserved bit": (frame(TEXT, b"x", bits=0x40), 1002),
    "a reserved opcode": (frame(3), 1002),
    "a large ping": (frame(PING, b"x" * 126), 1002),
    "a fragmented ping": (frame(PING, fin=False), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a text within an empty fragment": (frame(TEXT, fin=False) + frame(TEXT, b"{}"), 1002),
    "not UTF-8": (frame(TEXT, b'"\xff"'), 1007),
    "a close code that may not be sent": (frame(CLOSE, (1006).to_bytes(2, "big")), 1002),
    "a close code of nobody's": (frame(CLOSE, (5000).to_bytes(2, "big")), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close whose reason is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a good close": (frame(CLOSE, (4321).to_bytes(2, "big") + b"weg"), 4321),
    "a close without a code": (frame(CLOSE), 1000),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_frames_that_end_the_connection(pair: Gateway, name: str) -> None:
    data, code = FRAMES[name]
    with ask(pair) as wire:

        def ended() -> bytes:
            status, _, behind = head_of(wire)
            assert status == 101
            wire.sendall(data)
            while piece := wire.recv(65_536):
                behind += piece
            return behind

        behind = await asyncio.to_thread(ended)
    # The last frame is the close frame, from the gateway: not masked.
    at = behind.rindex(b"\x88")
    assert int.from_bytes(behind[at + 2 : at + 4], "big") == code
    assert len(behind) == at + 2 + behind[at + 1]
