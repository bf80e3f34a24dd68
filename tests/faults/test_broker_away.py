"""The broker goes away after the start, and comes back: readiness says so, with the reason, and what waited is answered."""

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import pytest

import podpair.client
from harness.fleet import resident_mb
from harness.kafka import Broker
from harness.pair import Gateway, Inference, token
from harness.waiting import until
from podpair.gateway.core.partitions import home_partition
from podpair.gateway.core.session_ids import claimed_session_id


async def test_readiness_fails_and_heals(
    own_broker: Broker, inference: Inference, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> None:
    kafka = {"bootstrap_servers": own_broker.address, "probe_seconds": 0.2}
    gateway = start_gateway({**names, "kafka": kafka, "inference": {"url": inference.url}})
    gateway.wait_ready()
    own_broker.child.process.send_signal(signal.SIGSTOP)  # as a machine that hangs

    def told() -> str:
        return str(json.loads(gateway.get("/readyz")[1])["checks"]["kafka"])

    until(lambda: told().startswith(f"no answer from {own_broker.address}: "), told)
    assert gateway.get("/readyz")[0] == 503
    assert gateway.get("/healthz")[0] == 200
    own_broker.child.process.send_signal(signal.SIGCONT)
    gateway.wait_ready()
    async with podpair.client.connect(gateway.ws, token=token("back")) as session:
        assert (await session.infer("digits", [0.0] * 64, route="queue")).data["label"]


def posts(gateway: Gateway, count: int, body: bytes, name: str) -> list[tuple[int, float]]:
    """That many queued requests of one session by POST, sixteen at a time: status, and seconds until it came.

    Their ids begin with the name: one that has ended is not taken again with another body.
    """
    bearer = {"Authorization": f"Bearer {token('poster', sid='poster')}"}

    def one(number: int) -> tuple[int, float]:
        began = time.monotonic()
        head, tail = (
            b'{"type":"infer","id":"%s-%d","model":"digits","route":"queue","data":' % (name.encode(), number),
            b"}",
        )
        asked = urllib.request.Request(gateway.url + "/v1/infer", head + body + tail, bearer)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status, time.monotonic() - began
        except urllib.error.HTTPError as error:
            return error.code, time.monotonic() - began

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(one, range(count)))


async def test_a_broker_that_hangs_costs_bounded_memory_and_nobody_waits_for_it(
    own_broker: Broker, inference: Inference, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> None:
    """While it is known to hang, requests and connections are refused at once; until then what waits is bounded in bytes."""
    kafka = {"bootstrap_servers": own_broker.address, "probe_seconds": 0.5, "producer_buffer_bytes": 16 << 20}
    gateway = start_gateway({
        **names, "kafka": kafka, "inference": {"url": inference.url}, "results": names["results"] | {"partitions": 8},
        "limits": {"message_bytes": 1 << 20, "in_flight": 4096},
    })  # fmt: skip
    gateway.wait_ready()
    body = b"[" + b"0.0," * 200_000 + b"0.0]"  # 800 KB
    assert {status for status, _ in posts(gateway, 4, b"[" + b"0.0," * 63 + b"0.0]", "small")} == {202}
    before = resident_mb(gateway) or 0.0
    own_broker.child.process.send_signal(signal.SIGSTOP)
    outcomes = posts(gateway, 600, body, "large")  # 480 MB
    statuses = {status for status, _ in outcomes}
    # 503: where its home isn't read any more, the answer of a session whose client is away can't be waited for.
    assert 429 in statuses
    assert statuses <= {429, 503}
    until(lambda: gateway.metric("kafka_ready") == 0)
    assert (resident_mb(gateway) or 0.0) < before + 200
    # Whose home is read here already needs nothing of the broker.
    taken = home_partition(claimed_session_id("poster", "poster"), 8)
    others = [n for n in map(str, range(64)) if home_partition(claimed_session_id("new", n), 8) != taken]
    async with aiohttp.ClientSession() as http:
        for name in others[:8]:
            bearer = {"Authorization": f"Bearer {token('new', sid=name)}"}
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(gateway.ws, headers=bearer)
            assert refused.value.status == 503
    own_broker.child.process.send_signal(signal.SIGCONT)
    gateway.wait_ready()
    async with podpair.client.connect(gateway.ws, token=token("back")) as session:
        assert (await session.infer("digits", [0.0] * 64, route="queue")).data["label"]
    assert gateway.metric("kafka_client_restarts_total") == 0


async def test_readiness_may_do_without_kafka(
    own_broker: Broker, inference: Inference, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> None:
    kafka = {"bootstrap_servers": own_broker.address, "probe_seconds": 0.2, "required_for_readiness": False}
    gateway = start_gateway({**names, "kafka": kafka, "inference": {"url": inference.url}})
    gateway.wait_ready()
    own_broker.child.process.send_signal(signal.SIGSTOP)
    until(lambda: "no answer" in json.loads(gateway.get("/readyz")[1])["checks"]["kafka"])
    status, told = gateway.get("/readyz")
    assert (status, json.loads(told)["ready"]) == (200, True)


@pytest.mark.parametrize("exactly_once", [True, False])
async def test_queued_requests_are_answered_after_an_ordinary_restart_of_the_broker(
    own_broker: Broker,
    inference: Inference,
    names: dict[str, Any],
    start_gateway: Callable[..., Gateway],
    exactly_once: bool,
) -> None:
    gateway = start_gateway({
        **names, "kafka": {"bootstrap_servers": own_broker.address, "probe_seconds": 0.2},
        "inference": {"url": inference.url}, "requests": names["requests"] | {"exactly_once": exactly_once},
    })  # fmt: skip
    gateway.wait_ready()

    async def works() -> None:
        async with podpair.client.connect(gateway.ws, token=token("again")) as session:
            asked = [session.infer("digits", [0.0] * 64, route="queue") for _ in range(40)]
            assert {answer.route for answer in await asyncio.wait_for(asyncio.gather(*asked), 60)} == {"queue"}

    try:
        for _ in range(2):
            await works()
            await asyncio.to_thread(own_broker.restart)
            await asyncio.to_thread(gateway.wait_ready)
        await works()
    except (TimeoutError, AssertionError, podpair.client.PodpairError) as error:
        told = [*gateway.lines[-80:], "--- the broker:", *own_broker.child.lines[-40:]]
        pytest.fail(f"{type(error).__name__}: {error}\n" + "\n".join(told))
