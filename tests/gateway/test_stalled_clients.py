"""Clients that stand there without getting on are cut off, in whatever phase; others are not. Raw sockets: no library would."""

import asyncio
import contextlib
import json
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.conftest import UPGRADE, Connect, kafka_of
from gateway.fake_model import FakeModel
from harness.certificates import Authority
from harness.pair import Gateway, token
from harness.waiting import soon, until

pytestmark = pytest.mark.process

SOON = {"head_seconds": 2, "stall_seconds": 2, "keep_alive_seconds": 2, "tls_handshake_seconds": 2}
BEARER = f"Authorization: Bearer {token(sid='stalled')}\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = f"POST /v1/infer HTTP/1.1\r\nHost: x\r\n{BEARER}".encode()
V2 = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'


def wire(gateway: Gateway, size: int | None = None) -> socket.socket:
    """A connection; `size`: what the system takes for it unread."""
    host, port = gateway.url.removeprefix("https://").removeprefix("http://").split(":")
    made = socket.socket()
    if size is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    made.settimeout(60)
    made.connect((host, int(port)))
    return made


def rest(made: socket.socket) -> bytes:
    """All that comes until the end, whichever it is."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := made.recv(65_536):
            data += piece
    return data


def answer(made: socket.socket) -> bytes:
    """One short answer; the connection stays."""
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        piece = made.recv(65_536)
        assert piece, data
        data += piece
    return data


@pytest.fixture(scope="module")
def model() -> Iterator[FakeModel]:
    model = FakeModel()
    yield model
    model.close()


@pytest.fixture(scope="module")
def gateway(model: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {"http": SOON, "kafka": {"embedded": True}, "inference": {"url": model.url, "timeout_seconds": 120}}
    gateway = Gateway(tmp_path_factory.mktemp("stalled"), config)
    gateway.wait_ready()
    yield gateway
    gateway.kill()


HEADS: dict[str, tuple[list[bytes], bytes, str]] = {
    "nothing at all": ([], b"408", "head"),
    "half a head": ([b"GET /healthz HTTP/1.1\r\nHo"], b"408", "head"),
    "half a request line": ([b"GET /heal"], b"408", "head"),
    "a head without its end": ([GET[:-2]], b"408", "head"),
    "half an upgrade": ([b"GET /v1/ws HTTP/1.1\r\nUpgrade: websocket\r\n"], b"408", "head"),
    "half a head after a request": ([GET, b"GET /hea"], b"408", "head"),
    "no other request": ([GET], b"", "idle"),
    "no body": ([POST + b"Content-Length: 1000\r\n\r\n"], b"408", "body"),
    "half a body": ([POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 500], b"408", "body"),
    "no last chunk": ([POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}}\r\n"], b"408", "body"),
    "half a chunk": ([POST + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{}"], b"408", "body"),
}


@pytest.mark.parametrize("name", HEADS)
def test_who_sends(gateway: Gateway, name: str) -> None:
    pieces, status, reason = HEADS[name]
    before = gateway.metric("connections_closed_total", reason=reason)
    with wire(gateway) as made:
        for index, piece in enumerate(pieces):
            made.sendall(piece)
            if piece == GET:
                assert answer(made).startswith(b"HTTP/1.1 200"), index
        end = rest(made)
    assert end.startswith(b"HTTP/1.1 " + status if status else b""), end
    assert bool(end) is bool(status)
    assert gateway.metric("connections_closed_total", reason=reason) == before + 1


def test_half_a_head_that_comes_before_the_answer(gateway: Gateway, model: FakeModel) -> None:
    """It is no part of the request before it: the connection is not idle once that is answered."""
    before = gateway.metric("connections_closed_total", reason="head")
    asked = len(model.asked)
    model.open.clear()
    head = f"POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\n{BEARER}Content-Length: {len(V2)}\r\n\r\n"
    with wire(gateway) as made:
        made.sendall(head.encode() + V2)
        until(lambda: len(model.asked) == asked + 1)
        made.sendall(b"GET /hea")
        with wire(gateway) as other:  # who is answered later than that was read
            other.sendall(GET)
            assert answer(other).startswith(b"HTTP/1.1 200")
        model.open.set()
        assert answer(made).startswith(b"HTTP/1.1 200")
        end = rest(made)
    assert end.startswith(b"HTTP/1.1 408"), end
    assert gateway.metric("connections_closed_total", reason="head") == before + 1


DRIPS: dict[str, tuple[bytes, bytes]] = {
    "a head": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", b"x"),
    "a head, line by line": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"X:x\r\n"),
    "a body": (POST + b"Content-Length: 100000\r\n\r\n", b"x"),
    "a body in chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("name", DRIPS)
def test_who_sends_a_byte_now_and_then(gateway: Gateway, name: str) -> None:
    start, drop = DRIPS[name]
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.05):
                made.sendall(drop)

    with wire(gateway) as made:
        made.sendall(start)
        dripping = threading.Thread(target=drip)
        dripping.start()
        end = rest(made)
        over.set()
        dripping.join()
    assert end.startswith(b"HTTP/1.1 408") or end == b"", end  # a reset may have taken it away


def test_who_does_not_read_its_answer(gateway: Gateway, model: FakeModel) -> None:
    before = gateway.metric("connections_closed_total", reason="answer")
    model.answer = (200, json.dumps({"outputs": [], "id": "x" * 30_000_000}))
    head = f"POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\n{BEARER}Content-Length: {len(V2)}\r\n\r\n"
    with wire(gateway, 16_384) as made:
        made.sendall(head.encode() + V2)
        until(lambda: gateway.metric("connections_closed_total", reason="answer") == before + 1)
        assert len(rest(made)) < 30_000_000
    model.reset()
    until(lambda: gateway.metric("connections", state="answer") == 0)  # counted once a moment


def test_who_takes_its_answer_bit_by_bit_has_all_of_it(gateway: Gateway, model: FakeModel) -> None:
    """Longer than the time limit in all, but never without getting on: each bit is read once another client was cut off."""
    size = 12_000_000
    model.answer = (200, json.dumps({"outputs": [], "id": "x" * size}))
    head = f"POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\n{BEARER}Content-Length: {len(V2)}\r\n\r\n"
    with wire(gateway, 65_536) as made:
        made.sendall(head.encode() + V2)
        taken = 0
        for _ in range(3):
            with wire(gateway) as idle:
                idle.settimeout(0.05)
                while True:
                    try:
                        assert idle.recv(100).startswith(b"HTTP/1.1 408")
                        break
                    except TimeoutError:
                        taken += len(made.recv(50_000))
        while taken < size:
            piece = made.recv(1 << 20)
            assert piece, taken
            taken += len(piece)
    model.reset()


async def test_sessions_are_not_bounded_by_the_times_of_requests(
    gateway: Gateway, connect: Connect, push: Any, http: aiohttp.ClientSession
) -> None:
    client = await connect(gateway, sid="still")
    async with http.get(
        gateway.url + "/v1/events", headers={"Authorization": f"Bearer {token(sid='events')}"}
    ) as events:
        assert (await events.content.readline()).startswith(b"id: ")
        await soon(lambda: gateway.metric("connections", state="websocket") == 1)  # counted once a moment
        await soon(lambda: gateway.metric("connections", state="events") == 1)
        for _ in range(2):
            with wire(gateway) as made:
                assert (await asyncio.to_thread(rest, made)).startswith(b"HTTP/1.1 408")
        for session in ("user/still", "user/events"):
            push(kafka_of(gateway), session, b'"there"')
        assert (await client.event("push"))["data"] == "there"
        async with asyncio.timeout(60):
            while b'"there"' not in await events.content.readline():
                pass
    await client.socket.close()
    await soon(
        lambda: gateway.metric("connections", state="events") + gateway.metric("connections", state="websocket") == 0
    )


@pytest.fixture
def bounded(model: FakeModel, start_gateway: Callable[..., Gateway]) -> Gateway:
    gateway = start_gateway(
        {
            "kafka": {"embedded": True},
            "inference": {"url": model.url, "timeout_seconds": 120},
            "limits": {"connections": 4, "max_direct_in_flight": 64},
        }
    )
    gateway.wait_ready()
    return gateway


async def test_there_is_room_for_so_many_connections_that_are_no_sessions(
    bounded: Gateway, model: FakeModel, connect: Connect
) -> None:
    sessions = [await connect(bounded, sid=f"s{n}") for n in range(6)]
    idle = []
    for _ in range(4):
        made = wire(bounded)
        made.sendall(GET)
        await asyncio.to_thread(answer, made)
        idle.append(made)
    with wire(bounded) as newer:
        newer.sendall(GET)
        assert (await asyncio.to_thread(answer, newer)).startswith(b"HTTP/1.1 200")
        assert rest(idle[0]) == b""  # the one that was idle for longest made room
        idle[3].sendall(GET)
        assert (await asyncio.to_thread(answer, idle[3])).startswith(b"HTTP/1.1 200")
    for made in idle:
        made.close()
    assert bounded.metric("connections_closed_total", reason="evicted") >= 1

    model.open.clear()
    before = len(model.asked)
    head = f"POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\n{BEARER}Content-Length: {len(V2)}\r\n\r\n"
    busy = [wire(bounded) for _ in range(4)]
    for made in busy:
        made.sendall(head.encode() + V2)
    await soon(lambda: len(model.asked) == before + 4)
    for _ in range(3):
        with wire(bounded) as refused:
            refused.sendall(GET)
            said = await asyncio.to_thread(rest, refused)
        assert said.startswith(b"HTTP/1.1 503"), said
        assert b"\r\nRetry-After: 1\r\n" in said
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
    model.open.set()
    for made in busy:  # not one of them was closed for another
        assert (await asyncio.to_thread(answer, made)).startswith(b"HTTP/1.1 200")
        made.close()
    for session in sessions:
        await session.infer("r", model="fake", data=[1, 2])
        assert (await session.answer("r"))["type"] == "result"
    assert bounded.metric("connections_refused_total", reason="connections") == 3
    refusals = [record for record in bounded.log if "no room is left" in record["message"]]
    assert len(refusals) == 1


def descriptors(gateway: Gateway) -> int:
    return len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))


async def test_the_last_descriptors_are_kept(bounded: Gateway, connect: Connect) -> None:
    client = await connect(bounded, sid="kept")
    hard = resource.prlimit(bounded.pid, resource.RLIMIT_NOFILE)[1]
    used = descriptors(bounded)
    # A quarter is kept: there is room for one more, and half of the limit.
    resource.prlimit(bounded.pid, resource.RLIMIT_NOFILE, ((used + 2) * 4 // 3, hard))
    held: list[socket.socket] = []
    async with asyncio.timeout(60):
        while True:
            made = wire(bounded)
            held.append(made)
            made.sendall(GET)
            said = await asyncio.to_thread(made.recv, 12)
            if said != b"HTTP/1.1 200":
                break
    assert said == b"HTTP/1.1 503"
    for route in ("direct", "queue"):
        await client.infer(route, model="fake", data=[1, 2], route=route)
        assert (await client.answer(route))["type"] == "result"
    assert len([record for record in bounded.log if "no file descriptors" in record["message"]]) == 1
    resource.prlimit(bounded.pid, resource.RLIMIT_NOFILE, (hard, hard))
    for made in held:
        made.close()
    assert bounded.metric("connections_refused_total", reason="descriptors") >= 1


def test_where_there_are_none_clients_wait_and_are_not_reset(bounded: Gateway) -> None:
    hard = resource.prlimit(bounded.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(bounded.pid, resource.RLIMIT_NOFILE, (3, hard))  # below what it has: accept fails
    with wire(bounded) as made:
        made.sendall(GET)
        bounded.wait_for(lambda line: "no file descriptors are left" in line)
        resource.prlimit(bounded.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert answer(made).startswith(b"HTTP/1.1 200")


def test_as_many_descriptors_are_used_as_the_system_allows(bounded: Gateway) -> None:
    soft, hard = resource.prlimit(bounded.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


@pytest.fixture
def secured(
    model: FakeModel, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> Callable[[dict[str, Any], dict[str, Any]], Gateway]:
    """A gateway whose public port speaks TLS, with more of `http` and these `limits`."""

    def start(http: dict[str, Any], limits: dict[str, Any]) -> Gateway:
        authority = Authority("podpair test clients")
        issued = authority.issue("gateway", ("127.0.0.1",))
        (tmp_path / "tls.crt").write_text(issued.certificate)
        (tmp_path / "tls.key").write_text(issued.key)
        files = {"certificate_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
        config = {"kafka": {"embedded": True}, "inference": {"url": model.url}, "limits": limits}
        gateway = start_gateway({"http": http | files, **config})
        gateway.context = ssl.create_default_context(cadata=authority.certificate)
        gateway.wait_ready()
        return gateway

    return start


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_who_does_not_finish_the_tls_handshake(secured: Callable[..., Gateway], sent: bytes) -> None:
    gateway = secured(SOON, {})
    assert gateway.context is not None
    with wire(gateway) as made:
        made.sendall(sent)
        rest(made)  # returns once it was cut off
    until(lambda: gateway.metric("connections_closed_total", reason="tls_handshake") == 1)
    until(lambda: gateway.metric("connections", state="tls_handshake") == 0)
    with wire(gateway) as made, gateway.context.wrap_socket(made, server_hostname="127.0.0.1") as within:
        within.sendall(b"GET /hea")
        assert within.recv(100).startswith(b"HTTP/1.1 408")


def test_who_is_at_the_tls_handshake_counts(secured: Callable[..., Gateway]) -> None:
    gateway = secured({}, {"connections": 4})
    held = [wire(gateway) for _ in range(4)]
    until(lambda: gateway.metric("connections", state="tls_handshake") == 4)
    with wire(gateway) as refused:
        assert rest(refused) == b""  # what would be said in plain text means nothing there
    assert gateway.metric("connections_refused_total", reason="connections") == 1
    for made in held:
        made.close()
    until(lambda: gateway.metric("connections", state="tls_handshake") == 0)


async def test_who_does_not_answer_the_close_frame_is_cut_off(gateway: Gateway) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    with wire(gateway) as made:
        bearer = f"Authorization: Bearer {token(sid='mute')}\r\n"
        made.sendall(f"GET /v1/ws HTTP/1.1\r\nHost: x\r\n{bearer}{head}\r\n".encode())
        assert (await asyncio.to_thread(made.recv, 12)) == b"HTTP/1.1 101"
        made.sendall(b"\x81\x05hello")  # not masked
        end = await asyncio.to_thread(rest, made)
        assert b"\x88" in end
        assert b"must be masked" in end
        await soon(lambda: gateway.metric("connections", state="websocket") == 0)
