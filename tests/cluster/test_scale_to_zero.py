"""No pods while nothing is queued: at API servers that allow it to a HorizontalPodAutoscaler, and that don't."""

import json
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from cluster.conftest import CRD
from cluster.test_third_party_kinds import known
from harness.kafka import Broker
from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import apply, becomes, condition, there
from harness.waiting import until
from podpair.operator.core.crd import NAME

pytestmark = pytest.mark.process
SCALING = {"min": 0, "max": 2, "metrics": [{"lag": 5}]}


@pytest.fixture
def allowing() -> Iterator[ApiServer]:
    """An API server with the feature gate."""
    running = ApiServer("--feature-gates=HPAScaleToZero=true")
    running.kubectl("apply", "--server-side", "-f", str(CRD))
    running.await_kind(NAME)
    yield running
    running.stop()


def test_what_waits_in_kafka_is_known_without_any_pod(allowing: ApiServer, broker: Broker) -> None:
    operator = Operator(allowing, "default")
    try:
        kafka = {
            "kafka__bootstrapServers": broker.address,
            "kafka__requests": {"name": "to-zero.requests", "partitions": 2},
            "kafka__results": {"name": "to-zero.results", "partitions": 2},
        }
        apply(allowing, "default", scaling=SCALING, **kafka)
        until(lambda: there(allowing, "default", "horizontalpodautoscaler", "digits"))
        assert allowing.read("hpa", "digits", "-n", "default")["spec"]["minReplicas"] == 0
        becomes(allowing, "default", "KafkaReady", "True", "TopicsReady")

        allowing.kubectl("scale", "deployment", "digits", "--replicas=0", "-n", "default")  # as the autoscaler does
        ready = becomes(allowing, "default", "Ready", "False", "ScaledToZero")
        assert "requests that wait in Kafka bring them back" in ready["message"]
        assert condition(allowing, "default", "Degraded")["status"] == "False"
        assert condition(allowing, "default", "Stalled")["status"] == "False"

        producer = Producer({"bootstrap.servers": broker.address})
        for number in range(7):
            producer.produce("to-zero.requests", json.dumps({"id": str(number)}).encode())
        assert producer.flush(30) == 0
        until(lambda: allowing.read("igw", "digits", "-n", "default")["status"].get("lag") == 7)
        # The number is the autoscaler's: nobody else writes it.
        assert allowing.read("deployment", "digits", "-n", "default")["spec"]["replicas"] == 0
    finally:
        operator.stop()


def test_an_api_server_that_forbids_it_is_told_of_with_what_helps(cluster: ApiServer, namespace: str) -> None:
    operator = Operator(cluster, namespace)
    try:
        apply(cluster, namespace, scaling=SCALING)
        becomes(cluster, namespace, "Stalled", "True", "Refused")
        message = condition(cluster, namespace, "Degraded")["message"]
        assert "spec.minReplicas" in message
        assert "turn on its feature gate HPAScaleToZero, set scaling.provider: keda, or scaling.min: 1" in message
        with known(cluster, "scaledobjects", "triggerauthentications"):
            apply(cluster, namespace, scaling={**SCALING, "provider": "keda"})
            until(lambda: there(cluster, namespace, "scaledobject", "digits"))
            spec = cluster.read("scaledobject", "digits", "-n", namespace)["spec"]
            assert (spec["minReplicaCount"], spec["cooldownPeriod"]) == (0, 300)
            becomes(cluster, namespace, "Stalled", "False")
    finally:
        operator.stop()
