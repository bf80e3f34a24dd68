"""What an installation forbids: told on the resource, with nothing written or shown to a broker, until it is mended."""

import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from harness.kafka import SecureBroker
from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import apply, becomes, condition, there
from harness.waiting import until
from podpair.operator.core.policy import LABEL

PLAIN = {"secretName": "kafka", "mechanism": "PLAIN"}


class Listener(socketserver.TCPServer):
    """Somebody to whom a password is to be sent: counts who comes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.connections = 0
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        self.shutdown_request(request)

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.stop()


@pytest.fixture
def start(cluster: ApiServer, namespace: str) -> Iterator[Any]:
    running: list[Operator] = []

    def begin(**settings: Any) -> Operator:
        for one in running:
            one.stop()
        running[:] = [Operator(cluster, namespace, **settings)]
        return running[0]

    yield begin
    for one in running:
        one.stop()


def secret(cluster: ApiServer, namespace: str, **labels: str) -> None:
    metadata = {"name": "kafka", "namespace": namespace, "labels": labels}
    data = {"username": "admin", "password": "admin-password"}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})


def test_a_password_without_tls_is_shown_to_nobody_until_the_installation_allows_it(
    cluster: ApiServer, namespace: str, start: Any, listener: Listener, secure_broker: SecureBroker
) -> None:
    start()
    secret(cluster, namespace, **{LABEL: "true"})
    apply(cluster, namespace, kafka__bootstrapServers=listener.address, kafka__sasl=PLAIN)
    told = becomes(cluster, namespace, "KafkaReady", "False", "CredentialsRefused")
    assert "SASL PLAIN sends its credentials in the clear" in told["message"]
    assert "brokers.allowReadableCredentials: true" in told["message"]
    assert condition(cluster, namespace, "Stalled")["reason"] == "CredentialsRefused"
    assert not there(cluster, namespace, "deployment", "digits")
    assert listener.connections == 0
    apply(cluster, namespace, kafka__bootstrapServers=secure_broker.addresses["SASL_PLAINTEXT"], kafka__sasl=PLAIN)
    becomes(cluster, namespace, "KafkaReady", "False", "CredentialsRefused")
    start(brokers__allow_readable_credentials="true")
    becomes(cluster, namespace, "KafkaReady", "True")
    assert there(cluster, namespace, "deployment", "digits")


def test_a_secret_is_shown_once_it_is_labelled_and_what_was_made_stays(
    cluster: ApiServer, namespace: str, start: Any, listener: Listener, secure_broker: SecureBroker
) -> None:
    start()
    secret(cluster, namespace, app="shop")
    scram = {"secretName": "kafka", "mechanism": "SCRAM-SHA-256"}
    apply(cluster, namespace, kafka__bootstrapServers=listener.address, kafka__sasl=scram)
    told = becomes(cluster, namespace, "KafkaReady", "False", "CredentialsRefused")
    assert f"kubectl label secret kafka -n {namespace} {LABEL}=true" in told["message"]
    assert not there(cluster, namespace, "deployment", "digits")
    assert listener.connections == 0
    cluster.kubectl("label", "secret", "kafka", "-n", namespace, f"{LABEL}=true")
    until(lambda: listener.connections > 0)
    until(lambda: there(cluster, namespace, "deployment", "digits"))
    uid = cluster.read("deployment", "digits", "-n", namespace)["metadata"]["uid"]
    # As after an upgrade of an installation whose Secrets have no label yet: what runs goes on.
    cluster.kubectl("label", "secret", "kafka", "-n", namespace, f"{LABEL}-")
    becomes(cluster, namespace, "KafkaReady", "False", "CredentialsRefused")
    assert cluster.read("deployment", "digits", "-n", namespace)["metadata"]["uid"] == uid
    start(brokers__secrets=f"{namespace}/kafka")
    until(lambda: condition(cluster, namespace, "KafkaReady")["reason"] == "BrokerUnreachable")


def test_a_forbidden_field_of_the_pods_is_told_and_nothing_is_made_until_it_is_left_out(
    cluster: ApiServer, namespace: str, start: Any
) -> None:
    start(pod_templates__forbidden="spec.serviceAccountName,spec.volumes.hostPath,spec.*.securityContext.privileged")
    host = {"name": "host", "hostPath": {"path": "/"}}
    apply(cluster, namespace, inference__podTemplate={"spec": {"serviceAccountName": "admin", "volumes": [host]}})
    told = becomes(cluster, namespace, "Degraded", "True", "PodTemplateForbidden")
    for path in ("spec.serviceAccountName", "spec.volumes.hostPath"):
        assert f"sets {path} of the pods, which this installation forbids" in told["message"]
    assert condition(cluster, namespace, "Stalled")["reason"] == "PodTemplateForbidden"
    assert not there(cluster, namespace, "deployment", "digits")
    apply(cluster, namespace, inference__podTemplate={"spec": {"nodeSelector": {"gpu": "yes"}}})
    until(lambda: there(cluster, namespace, "deployment", "digits"))
    generation = cluster.read("deployment", "digits", "-n", namespace)["metadata"]["generation"]
    privileged = {"name": "gateway", "securityContext": {"privileged": True}}
    apply(cluster, namespace, inference__podTemplate={"spec": {"containers": [privileged]}})
    becomes(cluster, namespace, "Degraded", "True", "PodTemplateForbidden")
    assert cluster.read("deployment", "digits", "-n", namespace)["metadata"]["generation"] == generation
