"""The Secret with the broker's password goes, or changes, before the resource: its topics are deleted all the same."""

import base64
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.kafka import SecureBroker
from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import apply, becomes, there
from harness.topics import TopicAdmin
from harness.waiting import until

ALLOWED = {"brokers__allow_readable_credentials": "true", "brokers__secrets": "*"}


@pytest.fixture
def operator(cluster: ApiServer, namespace: str) -> Iterator[Operator]:
    running = Operator(cluster, namespace, **ALLOWED)
    yield running
    running.stop()


def topics(broker: SecureBroker) -> set[str]:
    return set(TopicAdmin(broker.address).admin.list_topics(timeout=10).topics)


def kafka(broker: SecureBroker, **changed: Any) -> dict[str, Any]:
    name = uuid.uuid4().hex[:8]
    return {
        "bootstrapServers": broker.addresses["SASL_PLAINTEXT"],
        "deletionPolicy": "Delete",
        "requests": {"name": f"{name}.requests"},
        "results": {"name": f"{name}.results"},
        "sasl": {"secretName": "digits-kafka", "mechanism": "PLAIN"},
        **changed,
    }


def put(
    cluster: ApiServer,
    namespace: str,
    password: str = "admin-password",
    name: str = "digits-kafka",
    user: str = "admin",
) -> None:
    made = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}}
    cluster.apply({**made, "stringData": {"username": user, "password": password}})


def made(cluster: ApiServer, namespace: str, broker: SecureBroker) -> set[str]:
    """The topics of a resource that is ready."""
    put(cluster, namespace)
    wanted = kafka(broker)
    apply(cluster, namespace, kafka=wanted)
    becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
    names = {wanted["requests"]["name"], f"{wanted['requests']['name']}.dlq", wanted["results"]["name"]}
    assert names <= topics(broker)
    return names


def delete_secret(cluster: ApiServer, namespace: str) -> None:
    cluster.kubectl("delete", "secret", "digits-kafka", "-n", namespace)


def delete_all_secrets(cluster: ApiServer, namespace: str) -> None:
    """As the deletion of a namespace does."""
    cluster.kubectl("delete", "secret", "--all", "-n", namespace, "--wait=false")


def remove_a_key(cluster: ApiServer, namespace: str) -> None:
    patch = '[{"op": "remove", "path": "/data/password"}]'
    cluster.kubectl("patch", "secret", "digits-kafka", "-n", namespace, "--type=json", "-p", patch)


def change_to_a_wrong_password(cluster: ApiServer, namespace: str) -> None:
    put(cluster, namespace, "not-yet")


def name_another(cluster: ApiServer, namespace: str) -> None:
    patch = '{"spec": {"kafka": {"sasl": {"secretName": "nowhere"}}}}'
    cluster.kubectl("patch", "igw", "digits", "-n", namespace, "--type=merge", "-p", patch)
    delete_secret(cluster, namespace)


WAYS = [delete_secret, delete_all_secrets, remove_a_key, change_to_a_wrong_password, name_another]


@pytest.mark.parametrize("way", WAYS)
def test_topics_go_though_the_secret_went_first(
    cluster: ApiServer,
    namespace: str,
    operator: Operator,
    secure_broker: SecureBroker,
    way: Callable[[ApiServer, str], None],
) -> None:
    names = made(cluster, namespace, secure_broker)
    way(cluster, namespace)
    cluster.kubectl("delete", "igw", "digits", "-n", namespace, "--wait=false")
    until(lambda: not there(cluster, namespace, "igw", "digits"), lambda: "\n".join(operator.lines[-20:]))
    until(lambda: not names & topics(secure_broker))
    until(lambda: not there(cluster, namespace, "secret", "digits-broker"))


def test_topics_go_though_the_operator_was_away_when_all_was_deleted(
    cluster: ApiServer, namespace: str, secure_broker: SecureBroker
) -> None:
    first = Operator(cluster, namespace, **ALLOWED)
    try:
        names = made(cluster, namespace, secure_broker)
    finally:
        first.kill()
    delete_all_secrets(cluster, namespace)
    cluster.kubectl("delete", "igw", "digits", "-n", namespace, "--wait=false")
    second = Operator(cluster, namespace, identity="second", **ALLOWED)
    try:
        until(lambda: not there(cluster, namespace, "igw", "digits"))
        until(lambda: not names & topics(secure_broker))
        until(lambda: not there(cluster, namespace, "secret", "digits-broker"))
    finally:
        second.stop()


def test_the_copy_is_of_what_the_broker_accepted_last_and_goes_where_topics_stay(
    cluster: ApiServer, namespace: str, operator: Operator, secure_broker: SecureBroker
) -> None:
    def copied() -> dict[str, str]:
        found = cluster.read("secret", "digits-broker", "-n", namespace)
        assert "ownerReferences" not in found["metadata"]
        return {name: base64.b64decode(value).decode() for name, value in found["data"].items()}

    user = f"user-{namespace}"
    secure_broker.set_password(user, "one")
    for what in ("TOPIC", "GROUP"):
        secure_broker.allow(user, what, "*", "ALL")
    put(cluster, namespace, "one", user=user)
    wanted = kafka(secure_broker, sasl={"secretName": "digits-kafka"})
    apply(cluster, namespace, kafka=wanted)
    becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
    assert copied() == {"username": user, "password": "one", "servers": secure_broker.addresses["SASL_PLAINTEXT"]}
    put(cluster, namespace, "two", user=user)
    becomes(cluster, namespace, "KafkaReady", "False", "AuthenticationFailed")
    assert copied()["password"] == "one"
    secure_broker.set_password(user, "two")
    until(lambda: copied()["password"] == "two")
    patch = '{"spec": {"kafka": {"deletionPolicy": "Retain"}}}'
    cluster.kubectl("patch", "igw", "digits", "-n", namespace, "--type=merge", "-p", patch)
    until(lambda: not there(cluster, namespace, "secret", "digits-broker"))
    cluster.kubectl("delete", "igw", "digits", "-n", namespace, "--wait=false")
    until(lambda: not there(cluster, namespace, "igw", "digits"))
    assert wanted["results"]["name"] in topics(secure_broker)


def test_a_secret_of_somebody_else_under_that_name_is_left_alone(
    cluster: ApiServer, namespace: str, operator: Operator, secure_broker: SecureBroker
) -> None:
    put(cluster, namespace, "theirs", "digits-broker")
    put(cluster, namespace)
    apply(cluster, namespace, kafka=kafka(secure_broker))
    told = becomes(cluster, namespace, "Degraded", "True", "NameConflict")
    assert "there is a Secret digits-broker that is not this resource's" in told["message"]
    found = cluster.read("secret", "digits-broker", "-n", namespace)
    assert base64.b64decode(found["data"]["password"]) == b"theirs"
    cluster.kubectl("delete", "secret", "digits-broker", "-n", namespace)
    until(lambda: "digits-broker" in cluster.kubectl("get", "secret", "-n", namespace, "-l", "podpair.dev/gateway"))
