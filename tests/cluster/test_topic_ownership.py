"""Topics of others at a real API server: an operator neither alters nor deletes them, and says whose they are."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.admin import ConfigResource, ResourceType

from harness.kafka import Broker
from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import ALONE, apply, becomes, condition, there
from harness.resources import resource
from harness.topics import TopicAdmin
from harness.waiting import until
from podpair.operator.core.ownership import MARKS_GROUP


@pytest.fixture
def operator(cluster: ApiServer, namespace: str) -> Iterator[Operator]:
    running = Operator(cluster, namespace)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def admin(broker: Broker) -> TopicAdmin:
    return TopicAdmin(broker.address)


def topics(admin: TopicAdmin) -> set[str]:
    return set(admin.admin.list_topics(timeout=10).topics)


def settings(admin: TopicAdmin, topic: str) -> dict[str, str]:
    asked = ConfigResource(ResourceType.TOPIC, topic)
    found = admin.admin.describe_configs([asked])[asked].result(10)
    return {name: entry.value for name, entry in found.items() if entry.source == 1}


def kafka(broker: Broker, name: str, **changed: Any) -> dict[str, Any]:
    return {
        "bootstrapServers": broker.address,
        "deletionPolicy": "Delete",
        "requests": {"name": name},
        "results": {"name": f"{name}.results"},
        **changed,
    }


def status(cluster: ApiServer, namespace: str, name: str = "digits") -> dict[str, str]:
    """Where each topic comes from, as the resource's status says."""
    found = cluster.read("igw", name, "-n", namespace).get("status", {})
    return {one["name"]: one["origin"] for one in found.get("topics", [])}


def delete(cluster: ApiServer, namespace: str, name: str = "digits") -> None:
    cluster.kubectl("delete", "igw", name, "-n", namespace, "--wait=false")
    until(lambda: not there(cluster, namespace, "igw", name))


def test_a_topic_that_was_there_outlives_the_resource_unaltered(
    cluster: ApiServer, namespace: str, operator: Operator, broker: Broker, admin: TopicAdmin
) -> None:
    name = f"orders-{uuid.uuid4().hex[:8]}"
    admin.create(name, 3, cleanup_policy="compact", retention_ms=-1)
    before = settings(admin, name)
    apply(cluster, namespace, kafka=kafka(broker, name))
    told = becomes(cluster, namespace, "KafkaReady", "False", "TopicCompacted")
    assert f"topic {name} is compacted" in told["message"]
    until(lambda: status(cluster, namespace).get(f"{name}.results") == "Created")
    assert status(cluster, namespace)[name] == "Existing"
    assert settings(admin, name) == before
    delete(cluster, namespace)
    until(lambda: f"{name}.results" not in topics(admin))
    assert name in topics(admin)
    assert settings(admin, name) == before
    assert f"left topic {name} (this resource did not create it)" in cluster.kubectl(
        "get", "events", "-n", namespace, "-o", "jsonpath={.items[*].message}"
    )


def test_of_two_resources_with_one_topic_the_second_is_told_of_the_first(
    cluster: ApiServer, namespace: str, operator: Operator, broker: Broker, admin: TopicAdmin
) -> None:
    name = f"shared-{uuid.uuid4().hex[:8]}"
    apply(cluster, namespace, kafka=kafka(broker, name))
    becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
    before = settings(admin, name)
    second = resource(**ALONE, name="second", kafka=kafka(broker, name, requests={"name": name, "retention": "9h"}))
    second["metadata"]["namespace"] = namespace
    cluster.apply(second)
    until(lambda: condition(cluster, namespace, "KafkaReady", "second")["reason"] == "TopicConflict")
    message = condition(cluster, namespace, "KafkaReady", "second")["message"]
    uid = cluster.read("igw", "digits", "-n", namespace)["metadata"]["uid"]
    assert f"topic {name} is that of InferenceGateway {namespace}/digits (uid {uid})" in message
    assert condition(cluster, namespace, "KafkaReady")["status"] == "True"
    assert settings(admin, name) == before
    delete(cluster, namespace, "second")
    assert {name, f"{name}.results", f"{name}.dlq"} <= topics(admin)
    delete(cluster, namespace)
    until(lambda: not {name, f"{name}.results", f"{name}.dlq"} & topics(admin))


def test_an_operator_that_starts_anew_knows_what_is_its_resources_even_without_marks(
    cluster: ApiServer, namespace: str, broker: Broker, admin: TopicAdmin
) -> None:
    name = f"known-{uuid.uuid4().hex[:8]}"
    first = Operator(cluster, namespace)
    try:
        apply(cluster, namespace, kafka=kafka(broker, name))
        becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
        until(lambda: len(status(cluster, namespace)) == 3)
    finally:
        first.kill()
    admin.admin.delete_consumer_groups([MARKS_GROUP])[MARKS_GROUP].result(10)
    admin.recreate(f"{name}.results", 1)
    second = Operator(cluster, namespace, identity="second")
    try:
        delete(cluster, namespace)
        until(lambda: name not in topics(admin))
        assert f"{name}.results" in topics(admin)
    finally:
        second.stop()


def test_a_resource_that_is_made_again_uses_what_the_first_one_left(
    cluster: ApiServer, namespace: str, operator: Operator, broker: Broker, admin: TopicAdmin
) -> None:
    name = f"left-{uuid.uuid4().hex[:8]}"
    apply(cluster, namespace, kafka=kafka(broker, name, deletionPolicy="Retain"))
    becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
    delete(cluster, namespace)
    apply(cluster, namespace, kafka=kafka(broker, name))
    told = becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
    assert f"not made by this resource: {name}" in told["message"]
    apply(cluster, namespace, kafka=kafka(broker, name, adoptTopics=True))
    until(lambda: set(status(cluster, namespace).values()) == {"Adopted"})
    delete(cluster, namespace)
    until(lambda: name not in topics(admin))
