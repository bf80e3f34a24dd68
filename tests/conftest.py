"""Fixtures for every test: what the machine has, one broker a session, one embedded-Kafka pair a session."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from harness import machine
from harness.collector import Collector, collecting
from harness.kafka import Broker, SecureBroker
from harness.pair import Gateway, Inference
from harness.rabbitmq import RabbitMQ

pytest_plugins = ["harness.levels"]

# How long an example takes is the machine's business: no test asserts a time. PODPAIR_EXAMPLES=20 has 20 times as many.
settings.register_profile("unhurried", deadline=None, max_examples=100 * int(os.environ.get("PODPAIR_EXAMPLES", "1")))
settings.load_profile("unhurried")


@pytest.fixture
def require() -> Callable[[str], str]:
    """`require(program)` is its path; the test is skipped, or fails, where the machine lacks it."""
    return lambda program: machine.require(program)[0]


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A real Kafka, shared: tests take topics and groups of their own (`names`)."""
    running = Broker()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def secure_broker() -> Iterator[SecureBroker]:
    """A Kafka with SASL, TLS and an authorizer, shared: tests take users, topics and groups of their own."""
    running = SecureBroker()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A real RabbitMQ, shared: tests take queues of their own."""
    running = RabbitMQ()
    yield running
    running.stop()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """An OTLP receiver of the test's own."""
    async with collecting() as running:
        yield running


@pytest.fixture(scope="session")
def inference() -> Iterator[Inference]:
    """The digits model, shared by tests that don't kill it."""
    running = Inference()
    yield running
    running.stop()


@pytest.fixture
def start_inference() -> Iterator[Callable[..., Inference]]:
    """`start_inference(port=0)` starts a model of the test's own; all are ended after it."""
    running: list[Inference] = []

    def start(port: int = 0) -> Inference:
        running.append(Inference(port))
        return running[-1]

    yield start
    for model in running:
        model.kill()


_numbers = count(1)


@pytest.fixture
def names() -> dict[str, Any]:
    """Topics and a group for one test."""
    number = next(_numbers)
    return {
        "requests": {"topic": f"t{number}.requests", "group": f"t{number}", "session_timeout_seconds": 6},
        "results": {"topic": f"t{number}.results"},
    }


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """`start_gateway(config, wait=True)` starts one; all are ended after the test."""
    running: list[Gateway] = []

    def start(config: dict[str, Any], **options: Any) -> Gateway:
        running.append(Gateway(tmp_path, config, **options))
        return running[-1]

    yield start
    for gateway in running:
        gateway.kill()


@pytest.fixture(scope="session")
def pair(inference: Inference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on embedded Kafka in front of the digits model, shared by tests that leave it as it was."""
    gateway = Gateway(
        tmp_path_factory.mktemp("pair"),
        {"kafka": {"embedded": True}, "inference": {"url": inference.url}, "sessions": {"expiry_jitter_seconds": 0}},
    )
    gateway.wait_ready()
    yield gateway
    gateway.stop()
