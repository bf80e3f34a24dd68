"""The broker goes away after the start, and comes back: readiness says so, with the reason, and what waited is answered."""

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import podpair.client
from harness.kafka import Broker
from harness.pair import Gateway, Inference, token, until


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker that no other test needs."""
    running = Broker("256m")
    yield running
    running.child.process.send_signal(signal.SIGCONT)
    running.stop()


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
