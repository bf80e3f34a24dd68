"""A gateway on a real broker before a server with workflows."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.fake_workflows import FakeWorkflows
from harness.kafka import Broker
from harness.pair import Gateway
from podpair.common.gateway_config.environment import merged


@pytest.fixture(scope="session")
def _server() -> Iterator[FakeWorkflows]:
    server = FakeWorkflows()
    yield server
    server.close()


@pytest.fixture
def server(_server: FakeWorkflows) -> Iterator[FakeWorkflows]:
    """The server behind the gateways of a test."""
    yield _server
    _server.reset()


@pytest.fixture(scope="module")
def shared(broker: Broker, _server: FakeWorkflows, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that the tests of a module share."""
    mark = f"workflows-{time.monotonic_ns()}"
    config = {
        "kafka": {"bootstrap_servers": broker.address},
        "inference": {"url": _server.url, "probe_seconds": 0.1},
        "workflows": {"enabled": True},
        "requests": {"topic": f"{mark}.requests", "group": mark},
        "results": {"topic": f"{mark}.results"},
    }
    gateway = Gateway(tmp_path_factory.mktemp("workflows"), config)
    gateway.wait_ready()
    yield gateway
    gateway.stop()


@pytest.fixture
def start(
    broker: Broker, server: FakeWorkflows, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> Callable[..., Gateway]:
    """`start(section={…})` starts a gateway; all of a test share topics and group."""

    def begin(**config: Any) -> Gateway:
        own = {
            "kafka": {"bootstrap_servers": broker.address},
            "inference": {"url": server.url, "probe_seconds": 0.1},
            "workflows": {"enabled": True},
            "requests": {"session_timeout_seconds": 6, "transaction_timeout_seconds": 2},
        }
        gateway = start_gateway(merged(merged(own, names), config))
        gateway.wait_ready()
        return gateway

    return begin
