"""What the fault tests share: producers that write as any service would, and gateways on one broker."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from harness.kafka import Broker
from harness.pair import Gateway, Inference
from harness.waiting import until

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """CI gives a test that fails two more tries (`--reruns`); not these: what they check has to hold each time."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=0))


@pytest.fixture
def producer(broker: Broker) -> Iterator[Producer]:
    """Writes to sessions, keyed by their id."""
    made = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "linger.ms": 1})
    yield made
    made.flush(10)


@pytest.fixture
def start_pair(
    broker: Broker, inference: Inference, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> Callable[..., Gateway]:
    """`start_pair()` starts a gateway on the test's own topics and group, in front of the digits model."""

    def start(**config: Any) -> Gateway:
        base = {**names, "kafka": {"bootstrap_servers": broker.address}, "inference": {"url": inference.url}}
        gateway = start_gateway(base | config)
        gateway.wait_ready()
        return gateway

    return start


@pytest.fixture
def two_pairs(start_pair: Callable[..., Gateway]) -> list[Gateway]:
    """Two gateways of one group, each with its half of the request partitions."""
    gateways = [start_pair(), start_pair()]

    def shares() -> list[float]:
        return [gateway.metric("request_partitions") for gateway in gateways]

    until(lambda: shares() == [4, 4], shares)
    return gateways


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker that no other test needs."""
    running = Broker("256m")
    yield running
    running.child.process.send_signal(signal.SIGCONT)
    running.stop()
