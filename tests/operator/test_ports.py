"""The operator's ports end connections that don't get on, by the listener that the gateway's have, too."""

import asyncio
import contextlib
import datetime as dt

import pytest

from harness.waiting import soon
from podpair.common.listener.connections import ConnectionLimits
from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.core.front_proxy import FrontProxy
from podpair.operator.health import HealthServer
from podpair.operator.metrics import Metrics
from podpair.operator.metrics_api.certificates import renewed
from podpair.operator.metrics_api.server import MetricsServer

SOON = ConnectionLimits(tls_handshake=1.0, head=1.0, stall=1.0, keep_alive=1.0, connections=2)
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
REQUEST_TIMEOUT = 60.0


def sample(metrics: Metrics, name: str, port: str, reason: str) -> float:
    found = metrics.registry.get_sample_value(f"podpair_operator_{name}_total", {"port": port, "reason": reason})
    return found or 0.0


@pytest.mark.parametrize(
    ("sent", "end", "reason"),
    [(b"", b"408", "head"), (b"GET /hea", b"408", "head"), (GET, b"200", "idle"),
     (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"405", "")],
)  # fmt: skip
async def test_health(sent: bytes, end: bytes, reason: str) -> None:
    metrics = Metrics()
    server = HealthServer(metrics, list, list, SOON)
    await server.start("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        writer.write(sent)
        async with asyncio.timeout(REQUEST_TIMEOUT):
            said = await reader.read()
        writer.close()
        assert said.startswith(b"HTTP/1.1 " + end)
        if reason:
            assert sample(metrics, "connections_closed", "health", reason) == 1
    finally:
        await server.stop()


async def test_there_is_room_for_so_many() -> None:
    metrics = Metrics()
    server = HealthServer(metrics, list, list, SOON)
    await server.start("127.0.0.1", 0)
    port = int(server.url.rsplit(":", 1)[1])
    try:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(REQUEST_TIMEOUT):
            said = await reader.read()
        assert said.startswith(b"HTTP/1.1 503")
        assert sample(metrics, "connections_refused", "health", "connections") == 1
        for _, end in [*held, (reader, writer)]:
            end.close()
    finally:
        await server.stop()


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", GET])
async def test_the_metrics_api(sent: bytes) -> None:
    metrics = Metrics()
    serving = renewed(None, ["127.0.0.1"], dt.datetime.now(dt.UTC))
    assert serving is not None
    front_proxy = FrontProxy(serving.ca, ())

    async def source(namespace: str, name: str, metric: str) -> MetricValues | None:
        return None

    server = MetricsServer("127.0.0.1", 0, source, metrics, SOON)
    await server.serve(serving, front_proxy)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        async with asyncio.timeout(REQUEST_TIMEOUT):
            with contextlib.suppress(ConnectionError):
                await reader.read()  # to its end: an alert, or nothing
            await soon(lambda: sample(metrics, "connections_closed", "metrics_api", "tls_handshake"))
        writer.close()
    finally:
        await server.stop()
