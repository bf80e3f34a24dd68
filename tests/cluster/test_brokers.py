"""The operator among brokers that misbehave: their own resources say so, everything else stays fresh."""

import json
import os
import signal
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from harness.kafka import Broker
from harness.kubernetes import ApiServer
from harness.misbehaving_broker import MisbehavingBrokers
from harness.operator import Operator
from harness.processes import own_address
from harness.reconciled import condition
from harness.resources import resource
from harness.waiting import until
from podpair.operator.core.api_service import NAME

WRONG = (
    ("connect", "closes"), ("connect", "noise"), ("versions", "silent"), ("versions", "another's answer"),
    ("versions", "endless"), ("metadata", "cut off"), ("metadata", "slow"), ("create", "too short"),
)  # fmt: skip
_FRESH = 30.0  # seconds
_TOPIC = {"partitions": 2, "replication": 1}


@pytest.fixture
def operator(cluster: ApiServer, namespace: str) -> Iterator[Operator]:
    running = Operator(
        cluster, namespace, metrics_api__enabled="always", metrics_api__host=own_address(), metrics_api__port=0
    )
    yield running
    running.stop()
    cluster.kubectl("delete", "apiservice", NAME, "--ignore-not-found")


@pytest.fixture
def misbehaving() -> Iterator[MisbehavingBrokers]:
    running = MisbehavingBrokers(*WRONG)
    yield running
    running.kill()


def wanted(cluster: ApiServer, namespace: str, name: str, servers: str) -> None:
    made = resource(
        name=name, gateway__auth={"disabled": True}, scaling={"min": 1, "max": 2, "metrics": [{"lag": 5}]},
        kafka={"bootstrapServers": servers, "requests": _TOPIC, "results": _TOPIC},
    )  # fmt: skip
    made["metadata"]["namespace"] = namespace
    cluster.apply(made)


def children(operator: Operator) -> list[int]:
    """The processes that the operator has started for brokers."""
    found = Path(f"/proc/{operator.pid}/task/{operator.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"podpair.operator.processes.child" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def external_metric(cluster: ApiServer, operator: Operator, namespace: str, pem: Path) -> Callable[[], str]:
    """Make what reads the lag of the resource `good` as an autoscaler does; it returns the value, or what went wrong."""
    port = operator.wait_for_message("the metrics API is served")["port"]
    shown = cluster.front_proxy.issue("front-proxy-client")
    pem.write_text(shown.key + shown.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(pem)

    def external() -> str:
        path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/podpair_lag"
        url = f"https://{own_address()}:{port}{path}?labelSelector=podpair.dev%2Fgateway%3Dgood"
        try:
            with urllib.request.urlopen(url, context=context, timeout=10) as response:
                return str(json.load(response)["items"][0]["value"])
        except OSError as error:
            return str(error)

    return external


def test_a_resource_stays_fresh_whatever_brokers_of_others_do(
    cluster: ApiServer, namespace: str, operator: Operator, broker: Broker, misbehaving: MisbehavingBrokers,
    tmp_path: Path,
) -> None:  # fmt: skip
    external = external_metric(cluster, operator, namespace, tmp_path / "client.pem")

    def ready(name: str) -> dict[str, Any]:
        return condition(cluster, namespace, "KafkaReady", name)

    wanted(cluster, namespace, "good", broker.address)
    until(lambda: ready("good")["status"] == "True")
    names = {f"bad-{number}": misbehaving.addresses[one] for number, one in enumerate(WRONG)}
    for name, address in names.items():
        wanted(cluster, namespace, name, address)

    producer = Producer({"bootstrap.servers": broker.address})
    written = 0

    def fresh() -> None:
        """What was written a moment ago is seen, in the status and by autoscalers."""
        nonlocal written
        producer.produce(f"{namespace}.good.requests", value=b"{}")
        assert producer.flush(10) == 0
        written += 1
        until(lambda: external() == str(written), external, timeout=_FRESH)
        status: dict[str, Any] = {}

        def seen() -> bool:
            status.update(cluster.read("igw", "good", "-n", namespace)["status"])
            return bool(status["lag"] == written)

        until(seen, lambda: status, timeout=_FRESH)
        assert ready("good")["status"] == "True"

    told: set[str] = set()
    while told != set(names):
        fresh()
        told |= {name for name in names if ready(name)["status"] == "False"}

    # Now the library aborts, for whatever reason: all processes, again and again.
    pid = operator.pid
    for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL):
        until(lambda: children(operator))
        for child in children(operator):
            os.kill(child, number)
        fresh()
    assert operator.process.poll() is None
    assert operator.pid == pid
    assert operator.metric("podpair_operator_broker_process_failures_total") >= 3
    assert operator.metric("podpair_operator_broker_processes") <= 6
    assert "the process for the broker at" in "\n".join(operator.lines)
    assert not [line for line in operator.lines if "Traceback" in line]


def test_the_one_resource_says_that_its_process_died_and_heals(
    cluster: ApiServer, namespace: str, operator: Operator, broker: Broker
) -> None:
    wanted(cluster, namespace, "mortal", broker.address)
    until(lambda: condition(cluster, namespace, "KafkaReady", "mortal")["status"] == "True")
    (child,) = children(operator)
    assert _command(str(child))
    assert broker.address.encode() not in _command(str(child))
    os.kill(child, signal.SIGABRT)
    events = "KafkaClientFailed"
    until(lambda: events in cluster.kubectl("get", "events", "-n", namespace))
    until(lambda: condition(cluster, namespace, "KafkaReady", "mortal")["status"] == "True")
    cluster.kubectl("delete", "igw", "mortal", "-n", namespace)


def test_processes_end_with_an_operator_that_is_killed(
    cluster: ApiServer, namespace: str, operator: Operator, broker: Broker
) -> None:
    wanted(cluster, namespace, "orphan", broker.address)
    until(lambda: condition(cluster, namespace, "KafkaReady", "orphan")["status"] == "True")
    found = children(operator)
    assert found
    operator.kill()
    until(lambda: not any(b"podpair.operator.processes.child" in _command(str(pid)) for pid in found))
