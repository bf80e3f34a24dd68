"""`podpair-gateway explain`: whoever asks where a result is is told where it is, and what to do."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.conftest import Connect, soon
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import SECRET, Gateway, until
from harness.processes import BIN

Explain = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def explain(tmp_path: Path, broker: Broker, names: dict[str, Any]) -> Explain:
    path = tmp_path / "explain.yaml"
    path.write_text(
        yaml.safe_dump({"auth": {"secret": SECRET}, "kafka": {"bootstrap_servers": broker.address}} | names)
    )

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PODPAIR_")}
        return subprocess.run(
            [str(BIN / "podpair-gateway"), "explain", "--config", str(path), *arguments],
            env=clean, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def gateway(real_gateway: Callable[..., Gateway], model: FakeModel) -> Gateway:
    inference = {"url": model.url, "probe_seconds": 0.1}
    return real_gateway(inference=inference, requests={"attempts": 2, "backoff_seconds": 0.01})


async def ask(client: Any, request_id: str) -> None:
    await client.infer(request_id, model="fake", data=[1.0, 2.0], route="queue")
    await client.event("accepted", id=request_id)


async def test_requests_that_were_answered_that_wait_and_that_were_given_up(
    gateway: Gateway, model: FakeModel, connect: Connect, explain: Explain, names: dict[str, Any]
) -> None:
    client = await connect(gateway, sid="s-explained")
    name = client.welcome["gateway"]
    requests, results = names["requests"]["topic"], names["results"]["topic"]
    home = client.welcome["position"].split(".")[1]

    await ask(client, "r-good")
    offset = (await client.answer("r-good"))["position"].split(".")[2]
    told = explain("r-good")
    assert told.returncode == 0, told.stderr
    head, queued, answered, standing = told.stdout.splitlines()
    assert head == f"request r-good  session user/s-explained (home partition {home})"
    assert f"queued     at {requests}[" in queued
    assert f"by gateway {name}, model fake" in queued
    assert f"answered   at {results}[{home}]@{offset} by gateway {name}" in answered
    assert f"its answer is at {results}[{home}]@{offset}" in standing

    model.answer = (500, {"error": "boom"})
    await ask(client, "r-dead")
    await client.answer("r-dead")
    told = explain("r-dead")
    assert f"given up   after 2 attempts by gateway {name}, kept at {requests}.dlq[0]@0" in told.stdout
    assert "boom" in told.stdout
    assert told.stdout.splitlines()[-1] == "  it was given up: put it back with: podpair-gateway replay --id r-dead"

    model.reset()
    model.open.clear()
    await ask(client, "r-waits")
    await soon(lambda: [asked for asked in model.asked if asked["id"] == "r-waits"])
    told = explain("r-waits")
    assert f"it waits or is worked on at gateway {name} (" in told.stdout

    told = explain("user/s-explained")
    assert told.stdout.startswith(
        f"session user/s-explained (home partition {home}: {results}[{home}] has offsets 0 to "
    )
    assert f"through gateway {name}" in told.stdout
    assert "3 requests, 1 without an answer" in told.stdout
    assert "    r-waits: it waits" in told.stdout

    gateway.kill()
    model.open.set()

    # The group takes the partitions away once the session has timed out.
    def nobody() -> bool:
        return "no gateway of the group reads" in explain("r-waits").stdout

    until(nobody, timeout=90)


async def test_what_nobody_has_heard_of(gateway: Gateway, explain: Explain) -> None:
    told = explain("r-nowhere")
    assert told.returncode == 1
    assert "nothing about 'r-nowhere'" in told.stderr
    assert "Traceback" not in told.stderr
