"""`helm uninstall` with the chart's own Secret, which Helm deletes before the resource: the topics go all the same."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charts.test_values import DIGITS
from harness.helm import CHARTS, Helm, program, program_4
from harness.kafka import SecureBroker
from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import becomes, there
from harness.topics import TopicAdmin
from harness.waiting import until

NAME = "inferencegateways.podpair.dev"
CRD = CHARTS / "podpair-crds" / "templates" / "crd.yaml"


@pytest.fixture(autouse=True)
def crd(cluster: ApiServer) -> Iterator[None]:
    """The CRD, which other tests install with the operator's chart."""
    cluster.kubectl("apply", "--server-side", "-f", str(CRD))
    cluster.await_kind(NAME)
    yield
    cluster.kubectl("delete", "crd", NAME)


@pytest.mark.parametrize("program", [program, program_4], ids=["helm 3", "helm 4"])
def test_topics_go_with_a_release_that_has_the_password(
    cluster: ApiServer, namespace: str, secure_broker: SecureBroker, tmp_path: Path, program: Callable[[], Path]
) -> None:
    helm = Helm(tmp_path, cluster, program)
    kafka: dict[str, Any] = {
        "bootstrapServers": secure_broker.addresses["SASL_PLAINTEXT"],
        "deletionPolicy": "Delete",
        "sasl": {"mechanism": "PLAIN"},
    }
    values = {**DIGITS, "kafka": kafka, "secrets": {"kafka": {"username": "admin", "password": "admin-password"}}}
    values["gateway"] = {"auth": {"disabled": True}}
    names = {f"{namespace}.digits.{topic}" for topic in ("requests", "results", "requests.dlq")}
    admin = TopicAdmin(secure_broker.address).admin

    def topics() -> set[str]:
        return set(admin.list_topics(timeout=10).topics)

    operator = Operator(cluster, namespace, brokers__allow_readable_credentials="true")
    try:
        helm("install", "digits", CHARTS / "inference-gateway", "--namespace", namespace, values=values)
        becomes(cluster, namespace, "KafkaReady", "True", "TopicsReady")
        assert names <= topics()
        helm("uninstall", "digits", "--namespace", namespace)
        assert not there(cluster, namespace, "secret", "digits-kafka")
        until(lambda: not there(cluster, namespace, "igw", "digits"), lambda: "\n".join(operator.lines[-20:]))
        until(lambda: not names & topics())
        until(lambda: not there(cluster, namespace, "secret", "digits-broker"))
    finally:
        operator.stop()
