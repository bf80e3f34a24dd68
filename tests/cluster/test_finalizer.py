"""A resource that is deleted: its topics stay, or go with it where it says so, and never hold it for ever."""

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from harness.kafka import Broker
from harness.kubernetes import ApiServer
from harness.operator import NOBODY, Operator
from harness.reconciled import apply, becomes, there
from harness.waiting import until


@pytest.fixture
def operator(cluster: ApiServer, namespace: str) -> Iterator[Operator]:
    running = Operator(cluster, namespace)
    yield running
    running.stop()


def topics(broker: Broker) -> set[str]:
    return set(AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=10).topics)


def kafka(broker: Broker, policy: str) -> dict[str, object]:
    name = uuid.uuid4().hex[:8]
    return {
        "bootstrapServers": broker.address,
        "deletionPolicy": policy,
        "requests": {"name": f"{name}.requests"},
        "results": {"name": f"{name}.results"},
    }


def finalizers(cluster: ApiServer, namespace: str) -> list[str]:
    return list(cluster.read("igw", "digits", "-n", namespace)["metadata"].get("finalizers", []))


def delete(cluster: ApiServer, namespace: str) -> None:
    cluster.kubectl("delete", "igw", "digits", "-n", namespace, "--wait=false")


def test_topics_are_made_and_stay_when_the_resource_goes(
    cluster: ApiServer, namespace: str, operator: Operator, broker: Broker
) -> None:
    wanted = kafka(broker, "Retain")
    apply(cluster, namespace, kafka=wanted)
    becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
    becomes(cluster, namespace, "ReplicasCappedByPartitions", "False")
    status = lambda: cluster.read("igw", "digits", "-n", namespace)["status"]  # noqa: E731
    until(lambda: status().get("lag") == 0, status)
    assert finalizers(cluster, namespace) == []
    names = {str(wanted[kind]["name"]) for kind in ("requests", "results")}  # type: ignore[index]
    assert names <= topics(broker)
    delete(cluster, namespace)
    until(lambda: not there(cluster, namespace, "igw", "digits"))
    assert names <= topics(broker)


def test_topics_go_with_a_resource_that_says_so(
    cluster: ApiServer, namespace: str, operator: Operator, broker: Broker
) -> None:
    wanted = kafka(broker, "Delete")
    apply(cluster, namespace, kafka=wanted)
    becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
    assert finalizers(cluster, namespace) == ["podpair.dev/topics"]
    names = {str(wanted[kind]["name"]) for kind in ("requests", "results")}  # type: ignore[index]
    delete(cluster, namespace)
    until(lambda: not there(cluster, namespace, "igw", "digits"))
    until(lambda: not names & topics(broker))


def test_a_broker_that_is_gone_holds_no_resource_for_ever(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    apply(cluster, namespace, kafka={"bootstrapServers": NOBODY, "deletionPolicy": "Delete"})
    until(lambda: there(cluster, namespace, "deployment", "digits"))
    until(lambda: finalizers(cluster, namespace) == ["podpair.dev/topics"])
    delete(cluster, namespace)

    def told() -> bool:
        return "TopicsNotDeleted" in cluster.kubectl("get", "events", "-n", namespace)

    until(told)
    assert there(cluster, namespace, "igw", "digits")
    patch = '{"spec": {"kafka": {"deletionPolicy": "Retain"}}}'
    cluster.kubectl("patch", "igw", "digits", "-n", namespace, "--type=merge", "-p", patch)
    until(lambda: not there(cluster, namespace, "igw", "digits"))


def test_the_finalizer_goes_when_topics_are_to_stay_after_all(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    apply(cluster, namespace, kafka={"bootstrapServers": NOBODY, "deletionPolicy": "Delete"})
    until(lambda: finalizers(cluster, namespace) == ["podpair.dev/topics"])
    apply(cluster, namespace, kafka={"bootstrapServers": NOBODY, "deletionPolicy": "Retain"})
    until(lambda: finalizers(cluster, namespace) == [])
