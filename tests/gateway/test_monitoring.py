"""A real Prometheus scrapes a running pair with the rules of its resource: faults fire their alerts, and all panels have data."""

import asyncio
import json
import math
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Producer

from gateway.conftest import ROW, Client, Connect, resuming
from gateway.fake_model import FakeModel
from harness.certificates import Authority
from harness.desired_objects import DEPENDENCIES, objects
from harness.kafka import Broker
from harness.pair import Gateway
from harness.processes import free_port
from harness.prometheus import Alerts, Prometheus
from harness.waiting import soon
from podpair.gateway.core.partitions import home_partition
from podpair.operator.core.builders.dashboard import RATE

PODS = ("digits-5d4f8c7b9-abcde", "digits-5d4f8c7b9-fghij")
# Everything is 60 times as fast as by default: the shortest window is 5 s, the hour a minute.
RESOURCE: dict[str, Any] = {
    "monitoring": {
        "interval": "1s",
        "alertAfter": "3s",
        "certificateExpiry": "48h",
        "slo": {"availability": 99.9, "latency": {"p99": "500ms"}, "lagAge": "4s", "window": "12h"},
        "dashboard": True,
    },
    "gateway__auth": {"jwksUrl": "https://login.example/jwks"},
    "gateway__tls": {"certificateRef": {"name": "public"}},
    "gateway__cache": {"models": [{"model": "rows"}]},
}
MADE = objects(replace(DEPENDENCIES, prometheus_rules=True), **RESOURCE)
PARTITIONS = {"requests": {"partitions": 4}, "results": {"partitions": 4}}

pytestmark = pytest.mark.process


def warnings(*names: str) -> Alerts:
    return {(f"Podpair{name}", "warning") for name in names}


def critical(*names: str) -> Alerts:
    return {(f"Podpair{name}", "critical") for name in names}


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker that a test may stop."""
    running = Broker()
    yield running
    running.stop()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """`watch(gateway, …)` starts a Prometheus that scrapes them as the pods of the resource."""
    running: list[Prometheus] = []

    def start(*gateways: Gateway) -> Prometheus:
        addresses = [one.operations.removeprefix("http://") for one in gateways]
        pods = [{"namespace": "default", "pod": pod} for pod in PODS]
        folder = tmp_path / "prometheus"
        folder.mkdir()
        targets = dict(zip(addresses, pods, strict=False))
        running.append(Prometheus(folder, targets, MADE["PrometheusRule"]["spec"]))
        return running[-1]

    yield start
    for one in running:
        one.kill()


@asynccontextmanager
async def traffic(client: Client, model: str, data: Sequence[float] = (1.0, 2.0)) -> AsyncIterator[None]:
    """Direct requests, 20 a second, whatever becomes of them and however long they take."""

    async def ask() -> None:
        for number in count():
            await client.infer(f"d-{number}", model=model, data=list(data), route="direct")
            await asyncio.sleep(0.05)

    async def listen() -> None:
        while True:
            await client.next()

    tasks = [asyncio.create_task(work()) for work in (ask, listen)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fires(prometheus: Prometheus, expected: Alerts) -> None:
    """Wait until these fire, and look at what they say."""
    await soon(lambda: expected <= prometheus.firing(), lambda: expected - prometheus.firing())
    for alert in prometheus.alerts():
        annotations = alert["annotations"]
        assert annotations["runbook_url"] == f"docs/alerts.md#{alert['labels']['alertname'].lower()}"
        assert "error" not in annotations["description"].replace("error budget", ""), annotations
        assert (alert["labels"]["namespace"], alert["labels"]["gateway"]) == ("default", "digits")


def damage(broker: Broker, names: dict[str, Any]) -> None:
    """Records that other services write and that nobody can use: a request, a result, one of the wrong partition."""
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    home = home_partition("user/s-1", PARTITIONS["results"]["partitions"])
    producer.produce(names["requests"]["topic"], b"no request", partition=0)
    headers = {"ce_type": "dev.podpair.result", "ce_id": "r-odd", "ce_source": "billing", "ce_subject": "user/s-1"}
    producer.produce(names["results"]["topic"], b"[1, 2]", "user/s-1", partition=home, headers=headers)
    for partition in range(PARTITIONS["results"]["partitions"]):
        if partition != home:
            producer.produce(names["results"]["topic"], b"{}", "user/s-1", partition=partition)
    assert producer.flush(20) == 0


class Files:
    """The gateway's certificate, good for a day: half of certificateExpiry."""

    def __init__(self, folder: Path) -> None:
        authority = Authority("podpair test clients")
        issued = authority.issue("gateway", ("127.0.0.1",))
        self.trusted = ssl.create_default_context(cadata=authority.certificate)
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.certificate.write_text(issued.certificate)
        self.key.write_text(issued.key)


def watched_by_alerts(files: Files, broker: Broker, names: dict[str, Any], model: FakeModel) -> dict[str, Any]:
    """The configuration of a gateway that has all that the resource has."""
    return {
        "http": {"certificate_file": str(files.certificate), "key_file": str(files.key)},
        "kafka": {"bootstrap_servers": broker.address},
        "inference": {"url": model.url, "probe_seconds": 0.1},
        "cache": {"models": [{"model": "rows"}], "topic": f"{names['requests']['topic']}.cache"},
        "admission": {"load_shedding": False},
        **{name: names[name] | PARTITIONS[name] for name in PARTITIONS},
    }


async def lose_things(gateway: Gateway, connect: Connect, client: Client, files: Files) -> None:
    """A client comes back with a position of another log, and a certificate is renewed that can't be used."""
    old = resuming(client, "another." + client.welcome["position"].split(".", 1)[1])
    await client.socket.close()
    await (await connect(gateway, sub="user", sid="s-1", params=old)).event("gap")
    files.key.write_text("no key")
    await soon(lambda: gateway.metric("tls_reloads_total", outcome="failure"), lambda: gateway.lines[-20:])


@pytest.mark.slow
async def test_faults_of_a_running_pair_fire_their_alerts(
    own_broker: Broker, names: dict[str, Any], model: FakeModel, start_gateway: Callable[..., Gateway], connect: Connect,
    watch: Callable[..., Prometheus], tmp_path: Path,
) -> None:  # fmt: skip
    files = Files(tmp_path)
    gateway = start_gateway(watched_by_alerts(files, own_broker, names, model))
    gateway.context = files.trusted
    gateway.wait_ready()
    prometheus = watch(gateway)
    client, second = await connect(gateway, sub="user", sid="s-1"), await connect(gateway, sub="user", sid="s-2")
    await soon(lambda: gateway.metric("request_partitions") == PARTITIONS["requests"]["partitions"])
    async with traffic(second, "fake"):
        await soon(lambda: prometheus.query('gateway:podpair_request_errors:ratio_rate5s{gateway="digits"} == 0'))
        await soon(lambda: prometheus.query("gateway:podpair_slow_requests:ratio_rate5s"))
        await fires(prometheus, warnings("CertificateExpiring"))
        assert prometheus.firing() == warnings("CertificateExpiring")
        await asyncio.to_thread(damage, own_broker, names)
        await lose_things(gateway, connect, client, files)
        records = warnings("DeadLetters", "Gaps", "RecordsMisplaced", "RecordsMalformed")
        await fires(prometheus, records | warnings("CertificateNotReloaded"))
        model.answer = (500, {"error": "out of memory"})
        await fires(prometheus, critical("ErrorBudgetBurn") | warnings("ErrorBudgetBurn"))
        model.reset()
        model.delay = 0.8
        await fires(prometheus, critical("LatencyBudgetBurn") | warnings("LatencyBudgetBurn"))
        model.delay = 0.0
    model.ready = False
    await soon(lambda: gateway.metric("requests_paused") == 1)
    for number in range(5):
        await second.infer(f"q-{number}", model="fake", data=[1, 2], route="queue", deadline_ms=600_000)
    await fires(prometheus, critical("ModelDown") | warnings("ModelNotReady", "RequestsPaused", "QueueAgeHigh"))
    own_broker.child.kill()
    await fires(prometheus, critical("KafkaNotReady") | warnings("CacheNotCurrent"))
    jwks = {"secret": None, "jwks_url": f"http://127.0.0.1:{free_port()}/jwks"}
    keyless = start_gateway({"auth": jwks, "kafka": {"embedded": True}, "inference": {"url": model.url}}, wait=False)
    address = keyless.operations.removeprefix("http://")
    prometheus.set_targets({address: {"namespace": "default", "pod": PODS[1]}})
    await fires(prometheus, critical("IssuerKeysMissing"))
    keyless.kill()
    await fires(prometheus, critical("Down"))


def panels() -> Iterator[tuple[str, str]]:
    """Each query of the dashboard, and its panel's title."""
    (text,) = MADE["Dashboard"]["data"].values()
    for panel in json.loads(text)["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace(RATE, "5s")


def empty(prometheus: Prometheus) -> list[tuple[str, str]]:
    """The queries that return nothing, or nothing but NaN."""
    return [
        (title, expression)
        for title, expression in panels()
        if all(math.isnan(float(sample["value"][1])) for sample in prometheus.query(expression))
    ]


@pytest.mark.slow
async def test_each_query_of_the_dashboard_has_data(
    broker: Broker, names: dict[str, Any], model: FakeModel, pair: Gateway, start_gateway: Callable[..., Gateway],
    connect: Connect, http: aiohttp.ClientSession, watch: Callable[..., Prometheus],
) -> None:  # fmt: skip
    """Everything that a panel shows happens once: panels by reason are empty until there is one."""
    gateway = start_gateway(
        {
            "kafka": {"bootstrap_servers": broker.address},
            "inference": {"url": model.url, "probe_seconds": 0.1},
            "batching": {"include": ["rows"]},
            "cache": {"models": [{"model": "rows"}]},
            "requests": names["requests"] | {"max_attempts": 2, "backoff_seconds": 0.01},
            "results": names["results"],
        }
    )
    gateway.wait_ready()
    client = await connect(gateway, sub="user", sid="s-1")
    model.answer = (500, {"error": "out of memory"})
    await client.infer("retried", model="fake", data=[1, 2], route="queue")
    assert (await client.answer("retried"))["code"] == "upstream"
    model.reset()
    model.answer = (503, {"error": "busy"})
    await client.infer("spilled", model="fake", data=[1, 2], route="auto", deadline_ms=60_000)
    await soon(lambda: gateway.metric("spilled_total"), timeout=20)
    model.reset()
    await client.answer("spilled")
    await client.infer("queued", model="fake", data=[1, 2], route="queue")
    queued = await client.answer("queued")
    await client.socket.close()
    client = await connect(gateway, sub="user", sid="s-1", params=resuming(client, queued["position"]))
    await client.socket.close()
    lost = resuming(client, "another." + queued["position"].split(".", 1)[1])
    client = await connect(gateway, sub="user", sid="s-1", params=lost)
    await client.event("gap")
    async with http.get(f"{gateway.url}/v1/ws") as refused:
        assert refused.status == 401
    await client.infer("cached", model="rows", data=[1, 2], route="direct")
    assert (await client.answer("cached"))["type"] == "result"
    digits = await connect(pair)
    await digits.lives()
    prometheus = watch(gateway, pair)
    second = await connect(gateway, sub="user", sid="s-2")
    async with traffic(second, "fake"), traffic(digits, "digits", ROW):
        await soon(lambda: not empty(prometheus), lambda: empty(prometheus), timeout=30)
    assert len(list(panels())) > 30


def test_a_query_without_data_is_noticed() -> None:
    """`empty` sees what returns nothing: else the test above could not fail."""

    class Nothing:
        def query(self, expression: str) -> list[dict[str, Any]]:
            return [{"value": [0, "NaN"]}] if "sessions" in expression else []

    assert len(empty(Nothing())) == len(list(panels()))  # type: ignore[arg-type]
