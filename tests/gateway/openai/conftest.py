"""Gateways with OpenAI's API: before a server of that API, and before Python models that are called by V2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.kafka import Broker
from harness.openai_server import OpenAIServer
from harness.pair import Gateway, Inference, token

MODELS = Path(__file__).parent / "models"
BEARER = {"Authorization": f"Bearer {token()}"}


@pytest.fixture(scope="session")
def _server() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    yield server
    server.close()


@pytest.fixture
def server(_server: OpenAIServer) -> Iterator[OpenAIServer]:
    yield _server
    _server.reset()


@pytest.fixture(scope="session")
def before_server(_server: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose other half is a server of OpenAI's API."""
    config = {
        "kafka": {"embedded": True},
        "inference": {"url": _server.url, "ready_path": "/health", "timeout_seconds": 120},
        "openai": {"enabled": True},
        "limits": {"message_bytes": 8192, "max_direct_in_flight": 4},
        "admission": {
            "rules": [
                {"claim": "sub", "value": "narrow", "models": ["other"]},
                {"claim": "sub", "value": "slow", "requests_per_second": 0.01, "burst": 1},
            ]
        },
    }
    gateway = Gateway(tmp_path_factory.mktemp("server"), config)
    gateway.wait_ready()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def before_python(_server: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway before Python models that are declared in `openai.models`; other models are the server's."""
    inference = Inference(models=MODELS)
    config = {
        "kafka": {"embedded": True},
        "inference": {"url": inference.url},
        "openai": {
            "enabled": True,
            "url": f"{_server.url}/v1",
            "models": [
                {"model": "teller", "tasks": ["chat", "completions"]},
                {"model": "vectors", "tasks": ["embeddings"]},
            ],
        },
    }
    gateway = Gateway(tmp_path_factory.mktemp("python"), config)
    gateway.wait_ready()
    yield gateway
    gateway.stop()
    inference.stop()


def config_of(broker: Broker, server: OpenAIServer, names: dict[str, Any]) -> dict[str, Any]:
    return names | {
        "kafka": {"bootstrap_servers": broker.address},
        "inference": {"url": server.url, "ready_path": "/health", "timeout_seconds": 5},
        "openai": {"enabled": True},
        "shutdown_seconds": 2,
    }


@pytest.fixture(scope="session")
def two_gateways(
    broker: Broker, _server: OpenAIServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways of one group."""
    names = {
        "requests": {"topic": "openai.requests", "group": "openai", "session_timeout_seconds": 6},
        "results": {"topic": "openai.results"},
    }
    config = config_of(broker, _server, names)
    running = [Gateway(tmp_path_factory.mktemp("two"), config) for _ in range(2)]
    for gateway in running:
        gateway.wait_ready()
    yield running[0], running[1]
    for gateway in running:
        gateway.stop()
