"""What CloudEvents SDKs write on Kafka, in either mode, arrives as what it says: pushes, and requests that are answered."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.conftest import ROW, Connect, kafka_of
from harness import environments, javascript
from harness.machine import require
from harness.maven import jars
from harness.pair import Gateway
from harness.processes import output_of
from harness.waiting import soon

OUTSIDE = Path(__file__).parent / "outside"
STRUCTURED = {"content-type": b"application/cloudevents+json"}


class Written(NamedTuple):
    id: str
    headers: dict[str, bytes]
    value: bytes


def in_python() -> tuple[list[str | Path], Path | None]:
    return [environments.python(OUTSIDE.parent / "clients.lock"), OUTSIDE / "cloud_events.py"], None


def in_javascript() -> tuple[list[str | Path], Path | None]:
    program = OUTSIDE / "javascript/cloud_events.mjs"
    return [javascript.node(), program], javascript.packages(OUTSIDE / "javascript/package-lock.json")


def in_java() -> tuple[list[str | Path], Path | None]:
    java, _ = require("java", "javac")
    libraries = jars(OUTSIDE / "java/pom.xml", "cloud-events")
    return [java, "-Xmx256m", "-XX:+UseSerialGC", "-cp", f"{libraries}/*", OUTSIDE / "java/CloudEvents.java"], None


@pytest.mark.timeout(600)  # what they need may have to be fetched
@pytest.mark.parametrize("sdk", [in_python, in_javascript, in_java])
async def test_what_sdks_write(pair: Gateway, connect: Connect, push: Any, sdk: Callable[[], Any]) -> None:
    session = (await connect(pair, sid=sdk.__name__)).welcome["session"]

    def write() -> list[Written]:
        command, folder = sdk()
        said = output_of(*command, session, json.dumps(ROW), cwd=folder)
        lines = [json.loads(line) for line in said.splitlines()]
        decode = base64.b64decode
        return [
            Written(line["id"], {k: decode(v) for k, v in line["headers"].items()}, decode(line["value"]))
            for line in lines
        ]

    written = await asyncio.to_thread(write)
    assert len(written) >= 8
    client = await connect(pair, sid=sdk.__name__)  # anew: who reads nothing for so long answers no heartbeat
    for one in written:
        structured = one.headers["content-type"].startswith(b"application/cloudevents+json")
        assert structured == one.id.endswith("structured")
        assert structured != ("ce_id" in one.headers)
        topic = "podpair.requests" if one.id.startswith("request") else "podpair.results"
        await asyncio.to_thread(push, kafka_of(pair), session, one.value, headers=one.headers, topic=topic)
        if one.id.startswith("request"):
            result = await client.answer(one.id)
            assert (result["type"], result["model"]) == ("result", "digits")
            continue
        event = await client.event("push")
        what, _, mode = one.id.partition("-")
        data = {key: value for key, value in event.items() if key not in ("type", "position")}
        assert data == {
            "json": {"data": {"mode": mode}}, "bytes": {"data_base64": "AP8="}, "text": {"data_base64": "aGVsbG8="},
        }[what]  # fmt: skip


def envelope(**members: Any) -> bytes:
    event = {"specversion": "1.0", "id": "e1", "source": "/shop", "type": "com.example.order", **members}
    return json.dumps({name: value for name, value in event.items() if value is not ...}).encode()


async def test_an_event_that_cant_be_read_is_told_and_counted(pair: Gateway, connect: Connect, push: Any) -> None:
    client = await connect(pair, sid="unreadable")
    before = pair.metric("results_records_malformed_total", type="cloudevent")
    for value in (b"{", envelope(data_base64="?"), envelope(id=...), envelope(specversion="0.3"), b"\xff", None):
        await asyncio.to_thread(push, kafka_of(pair), "user/unreadable", value, headers=STRUCTURED)
        error = await client.event("error")
        assert (error["code"], "id" in error) == ("invalid", False)
        assert error["message"].startswith("a CloudEvent that can't be read: ")
        assert error["position"]
    batch = {"content-type": b"application/cloudevents-batch+json"}
    await asyncio.to_thread(push, kafka_of(pair), "user/unreadable", b"[]", headers=batch)
    assert "one event a record" in (await client.event("error"))["message"]
    assert pair.metric("results_records_malformed_total", type="cloudevent") == before + 7
    await client.lives()


async def test_a_request_that_cant_be_read_is_a_dead_letter(pair: Gateway, connect: Connect, push: Any) -> None:
    client = await connect(pair, sid="bad-request")
    before = pair.metric("dead_letters_total")
    broken = envelope(type="dev.podpair.request", subject="user/bad-request")  # which model?
    for value in (b"{", envelope(data_base64="?"), broken):
        await asyncio.to_thread(push, kafka_of(pair), None, value, headers=STRUCTURED, topic="podpair.requests")
    error = await client.event("error", id="e1")
    assert (error["code"], "model" in error["message"]) == ("invalid", True)
    await client.lives()
    await client.infer("behind", route="queue")
    await client.answer("behind")
    assert pair.metric("dead_letters_total") == before + 3


async def test_structured_answers_end_their_requests(
    before_model: Gateway, model: Any, connect: Connect, push: Any
) -> None:
    """Another service may answer in this mode, too; and so it does for a client that is away."""
    model.open.clear()
    finished = before_model.metric("queue_requests_total")
    client = await connect(before_model, sid="structured")
    await client.infer("e1", model="fake", data=[1, 2], route="queue")
    await client.event("accepted")
    answer = envelope(type="dev.podpair.result", data={"data": {"mine": 1}}, seq=3)
    await asyncio.to_thread(push, kafka_of(before_model), "user/structured", answer, headers=STRUCTURED)
    result = await client.answer("e1")
    assert (result["type"], result["data"]) == ("result", {"mine": 1})
    await client.infer("e1", model="fake", data=[1, 2], retry=True)  # told again, from the log
    assert (await client.answer("e1"))["data"] == {"mine": 1}
    raw = await connect(before_model, raw=True, sid="structured")
    await asyncio.to_thread(push, kafka_of(before_model), "user/structured", envelope(data=[1]), headers=STRUCTURED)
    assert (await raw.frame()).data == "[1]"  # in whichever mode, what it is about
    model.open.set()
    await soon(lambda: before_model.metric("queue_requests_total") > finished)  # its own worker has ended it, too
