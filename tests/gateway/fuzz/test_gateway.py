"""A gateway that is sent anything goes on serving: no exception in its log, no session left behind, good requests answered."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from gateway.conftest import Client, Connect, kafka_of
from gateway.fake_model import FakeModel
from gateway.fuzz.made import examples, frame, frames, heads, records
from harness.pair import Gateway, token
from harness.waiting import until

UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer %b\r\n\r\n"
)
SECONDS = 60.0  # for an answer that has to come
JWT = token(sid="fuzzed", exp=int(time.time()) + 7 * 86_400)  # a million take longer than an hour
SESSION = "user/fuzzed"


#: A module that Python loads before the gateway: with it the words below raise what nobody expects.
PLANTED = """
import podpair.gateway.core.protocol as protocol
import podpair.gateway.core.records as records

def planted(read):
    def instead(given, *more):
        if given is not None and ("planted" in given if isinstance(given, str) else b"planted" in given):
            raise ZeroDivisionError("planted")
        return read(given, *more)
    return instead

protocol.decode, protocol.decode_infer = planted(protocol.decode), planted(protocol.decode_infer)
records.request_of_record = planted(records.request_of_record)
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Gateway]]:
    """`start(**options)`: a gateway that is ready."""
    model = FakeModel()
    running: list[Gateway] = []
    config = {
        "kafka": {"embedded": True},
        "inference": {"url": model.url},
        "requests": {"max_attempts": 1},
        "limits": {"message_bytes": 65_536},
    }

    def begin(**options: Any) -> Gateway:
        running.append(Gateway(tmp_path_factory.mktemp("fuzz"), config, **options))
        running[-1].wait_ready()
        return running[-1]

    yield begin
    for gateway in running:
        gateway.stop()
    model.close()


@pytest.fixture(scope="module")
def gateway(start: Callable[..., Gateway]) -> Gateway:
    return start()


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


def check(gateway: Gateway, patience: float = SECONDS) -> None:
    """It is as it was before."""
    for gauge in ("sessions", "direct_in_flight", "queue_in_flight"):
        left = gauge
        until(lambda: gateway.metric(left) == 0, lambda: f"{left}: {gateway.metric(left)}", patience)  # noqa: B023
    assert gateway.process.poll() is None
    until(lambda: gateway.get("/readyz")[0] == 200, "it is ready", patience)
    assert unexpected(gateway) == []


def unexpected(gateway: Gateway) -> list[str]:
    """A dead letter, say, is an error that it tells of; an exception in the log is one that nobody expected."""
    return [line for line in gateway.lines if any(s in line for s in ("exc_info", "Traceback", "never retrieved"))]


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


async def test_records(start: Callable[..., Gateway], connect: Connect) -> None:
    """On both topics; whoever waits for the session's gets what comes, in order, and the good ones behind it."""
    gateway = await asyncio.to_thread(start)  # of its own: what it has worked on is counted
    client = await connect(gateway, jwt=JWT)
    topics = st.sampled_from(["podpair.results", "podpair.requests"])
    reading = asyncio.create_task(read(client))
    producer = producer_for(gateway)
    asked = 0

    def worked(**labels: str) -> float:
        return gateway.metric("queue_requests_total", **labels)

    @examples(0.14, each=10)
    @given(st.lists(st.tuples(topics, records), min_size=10, max_size=10))
    def write(found: list[tuple[str, tuple[bytes | None, list[Any]]]]) -> None:
        nonlocal asked
        for topic, (value, headers) in found:
            producer.produce(topic, value, SESSION, headers=headers)
            asked += topic == "podpair.requests"
        assert producer.flush(SECONDS) == 0
        assert not reading.done()

    try:
        await asyncio.to_thread(write)
        # Each record has been dealt with, and some were good: the model answered.
        await asyncio.to_thread(
            until, lambda: worked() == asked, lambda: f"{worked()} of {asked}, {unexpected(gateway)[:3]}", SECONDS
        )
        assert await asyncio.to_thread(worked, outcome="result") > 0
        producer.produce("podpair.results", json.dumps("the end"), SESSION)
        assert await asyncio.to_thread(producer.flush, SECONDS) == 0
        await asyncio.wait_for(reading, SECONDS)
    finally:
        reading.cancel()
    await client.infer("good", model="fake", data=[1.0, 2.0])
    assert (await client.answer("good"))["type"] == "result"
    await client.socket.close()
    await asyncio.to_thread(check, gateway)


async def read(client: Client) -> None:
    """Until the end, however long that takes; each position comes once, and in order."""
    last = -1
    while True:
        message = await client.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        event = json.loads(message.data)
        if "position" in event:
            offset = int(event["position"].rsplit(".", 1)[1])
            assert offset > last
            last = offset
        if event.get("data") == "the end":
            return


def producer_for(gateway: Gateway) -> Producer:
    """Writes to its topics as any service could."""
    return Producer({"bootstrap.servers": kafka_of(gateway), "partitioner": "murmur2_random", "log_level": 0})


def test_what_is_planted_is_found(start: Callable[..., Gateway], tmp_path: Path) -> None:
    """A session that is left behind, and an exception on either way: of a frame, of a record."""
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    planted = start(env={"PYTHONPATH": str(tmp_path)})
    wire = Wire(planted)
    wire.open()
    with pytest.raises(AssertionError, match="sessions: 1"):
        check(planted, patience=0.5)
    wire.close()
    check(planted)

    wire.send(frame(1, b'"planted"'), None)
    until(lambda: len(unexpected(planted)) == 1, lambda: planted.lines)
    producer = producer_for(planted)
    producer.produce("podpair.requests", "planted", SESSION)
    assert producer.flush(SECONDS) == 0
    until(lambda: len(unexpected(planted)) == 2, lambda: planted.lines)
    assert all("ZeroDivisionError: planted" in line for line in unexpected(planted))
    # The record is one of those that were dealt with all the same: it would come again after each restart.
    until(lambda: planted.metric("queue_requests_total", outcome="internal") == 1)
    wire.close()
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        check(planted)
