"""Workflows while gateways and models are killed: each instance ends once, and so does what its stages do elsewhere."""

import json
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from harness.kafka import Broker
from harness.pair import Gateway, Inference
from harness.workflow_checking import Effect, WorkflowChecker

_ITEMS = 3
_WORKFLOW = """
stages:
  plan:
    step: plan
  reserve:
    step: effect
    for_each: plan.items
    input: "{request: request.name, stage: 'reserve', index: index, value: item}"
    max_parallel: 2
    retry: {attempts: 20, backoff: 200ms, max_backoff: 1s}
  total:
    step: total
    input: reserve
  charge:
    step: effect
    input: "{request: request.name, stage: 'charge', value: total}"
    retry: {attempts: 20, backoff: 200ms, max_backoff: 1s}
  confirm:
    step: effect
    input: "{request: request.name, stage: 'confirm', value: charge}"
    retry: {attempts: 20, backoff: 200ms, max_backoff: 1s}
output: confirm
"""
_NEEDS: dict[str, list[str]] = {
    "plan": [], "reserve": ["plan"], "total": ["reserve"], "charge": ["total"], "confirm": ["charge"],
}  # fmt: skip
_EFFECTS = [*(("reserve", index) for index in range(_ITEMS)), ("charge", None), ("confirm", None)]
_STEPS = """
import json
import urllib.request

from podpair.inference import StepContext, UnavailableError


def plan(request: dict) -> dict:
    return {"items": [request["number"] + index for index in range(ITEMS)]}


def total(values: list) -> int:
    return sum(values)


def effect(given: dict, context: StepContext) -> int:
    context.progress({"at": given["stage"]})
    body = json.dumps(given | {"key": context.key}).encode()
    try:
        with urllib.request.urlopen("SINK", body, timeout=5) as answer:
            return json.load(answer)
    except OSError as error:
        raise UnavailableError(f"the sink is away: {error}") from None
"""


class Sink:
    """Does what a key asks for once, and gives the same answer ever after."""

    def __init__(self) -> None:
        self.done: dict[str, dict[str, Any]] = {}
        self.asked = 0
        lock, sink = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    sink.asked += 1
                    done = sink.done.setdefault(given["key"], given)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(done["value"]).encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    running = Sink()
    yield running
    running.close()


@pytest.fixture
def repository(tmp_path: Path, sink: Sink) -> Path:
    folder = tmp_path / "models" / "flow" / "1"
    folder.mkdir(parents=True)
    (folder / "workflow.yaml").write_text(_WORKFLOW)
    (folder / "steps.py").write_text(_STEPS.replace("SINK", sink.url).replace("ITEMS", str(_ITEMS)))
    return tmp_path / "models"


class Pairs:
    """Two pairs, whose halves can be killed; each comes back where it was."""

    def __init__(self, folder: Path, repository: Path, broker: Broker, names: dict[str, Any]) -> None:
        self._folder = folder
        self._repository = repository
        self._config = names | {
            "kafka": {"bootstrap_servers": broker.address},
            "workflows": {"enabled": True},
            "requests": names["requests"] | {"transaction_timeout_seconds": 2},
        }
        self.models = [Inference(0, repository) for _ in range(2)]
        self.gateways = [self._gateway(model) for model in self.models]
        for gateway in self.gateways:
            gateway.wait_ready()

    def _gateway(self, model: Inference) -> Gateway:
        return Gateway(self._folder, self._config | {"inference": {"url": model.url, "probe_seconds": 0.2}}, wait=False)

    def kill_gateway(self, number: int) -> None:
        self.gateways[number].kill()
        self.gateways[number] = self._gateway(self.models[number])

    def kill_model(self, number: int) -> None:
        port = self.models[number].port
        self.models[number].kill()
        self.models[number] = Inference(port, self._repository)

    def close(self) -> None:
        for process in [*self.gateways, *self.models]:
            process.kill()


class Topic:
    """What is committed to the results topic, passed to a checker."""

    def __init__(self, broker: Broker, topic: str, checker: WorkflowChecker) -> None:
        self._checker = checker
        settings = {"bootstrap.servers": broker.address, "group.id": "checker", "isolation.level": "read_committed"}
        self._consumer = Consumer(settings)
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in range(8)])

    def read(self, seconds: float) -> None:
        for message in self._consumer.consume(10_000, seconds):
            assert message.error() is None, message.error()
            headers = dict(message.headers() or ())
            request, kind = headers["ce_id"].decode(), headers["ce_type"].decode().removeprefix("dev.podpair.")
            if kind == "partial":
                self._checker.partial(request, int(headers["seq"]), json.loads(message.value() or b""))
            else:
                self._checker.ended(request, kind)

    def close(self) -> None:
        self._consumer.close()


def ask(producer: Producer, topic: str, requests: list[str]) -> None:
    for number, request in enumerate(requests):
        headers = {"ce_id": request, "ce_subject": f"s-{number % 7}", "ce_type": "dev.podpair.request", "model": "flow"}
        producer.produce(topic, json.dumps({"data": {"name": request, "number": number}}), None, headers=headers)
    assert producer.flush(30) == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("instances", "kills"), [(60, 2), pytest.param(1000, 16, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_each_instance_ends_once_whoever_dies(
    instances: int, kills: int, tmp_path: Path, repository: Path, sink: Sink, broker: Broker, names: dict[str, Any],
    producer: Producer,
) -> None:  # fmt: skip
    rng = random.Random(instances)
    requests = [f"r-{number:04}" for number in range(instances)]
    checker = WorkflowChecker(requests, _NEEDS, _EFFECTS)
    pairs = Pairs(tmp_path, repository, broker, names)
    topic = Topic(broker, names["results"]["topic"], checker)
    try:
        ask(producer, names["requests"]["topic"], requests)
        at = sorted(rng.sample(range(instances // 10, instances * 8 // 10), kills))
        killed, end = 0, time.monotonic() + 600
        while checker.finished < instances:
            assert time.monotonic() < end, (
                checker.finished,
                checker.faults()[:20],
                [g.lines[-5:] for g in pairs.gateways],
            )
            topic.read(0.1)
            if killed < kills and checker.finished >= at[killed]:
                kill = (pairs.kill_gateway, pairs.kill_model)[killed % 2]
                killed += 1
                kill(rng.randrange(2))
        topic.read(3.0)  # whatever is said too much
    finally:
        pairs.close()
        topic.close()
    for done in sink.done.values():
        checker.effect(Effect(done["request"], done["stage"], done.get("index")))
    bad = checker.faults()
    assert not bad, (bad[:20], checker.events_of(bad[0].partition(":")[0]))
    assert sink.asked >= len(sink.done)
