"""Clients of RabbitMQ that weren't written here get their answers from a pair: pika's RPC client, and Celery's producer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import environments
from harness.pair import Gateway, Inference
from harness.processes import output_of
from harness.rabbitmq import RabbitMQ
from harness.waiting import until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]  # what they need may have to be fetched
OUTSIDE = Path(__file__).parent / "outside"


@pytest.fixture
def python() -> Path:
    return environments.python(OUTSIDE.parent / "amqp_clients.lock")


@pytest.fixture
def gateway(
    rabbitmq: RabbitMQ, inference: Inference, request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway]
) -> Gateway:
    amqp: dict[str, Any] = {"url": rabbitmq.url, "queue": request.node.name.replace("[", ".").rstrip("]")}
    amqp["celery_tasks"] = {"shop.digit": "digits"}
    config = {"kafka": {"embedded": True}, "inference": {"url": inference.url}, "requests": {"source": "both"}}
    made = start_gateway({**config, "amqp": amqp})
    made.wait_ready()
    return made


def queue_of(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).replace("[", ".").rstrip("]")


@pytest.mark.parametrize("by", ["queue", "direct"])
def test_pika_rpc(python: Path, gateway: Gateway, rabbitmq: RabbitMQ, request: pytest.FixtureRequest, by: str) -> None:
    said = json.loads(output_of(python, OUTSIDE / "pika_rpc.py", rabbitmq.url, queue_of(request), "200", by))
    assert said["unasked"] == 0
    assert len(said["answers"]) == 200
    # Each has the answer to its own question: equal questions equal ones, the 16 different ones different ones.
    labels = [json.dumps(answer["data"], sort_keys=True) for answer in said["answers"]]
    assert labels[16:32] == labels[:16] == labels[160:176]
    assert len(set(labels)) >= 8


def test_celery(python: Path, gateway: Gateway, rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> None:
    said = json.loads(output_of(python, OUTSIDE / "celery_producer.py", rabbitmq.url, queue_of(request)))
    alone = said["argument"]["value"]
    assert set(alone) >= {"label"}
    assert said["gzip"]["value"] == said["eta"]["value"] == alone
    assert said["keyword"]["value"]["label"] == [alone["label"], alone["label"]]
    assert [output["name"] for output in said["inputs"]["value"]]
    for name, kind, why in (
        ("many", "ValueError", "the task has 2 arguments"),
        ("wrong", "ValueError", "invalid"),
        ("undeclared", "ValueError", "is not among those"),
        ("chain", "ValueError", "chain"),
    ):
        assert kind in said[name]["bases"], said[name]
        assert why in said[name]["says"]
    assert "TimeoutError" in said["expired"]["bases"], said["expired"]
    until(lambda: gateway.metric("queue_requests_total", outcome="result") == 6)  # the ignored one, too
