"""A client that takes nothing harms only itself: it is closed with 3008, and resumes with nothing missing."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from gateway.conftest import PATIENCE, UPGRADE, Connect, kafka_of, resuming, small
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.waiting import soon, until

RECORDS, ROUND, SIZE = 1200, 20, 20_000


async def test_a_client_that_reads_nothing(
    real_gateway: Callable[..., Gateway], broker: Broker, names: dict[str, Any], connect: Connect
) -> None:
    pair = real_gateway()
    http, slow = await small(pair, "slow")
    quick = await connect(pair, sid="quick")
    connection = slow.socket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.pause_reading()
    producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random"})
    filling = "x" * SIZE
    for n in range(RECORDS):
        for sid in ("slow", "quick"):
            producer.produce(names["results"]["topic"], json.dumps({"n": n, "filling": filling}), f"user/{sid}")
        if n % ROUND == ROUND - 1:  # so much at a time that `quick`, which reads on, is never slow
            assert await asyncio.to_thread(producer.flush, 30) == 0
            received = [(await quick.event("push"))["data"]["n"] for _ in range(ROUND)]
            assert received == list(range(n - ROUND + 1, n + 1))
    await quick.lives()

    await soon(lambda: pair.metric("sessions_closed_total", reason="slow"))
    connection.transport.resume_reading()
    assert await slow.closed() == 3008
    seen = [event for event in slow.skipped if event["type"] == "push"]
    await http.close()

    last = seen[-1]["position"] if seen else slow.welcome["position"]
    again = await connect(pair, sid="slow", params=resuming(slow, last))
    numbers = [event["data"]["n"] for event in seen]
    while len(numbers) < RECORDS:
        numbers.append((await again.event("push"))["data"]["n"])
    assert numbers == list(range(RECORDS))
    await again.lives()
    assert [event["type"] for event in again.skipped] == ["accepted"]


async def test_a_burst_larger_than_its_buffer_does_not_close_a_client_that_reads(
    real_gateway: Callable[..., Gateway], broker: Broker, names: dict[str, Any], connect: Connect
) -> None:
    """What it can't take at once waits in the log, and comes in order."""
    gateway = real_gateway(sessions={"buffer_bytes": 100_000})
    client = await connect(gateway, sid="reads")
    producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "linger.ms": 50})
    for n in range(RECORDS):
        producer.produce(names["results"]["topic"], json.dumps({"n": n, "filling": "x" * SIZE}), "user/reads")
    sent = asyncio.create_task(asyncio.to_thread(producer.flush, 30))
    assert [(await client.event("push"))["data"]["n"] for _ in range(RECORDS)] == list(range(RECORDS))
    assert await sent == 0
    assert gateway.metric("slow_consumer_total") >= 1
    await client.lives()


PONG, PING = b"\x8a\x80\0\0\0\0", b"\x89\xfd\0\0\0\0" + b"p" * 125  # of a client: masked, with a mask of zeros


@contextmanager
def deaf(gateway: Gateway, path: str, frame: bytes = PONG, every: float = 0.2) -> Iterator[socket.socket]:
    """A client that reads its welcome and then nothing, and says on and on, unasked, that it is there."""
    host, port = gateway.url.removeprefix("http://").split(":")
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    wire.connect((host, int(port)))
    wire.settimeout(PATIENCE)
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token(sid='deaf')}"]
    lines += [f"{name}: {value}" for name, value in UPGRADE.items()] if path.endswith("ws") else []
    wire.sendall("\r\n".join([*lines, "", ""]).encode())
    said = b""
    while b"welcome" not in said:
        said += wire.recv(4096)
    over = threading.Event()

    def talk() -> None:
        while not over.wait(every):
            try:
                wire.sendall(frame)
            except OSError:
                return

    talking = threading.Thread(target=talk)
    if path.endswith("ws"):
        talking.start()
    try:
        yield wire
    finally:
        over.set()
        if talking.ident is not None:
            talking.join()
        wire.close()


def resident(gateway: Gateway) -> int:
    """MiB."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


@pytest.fixture
def fresh(start_gateway: Callable[..., Gateway], model: FakeModel) -> Gateway:
    """A gateway on embedded Kafka whose memory is only what one client makes it."""
    gateway = start_gateway(
        {
            "kafka": {"embedded": True},
            "inference": {"url": model.url},
            "sessions": {"heartbeat_seconds": 1, "slow_consumer_timeout_seconds": 3},
            "results": {"tail_cache_bytes": 8 << 20},
        }
    )
    gateway.wait_ready()
    return gateway


@pytest.mark.parametrize("path", ["/v1/ws", "/v1/events"])
def test_a_client_that_reads_nothing_and_answers_pings(fresh: Gateway, path: str) -> None:
    """Large records that come one at a time: none of them is too much alone."""
    producer = Producer({"bootstrap.servers": kafka_of(fresh), "partitioner": "murmur2_random"})
    largest = before = resident(fresh)
    with deaf(fresh, path):
        for _ in range(500):
            producer.produce("podpair.results", json.dumps("x" * 500_000), "user/deaf")
            assert producer.flush(30) == 0
            largest = max(largest, resident(fresh))
            if fresh.metric("sessions_closed_total", reason="slow"):
                break
        until(lambda: fresh.metric("sessions_closed_total", reason="slow") == 1)
    # Of 240 MiB. Some 130 MiB stay with the allocator when that has gone through, also where the client reads all of it.
    assert largest - before < 170, f"{before} MiB, then {largest} MiB"


def test_pings_of_a_client_that_reads_no_pongs(fresh: Gateway) -> None:
    before = resident(fresh)
    with deaf(fresh, "/v1/ws", every=PATIENCE) as wire:
        for _ in range(300):
            wire.sendall(PING * 1000)
        assert fresh.get("/healthz")[0] == 200
        assert resident(fresh) - before < 20  # of 39 MiB of pings
