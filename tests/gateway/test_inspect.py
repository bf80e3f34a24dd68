"""`podpair-gateway inspect`: whoever asks where a result is is told where it is, and what to do."""

import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer

from gateway.conftest import Connect
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import SECRET, Gateway
from harness.processes import BIN, completed, output_of
from harness.waiting import soon, until
from podpair.gateway.cli.inspect import _placed
from podpair.gateway.core.partitioners import MisplacedKeys
from podpair.gateway.core.partitions import home_partition
from podpair.gateway.core.timeline import TimelineRecord, misplaced_report

Inspect = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def inspect(tmp_path: Path, broker: Broker, names: dict[str, Any]) -> Inspect:
    path = tmp_path / "inspect.yaml"
    path.write_text(
        yaml.safe_dump({"auth": {"secret": SECRET}, "kafka": {"bootstrap_servers": broker.address}} | names)
    )

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return completed(BIN / "podpair-gateway", "inspect", "--config", path, *arguments)

    return run


@pytest.fixture
def gateway(real_gateway: Callable[..., Gateway], model: FakeModel) -> Gateway:
    inference = {"url": model.url, "probe_seconds": 0.1}
    return real_gateway(inference=inference, requests={"max_attempts": 2, "backoff_seconds": 0.01})


def test_a_record_whose_headers_cannot_be_read_harms_no_other(
    gateway: Gateway, broker: Broker, inspect: Inspect, names: dict[str, Any], require: Callable[[str], str]
) -> None:
    results = names["results"]["topic"]
    command = [require("kcat"), "-P", "-b", broker.address, "-t", results, "-p", "0", "-k", "s-told"]
    latin = "caf\udce9=1"  # the byte E9: no UTF-8
    output_of(*command, "-H", latin, stdin="{}\n")
    output_of(*command, stdin="{}\n")
    told = inspect("s-told")
    assert told.returncode == 0, told.stderr
    assert f"{results}[0]@0" in told.stdout
    assert f"{results}[0]@1" in told.stdout


async def ask(client: Any, request_id: str) -> None:
    await client.infer(request_id, model="fake", data=[1.0, 2.0], route="queue")
    await client.event("accepted", id=request_id)


async def test_requests_that_were_answered_that_wait_and_that_were_given_up(
    gateway: Gateway, model: FakeModel, connect: Connect, inspect: Inspect, names: dict[str, Any]
) -> None:
    client = await connect(gateway, sid="s-inspected")
    name = client.welcome["gateway"]
    requests, results = names["requests"]["topic"], names["results"]["topic"]
    home = client.welcome["position"].split(".")[1]

    await ask(client, "r-good")
    offset = (await client.answer("r-good"))["position"].split(".")[2]
    told = inspect("r-good")
    assert told.returncode == 0, told.stderr
    head, queued, answered, standing = told.stdout.splitlines()
    assert head == f"request r-good  session user/s-inspected (home partition {home})"
    assert f"queued     at {requests}[" in queued
    assert f"by gateway {name}, model fake" in queued
    assert f"answered   at {results}[{home}]@{offset} by gateway {name}" in answered
    assert f"its answer is at {results}[{home}]@{offset}" in standing

    model.answer = (500, {"error": "boom"})
    await ask(client, "r-dead")
    await client.answer("r-dead")
    told = inspect("r-dead")
    assert f"given up   after 2 attempts by gateway {name}, kept at {requests}.dlq[0]@0" in told.stdout
    assert "boom" in told.stdout
    assert told.stdout.splitlines()[-1] == "  it was given up: put it back with: podpair-gateway replay --id r-dead"

    model.reset()
    model.open.clear()
    await ask(client, "r-waits")
    await soon(lambda: [asked for asked in model.asked if asked["id"] == "r-waits"])
    told = inspect("r-waits")
    assert f"it waits or is worked on at gateway {name} (" in told.stdout

    told = inspect("user/s-inspected")
    assert told.stdout.startswith(
        f"session user/s-inspected (home partition {home}: {results}[{home}] has offsets 0 to "
    )
    assert f"through gateway {name}" in told.stdout
    assert "3 requests, 1 without an answer" in told.stdout
    assert "    r-waits: it waits" in told.stdout

    gateway.kill()
    model.open.set()

    # The group takes the partitions away once the session has timed out.
    def nobody() -> bool:
        return "no gateway of the group reads" in inspect("r-waits").stdout

    until(nobody, timeout=90)


async def test_records_in_partitions_where_nobody_is_given_them(
    gateway: Gateway, connect: Connect, inspect: Inspect, names: dict[str, Any], broker: Broker
) -> None:
    client = await connect(gateway, sid="s-misled")
    session, results = client.welcome["session"], names["results"]["topic"]
    home = int(client.welcome["position"].split(".")[1])
    await ask(client, "r-good")
    await client.answer("r-good")
    # A service that writes an answer itself, with librdkafka as it is by default, for this session and others.
    wrong = next(n for n in range(99) if zlib.crc32(b"user/s-%d" % n) % 8 != home_partition(f"user/s-{n}", 8))
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    for number in range(wrong, wrong + 10):
        headers = {"ce_type": "dev.podpair.result", "ce_id": "r-astray", "ce_source": "billing"}
        producer.produce(results, b"{}", f"user/s-{number}", headers=headers)
    producer.produce(results, b"{}", session, partition=(home + 1) % 8)
    producer.produce(results, b"{}", partition=home, headers={"ce_subject": session})
    assert producer.flush(20) == 0
    other = f"user/s-{wrong}"

    told = inspect(other)
    assert told.returncode == 0, told.stderr
    assert f"  misplaced  {results}[" in told.stdout
    assert (
        f" by billing: its key {other} means {results}[{home_partition(other, 8)}], so nobody is given it"
        in told.stdout
    )
    assert "  results   none" in told.stdout

    told = inspect("r-astray")
    assert f"session {other} (home partition {home_partition(other, 8)})" in told.stdout
    assert f"answered   at {results}[{zlib.crc32(other.encode()) % 8}]@" in told.stdout
    (of_other,) = (part for part in told.stdout.split("request r-astray") if f"session {other} " in part)
    assert "its answer is at" not in of_other

    told = inspect(session)
    lines = [line for line in told.stdout.splitlines() if "misplaced" in line]
    assert [line for line in lines if f"{results}[{(home + 1) % 8}]@" in line and f"means {results}[{home}]" in line]
    assert [line for line in lines if "has no key, and so is nobody's" in line]
    assert "1 records, the last at" in told.stdout, "r-good, which is where it should be"
    assert "likely cause at the producer: " in told.stdout
    assert "(docs/producers.md)" in told.stdout
    assert "misplaced" not in inspect("r-good").stdout


def test_the_cause_of_one_key_is_that_of_all() -> None:
    headers = {"ce_source": b"billing"}
    records = [
        TimelineRecord("results", "t", zlib.crc32(key) % 6, n, 0.0, key, headers, b"")
        for n, key in enumerate((b"a", b"b", b"c", b"d"))
    ]
    astray = MisplacedKeys()
    found = list(_placed(iter(records), 6, astray))
    misplaced = [record for record in found if record.misplaced]
    assert misplaced
    assert all(record.home == home_partition((record.key or b"").decode(), 6) for record in misplaced)
    cause = astray.cause()
    *lines, last = misplaced_report(found, lambda _: cause)
    assert len(lines) == len(misplaced)
    assert last.startswith("  likely cause at the producer: its partitioner is CRC-32, librdkafka's default")
    assert list(_placed(iter(records), None, astray)) == records, "requests may be anywhere"


async def test_what_nobody_has_heard_of(gateway: Gateway, inspect: Inspect) -> None:
    told = inspect("r-nowhere")
    assert told.returncode == 1
    assert "nothing about 'r-nowhere'" in told.stderr
    assert "Traceback" not in told.stderr
