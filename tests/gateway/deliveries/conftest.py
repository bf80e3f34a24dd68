"""Gateways that deliver, and receivers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Producer

from gateway.deliveries.receiver import SECRET, Receiver
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, token
from podpair.common.gateway_config.environment import merged

Subscribe = Callable[..., Awaitable[dict[str, Any]]]
Publish = Callable[..., None]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def bad_receiver() -> AsyncIterator[Receiver]:
    """A second one, which is another host to the gateway: its port differs."""
    made = Receiver()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def delivery_config(names: dict[str, Any]) -> dict[str, Any]:
    """Settings with short waits, by which everybody may subscribe, to this machine too."""
    return {
        "deliveries": {
            "enabled": True,
            "topic": names["requests"]["topic"].replace(".requests", ".deliveries"),
            "rules": [{"claim": "sub", "subscriptions": 20_000}],
            "retry_seconds": [0.3, 0.6, 1.2, 2.4],
            "timeout_seconds": 1,
            "circuit_seconds": 0.3,
            "allow_http": True,
            "ports": [],
            "allowed_networks": ["127.0.0.0/8"],
            "slack_hosts": ["127.0.0.1"],
        }
    }


@pytest.fixture
def start(
    broker: Broker, model: FakeModel, names: dict[str, Any], delivery_config: dict[str, Any],
    start_gateway: Callable[..., Gateway],
) -> Callable[..., Gateway]:  # fmt: skip
    """`start(deliveries={…})` starts a gateway that delivers; all of a test share topics and group."""

    def begin(**config: Any) -> Gateway:
        own = {"kafka": {"bootstrap_servers": broker.address}, "inference": {"url": model.url, "probe_seconds": 0.1}}
        gateway = start_gateway(merged(merged(own | names, delivery_config), config))
        gateway.wait_ready()
        return gateway

    return begin


@pytest.fixture
def publish(broker: Broker, names: dict[str, Any]) -> Callable[..., None]:
    """`publish(session, value, …)` pushes to one or more sessions, as any service could; `headers` are the records'."""
    producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "linger.ms": 1})

    def write(sessions: str | list[str], *values: bytes, headers: dict[str, bytes] | None = None) -> None:
        for session in [sessions] if isinstance(sessions, str) else sessions:
            for value in values:
                producer.produce(names["results"]["topic"], value, session, headers=headers)
        assert producer.flush(30) == 0

    return write


async def subscribe(
    http: aiohttp.ClientSession,
    gateway: Gateway,
    receiver: Receiver | str,
    *,
    sub: str = "ann",
    sid: str = "s",
    **members: Any,
) -> dict[str, Any]:
    """Subscribe a receiver, or a URL, to a session of a user, `<sub>/<sid>`; return the answer."""
    body = {"url": receiver if isinstance(receiver, str) else receiver.url, "secret": SECRET, **members}
    headers = {"Authorization": f"Bearer {token(sub, sid=sid)}"}
    async with http.post(f"{gateway.url}/v1/subscriptions", json=body, headers=headers) as answer:
        found: dict[str, Any] = await answer.json()
        assert answer.status == 201, found
        return found
