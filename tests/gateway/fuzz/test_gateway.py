"""A gateway that is sent anything goes on serving: no exception in its log, no session left behind, good requests answered."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from gateway.conftest import Client, Connect, kafka_of, soon
from gateway.fake_model import FakeModel
from gateway.fuzz.made import examples, frame, frames, heads, records
from harness.pair import Gateway, token, until

UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer %b\r\n\r\n"
)
SECONDS = 60.0  # for an answer that has to come
JWT = token(sid="fuzzed")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    model = FakeModel()
    config = {
        "kafka": {"embedded": True},
        "inference": {"url": model.url},
        "requests": {"attempts": 1},
        "limits": {"message_bytes": 65_536},
    }
    running = Gateway(tmp_path_factory.mktemp("fuzz"), config)
    running.wait_ready()
    yield running
    running.stop()
    model.close()


class Wire:
    """A WebSocket's connection, made anew when the gateway has ended it."""

    def __init__(self, gateway: Gateway) -> None:
        host, port = gateway.url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self._socket: socket.socket | None = None
        self.made = 0

    def open(self) -> socket.socket:
        if self._socket is None:
            self.made += 1
            made = self._socket = socket.create_connection(self._address, timeout=SECONDS)
            made.sendall(UPGRADE % JWT.encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                more = made.recv(1 << 12)
                assert more, answer
                answer += more
            assert answer.startswith(b"HTTP/1.1 101"), answer
        return self._socket

    def send(self, data: bytes, last: bytes | None) -> None:
        """Send frames, and wait until they are read; `last` ends the connection."""
        try:
            there = self.open()
            there.sendall(data + frame(9, b"read?"))
            tail = b""
            while b"read?" not in tail:
                more = there.recv(1 << 16)
                if not more:
                    raise ConnectionError
                tail = tail[-16:] + more
            if last is not None:
                there.sendall(last)
                raise ConnectionError
        except ConnectionError:
            self.close()

    def once(self, data: bytes) -> None:
        """Send what is not a WebSocket's, and read until the end."""
        with socket.create_connection(self._address, timeout=SECONDS) as there, contextlib.suppress(ConnectionError):
            there.sendall(data)
            there.shutdown(socket.SHUT_WR)
            there.settimeout(5)
            with contextlib.suppress(TimeoutError):
                while there.recv(1 << 16):
                    pass

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@pytest.fixture
def wire(gateway: Gateway) -> Iterator[Wire]:
    made = Wire(gateway)
    yield made
    made.close()


def check(gateway: Gateway) -> None:
    """It is as it was before."""
    until(lambda: gateway.metric("sessions") == 0, lambda: gateway.metric("sessions"))
    until(lambda: gateway.metric("direct_in_flight") == 0, lambda: gateway.metric("direct_in_flight"))
    assert gateway.process.poll() is None
    assert gateway.get("/readyz")[0] == 200
    # A dead letter, say, is an error that it tells of; an exception in the log is one that nobody expected.
    bad = [line for line in gateway.lines if any(sign in line for sign in ("exc_info", "Traceback", "never retrieved"))]
    assert bad == []


def test_frames(gateway: Gateway, wire: Wire) -> None:
    @examples(0.35, each=20)
    @given(frames)
    def send(found: tuple[list[bytes], bytes | None]) -> None:
        wire.send(b"".join(found[0]), found[1])

    send()
    # Neither all of it good, nor all of it bad.
    assert wire.made > 1
    for metric in ("requests_total", "frames_invalid_total"):
        until(lambda: gateway.metric(metric) > 0, lambda: metric)  # noqa: B023 - it is over before the next
    wire.close()
    check(gateway)


def test_heads(gateway: Gateway, wire: Wire) -> None:
    @examples(0.01)
    @given(heads(JWT))
    def send(head: bytes) -> None:
        wire.once(head)

    send()
    check(gateway)


async def test_records(gateway: Gateway, connect: Connect) -> None:
    """On both topics; whoever waits for the session's gets what comes, in order, and the good ones behind it."""
    producer = Producer({"bootstrap.servers": kafka_of(gateway), "partitioner": "murmur2_random", "log_level": 0})
    client = await connect(gateway, sid="fuzzed")
    topics = st.sampled_from(["podpair.results", "podpair.requests"])

    @examples(0.14, each=10)
    @given(st.lists(st.tuples(topics, records), min_size=10, max_size=10))
    def write(found: list[tuple[str, tuple[bytes | None, list[Any]]]]) -> None:
        for topic, (value, headers) in found:
            producer.produce(topic, value, "fuzzed", headers=headers)
        assert producer.flush(SECONDS) == 0

    reading = asyncio.create_task(read(client))
    await asyncio.to_thread(write)
    producer.produce("podpair.results", json.dumps("the end"), "fuzzed")
    assert await asyncio.to_thread(producer.flush, SECONDS) == 0
    await asyncio.wait_for(reading, SECONDS)
    await soon(lambda: gateway.metric("queue_in_flight") == 0)
    await client.infer("good", model="fake", data=[1.0, 2.0])
    assert (await client.answer("good"))["type"] == "result"
    await client.socket.close()
    await asyncio.to_thread(check, gateway)


async def read(client: Client) -> None:
    """Until the end; each position comes once, and in order."""
    last = -1
    while True:
        event = await client.next()
        if "position" in event:
            offset = int(event["position"].rsplit(".", 1)[1])
            assert offset > last
            last = offset
        if event.get("data") == "the end":
            return
