"""docs/operating.md: each command on it runs as it stands, and each metric that it names is one."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import Producer

from gateway.conftest import Connect
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import SECRET, Gateway
from harness.processes import BIN, ROOT, completed
from harness.waiting import soon
from podpair.gateway.core.partitions import home_partition
from podpair.gateway.metrics import Metrics

PAGE = (ROOT / "docs" / "operating.md").read_text()
COMMANDS = re.findall(r"^    \$ (.+)$", PAGE, re.MULTILINE)
# What each of them prints here, in the page's order.
SAID = (
    '"ready": true', "podpair_gateway_requests_lag{partition=", "waiting  request r-1  session user/s-1",
    "1 dead letter put back", "1 dead letter put back", "answered", "session user/s-1 (home partition",
    'misplaced_total{outcome="', "likely cause at the producer: ", "",
)  # fmt: skip


def test_each_metric_is_there() -> None:
    named = set(re.findall(r"podpair_gateway_\w+", PAGE))
    assert len(named) > 8
    assert named <= {name for name, *_ in Metrics().table()}


async def test_each_command_runs(
    broker: Broker, names: dict[str, Any], model: FakeModel, real_gateway: Callable[..., Gateway], connect: Connect,
    tmp_path: Path,
) -> None:  # fmt: skip
    requests = {"max_attempts": 1, "partitions": 4}
    gateway = real_gateway(
        inference={"url": model.url, "probe_seconds": 0.1},
        requests=requests,
        results={"partitions": 4},
        sessions={"heartbeat_seconds": 600},  # the client reads nothing while the commands run
    )
    settings = {"auth": {"secret": SECRET}, "kafka": {"bootstrap_servers": broker.address}} | names
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(settings))
    client = await connect(gateway, sub="user", sid="s-1")
    model.answer = (500, {"error": "boom"})
    for request in ("r-1", "r-3"):
        await client.infer(request, model="fake", data=[1, 2], route="queue")
        assert (await client.answer(request))["code"] == "upstream"
    model.reset()
    await client.infer("r-2", model="fake", data=[1, 2], route="queue")
    await client.answer("r-2")
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    foreign = (home_partition("user/s-1", 4) + 1) % 4
    producer.produce(names["results"]["topic"], b"{}", "user/s-1", partition=foreign)
    assert producer.flush(20) == 0
    await soon(lambda: "podpair_gateway_requests_lag{" in gateway.get("/metrics")[1])

    def astray() -> bool:  # until the gateway looks after that partition
        producer.produce(names["results"]["topic"], b"{}", "user/s-1", partition=foreign)
        assert producer.flush(20) == 0
        return gateway.metric("results_records_misplaced_total") > 0

    await soon(astray)
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    assert len(COMMANDS) == len(SAID)
    for command, said in zip(COMMANDS, SAID, strict=True):
        line = command.replace("http://127.0.0.1:8083", gateway.operations)
        command_line = ("bash", "-o", "pipefail", "-c", line)
        done = await asyncio.to_thread(completed, *command_line, cwd=tmp_path, env=environment)
        assert done.returncode == 0, (command, done.stderr)
        assert said in done.stdout + done.stderr, (command, done.stdout, done.stderr)
    assert (await client.event("push"))["data"] == {"hello": "you"}
