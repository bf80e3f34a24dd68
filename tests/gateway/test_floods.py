"""One client's flood of frames holds nobody up, and what is good for nothing ends its connection.

How long others wait is counted in frames of the flood that are taken before theirs, not in seconds.
"""

import asyncio
import json
import socket
from typing import Any

import aiohttp
import pytest

from gateway.conftest import PATIENCE, Connect
from gateway.core.test_frame_reader import frame
from harness.pair import Gateway, token
from podpair.gateway.core.frame_reader import BINARY, CONTINUATION, PING, PONG, TEXT
from podpair.gateway.http.ws_protocol import FRAMES, Heartbeats, StreamCallbacks, WebSocketStream

TINY = frame(TEXT, b"x")
FLOODS: dict[str, tuple[bytes, bytes]] = {  # what comes first, then what is repeated
    "tiny messages": (b"", TINY),
    "empty messages": (b"", frame(TEXT)),
    "empty binary messages": (b"", frame(BINARY)),
    "fragments of a byte": (frame(TEXT, b"x", fin=False), frame(CONTINUATION, b"x", fin=False)),
    "empty fragments": (frame(TEXT, fin=False), frame(CONTINUATION, fin=False)),
    "pings": (b"", frame(PING, b"there?")),
    "pongs": (b"", frame(PONG, b"yes")),
}


class Server:
    """Streams over real sockets, in this process: what they take is noted in `taken`, in its order."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.streams: dict[str, WebSocketStream] = {}
        self.clients: list[socket.socket] = []
        self.lost = asyncio.Event()

    async def connect(self, name: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        heartbeats = Heartbeats(1000)

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                server.streams[name] = made = WebSocketStream(
                    transport,  # type: ignore[arg-type]
                    heartbeats,
                    most=1 << 20,
                    callbacks=StreamCallbacks(
                        on_message=lambda message: server.taken.append(name),
                        on_lost=server.lost.set,
                        on_broken=lambda code, why: made.close(code, why),
                    ),
                )
                transport.set_protocol(made)  # type: ignore[attr-defined]
                made.resume()

        server = self
        self.clients.append(theirs)
        await asyncio.get_running_loop().create_connection(Protocol, sock=ours)
        return theirs


@pytest.fixture
async def server() -> Any:
    made = Server()
    yield made
    for stream in made.streams.values():
        stream.transport.abort()
    for client in made.clients:
        client.close()
    await asyncio.sleep(0)


class Turns:
    """Counts the frames that a stream takes in each turn of the loop, by its reader."""

    def __init__(self, stream: WebSocketStream) -> None:
        self.most = self.now = self.all = 0
        reader: Any = stream._reader
        outer = self

        class Counted:
            def __getattr__(self, name: str) -> Any:
                return getattr(reader, name)

            def next(self) -> Any:
                found = reader.next()
                if found is not None:
                    outer.took()
                return found

            def texts(self, most: int, size: int) -> list[str]:
                found: list[str] = reader.texts(most, size)
                for _ in found:
                    outer.took()
                return found

            def whole_text(self, data: bytes) -> str | None:
                found: str | None = reader.whole_text(data)
                if found is not None:
                    outer.took()
                return found

        stream._reader = Counted()  # type: ignore[assignment]

    def took(self) -> None:
        self.now += 1
        self.all += 1
        self.most = max(self.most, self.now)

    def turned(self) -> None:
        self.now = 0


@pytest.mark.parametrize("name", FLOODS)
async def test_so_many_frames_a_turn(server: Server, name: str) -> None:
    first, repeated = FLOODS[name]
    loop = asyncio.get_running_loop()
    flooder, other = await server.connect("flood"), await server.connect("other")
    turns = Turns(server.streams["flood"])
    count = 20_000
    flooding = asyncio.create_task(loop.sock_sendall(flooder, first + repeated * count))
    dropping = asyncio.create_task(_drop(flooder))
    asked = waited = 0
    async with asyncio.timeout(PATIENCE):
        while turns.all < count:
            sent, before = len(server.taken), turns.all
            await loop.sock_sendall(other, TINY)
            asked += 1
            while "other" not in server.taken[sent:]:
                await asyncio.sleep(0)
                turns.turned()
            waited = max(waited, turns.all - before)
        await flooding
    dropping.cancel()
    await asyncio.gather(dropping, return_exceptions=True)
    assert turns.most <= 2 * FRAMES  # what came in this turn may follow what waited for it
    assert waited <= 10 * FRAMES  # a few turns: its bytes are read, it is called
    assert asked >= count // (10 * FRAMES)


async def _drop(wire: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(wire, 65_536):
        pass


async def test_a_frame_that_is_a_turn_s_work_is_taken_alone(server: Server) -> None:
    loop = asyncio.get_running_loop()
    flooder = await server.connect("flood")
    turns = Turns(server.streams["flood"])
    flooding = asyncio.create_task(loop.sock_sendall(flooder, frame(TEXT, b"x" * 40_000) * 100))
    async with asyncio.timeout(PATIENCE):
        while turns.all < 100:
            await asyncio.sleep(0)
            turns.turned()
    await flooding
    assert turns.most <= 4


async def test_pongs_do_not_pile_up_for_a_client_that_does_not_read(server: Server) -> None:
    loop = asyncio.get_running_loop()
    flooder = await server.connect("flood")
    stream = server.streams["flood"]
    turns, count, most = Turns(stream), 50_000, 0
    payload = b"p" * 125
    sending = asyncio.create_task(loop.sock_sendall(flooder, frame(PING, payload) * count))
    async with asyncio.timeout(PATIENCE):
        while turns.all < count:
            await asyncio.sleep(0)
            turns.turned()
            most = max(most, stream.transport.get_write_buffer_size())
    await sending
    assert most <= 128 * 1024
    # Each that is answered stands for those before it; the last is, once there is room.
    await loop.sock_sendall(flooder, frame(PING, b"last"))
    found = b""
    async with asyncio.timeout(PATIENCE):
        while b"\x8a\x04last" not in found:
            found = found[-10:] + await loop.sock_recv(flooder, 65_536)
            stream.check_heartbeat()


async def test_what_was_sent_before_the_end_is_taken(server: Server) -> None:
    loop = asyncio.get_running_loop()
    client = await server.connect("leaver")
    await loop.sock_sendall(client, TINY * 5000)
    client.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(PATIENCE):
        await server.lost.wait()
    assert len(server.taken) == 5000


INVALID: dict[str, Any] = {
    "no JSON": "hello",
    "empty": "",
    "an unknown type": {"type": "teach"},
    "binary": b"\x93\x00",
    "a bad token": {"type": "refresh", "token": "noise"},
}


@pytest.mark.parametrize("name", INVALID)
async def test_too_many_invalid_frames_end_the_connection(pair: Gateway, connect: Connect, name: str) -> None:
    other = await connect(pair)
    client = await connect(pair)
    for _ in range(100):
        await client.send(INVALID[name])
        assert (await client.event("error"))["code"] in ("invalid", "unauthorized")
    await client.lives()
    await client.send(INVALID[name])
    assert await client.closed() == 1008
    await other.lives()
    again = await connect(pair, params={"resume": client.welcome["resume"]})
    await again.lives()


async def test_a_flood_of_invalid_frames_is_not_taken_to_its_end(
    pair: Gateway, connect: Connect, http: aiohttp.ClientSession
) -> None:
    before = pair.metric("frames_invalid_total")
    other = await connect(pair)
    head = {"Authorization": f"Bearer {token()}"}
    async with http.ws_connect(pair.ws, headers=head) as flooder:
        assert json.loads((await flooder.receive(PATIENCE)).data)["type"] == "welcome"
        transport = flooder._conn.transport  # type: ignore[union-attr]
        transport.write(TINY * 200_000)
        await other.lives()
        while (message := await flooder.receive(PATIENCE)).type is aiohttp.WSMsgType.TEXT:
            assert json.loads(message.data)["code"] == "invalid"
        assert flooder.close_code == 1008
    assert pair.metric("frames_invalid_total") - before <= 101
