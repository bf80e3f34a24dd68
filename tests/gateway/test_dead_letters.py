"""A request that no attempt can answer ends at its client, is kept with the reason, and can be put back."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from gateway.conftest import Connect
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import SECRET, Gateway
from harness.processes import BIN, completed, output_of
from harness.waiting import until
from podpair.gateway.core.dead_letters import RequeuedOffsets


@pytest.fixture
def gateway(broker: Broker, names: dict[str, Any], model: FakeModel, start_gateway: Callable[..., Gateway]) -> Gateway:
    requests = names["requests"] | {"max_attempts": 3, "backoff_seconds": 0.01}
    config = names | {"requests": requests, "kafka": {"bootstrap_servers": broker.address}}
    started = start_gateway(config | {"inference": {"url": model.url}})
    started.wait_ready()
    return started


@pytest.fixture
def replay(broker: Broker, names: dict[str, Any]) -> Callable[..., str]:
    """`replay("--list")` runs the command; returns what it printed."""
    env = {
        "PODPAIR_AUTH__SECRET": SECRET,
        "PODPAIR_KAFKA__BOOTSTRAP_SERVERS": broker.address,
        "PODPAIR_REQUESTS__TOPIC": names["requests"]["topic"],
        "PODPAIR_REQUESTS__GROUP": names["requests"]["group"],
    }

    def run(*arguments: str) -> str:
        done = completed(BIN / "podpair-gateway", "replay", *arguments, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


async def test_it_is_kept_with_the_reason_and_put_back(
    gateway: Gateway, model: FakeModel, connect: Connect, replay: Callable[..., str], names: dict[str, Any]
) -> None:
    model.answer = (500, {"error": "out of memory"})
    client = await connect(gateway, sid="s-dead")
    for request in ("r1", "r2"):
        await client.infer(request, model="fake", data=[1, 2], route="queue", deadline_ms=60_000)
        error = await client.answer(request)
        assert (error["code"], error["message"]) == ("upstream", "the model failed 3 times: out of memory")
    assert len(model.asked) == 6
    assert gateway.metric("dead_letters_total") == 2

    listed = await asyncio.to_thread(replay, "--list")
    assert "2 dead letters" in listed
    for part in (
        "request r1",
        "session user/s-dead",
        "model fake",
        f"from {names['requests']['topic']}[",
        "after 3 attempts",
    ):
        assert part in listed

    model.answer = (200, {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]})
    assert "1 dead letter put back" in await asyncio.to_thread(replay, "--id", "r2")
    await asyncio.to_thread(until, lambda: gateway.metric("queue_requests_total", outcome="result") == 1)
    listed = await asyncio.to_thread(replay, "--list")
    assert "2 dead letters, 1 of them put back" in listed
    assert [line.split("  ")[2:4] for line in sorted(listed.splitlines())[:2]] == [
        ["waiting", "request r1"], ["put back", "request r2"],
    ]  # fmt: skip
    assert "1 dead letter put back" in await asyncio.to_thread(replay)
    await asyncio.to_thread(until, lambda: gateway.metric("queue_requests_total", outcome="result") == 2)
    assert "0 dead letters put back" in await asyncio.to_thread(replay)  # they were put back before
    assert "2 dead letters, 2 of them put back" in await asyncio.to_thread(replay, "--list")
    # What is named is put back again; r2 has run since then: it is answered as it was.
    assert "1 dead letter put back" in await asyncio.to_thread(replay, "--id", "r2")
    await asyncio.to_thread(until, lambda: gateway.metric("queue_requests_total", outcome="repeated") == 1)
    assert "2 dead letters put back" in await asyncio.to_thread(replay, "--all")
    # Its request has ended: a second answer is not passed on.
    await client.infer("r3", model="fake", data=[1, 2])
    assert (await client.answer("r3"))["type"] == "result"
    assert not [event for event in client.skipped if event["type"] == "result"]


def test_what_was_put_back_is_remembered_one_by_one() -> None:
    back = RequeuedOffsets(-1001, None, low=3, high=20)
    assert [offset for offset in range(25) if offset in back] == [0, 1, 2]
    back.add(7)
    back.add(5)
    again = RequeuedOffsets(back.commit.offset, back.commit.metadata, low=3, high=20)
    assert [offset for offset in range(25) if offset in again] == [0, 1, 2, 5, 7]
    again.add(3)
    again.add(4)
    assert again.commit.offset == 6
    again.add_all(7)
    assert (again.commit.offset, again.commit.metadata) == (8, "")
    edge = RequeuedOffsets(
        back.commit.offset, back.commit.metadata, low=7, high=20
    )  # the log begins where one is that was put back
    assert all((offset in edge) == (offset in back) for offset in range(7, 20))
    later = RequeuedOffsets(8, "", low=11, high=20)  # retention
    assert [offset for offset in range(25) if offset in later] == list(range(11))
    another = RequeuedOffsets(30, back.commit.metadata, low=0, high=20)
    assert not [offset for offset in range(25) if offset in another], "the commit is of another log"


async def test_a_record_that_is_no_request_does_not_stop_its_partition(
    gateway: Gateway, broker: Broker, connect: Connect, replay: Callable[..., str], names: dict[str, Any]
) -> None:
    client = await connect(gateway, sid="s-poison")
    producer = Producer({"bootstrap.servers": broker.address})
    topic = names["requests"]["topic"]
    for partition in range(8):
        producer.produce(topic, b"what?", partition=partition)
    producer.produce(topic, b"{}", headers={"ce_id": "r-x", "ce_subject": "user/s-poison"})
    producer.flush(10)
    error = await client.answer("r-x")
    assert (error["code"], error["message"]) == ("invalid", "header 'model' is missing")
    for number in range(20):
        await client.infer(f"r{number}", model="fake", data=[1, 2], route="queue")
    answered = {(await client.event("result"))["id"] for _ in range(20)}
    assert answered == {f"r{number}" for number in range(20)}
    assert "9 dead letters" in await asyncio.to_thread(replay, "--list")


async def test_a_dead_letter_whose_headers_cannot_be_read_is_left_alone(
    gateway: Gateway, broker: Broker, connect: Connect, replay: Callable[..., str], names: dict[str, Any],
    require: Callable[[str], str],
) -> None:  # fmt: skip
    topic = names["requests"]["topic"]
    client = await connect(gateway, sid="s-unreadable")
    producer = Producer({"bootstrap.servers": broker.address})
    producer.produce(topic, b"{}", headers={"ce_id": "r-x", "ce_subject": "user/s-unreadable"})
    producer.flush(10)
    await client.answer("r-x")
    latin = "caf\udce9=1"  # the byte E9: no UTF-8
    command = [require("kcat"), "-P", "-b", broker.address, "-t", f"{topic}.dlq", "-H", latin]
    await asyncio.to_thread(output_of, *command, stdin="{}\n")
    listed = await asyncio.to_thread(replay, "--list")
    assert "left alone: it has no headers that can be read" in listed
    assert "1 dead letter, 0" in listed
    assert "1 dead letter put back" in await asyncio.to_thread(replay)


async def test_a_request_that_the_model_dies_of_is_given_up_and_no_other(
    gateway: Gateway, model: FakeModel, connect: Connect, replay: Callable[..., str]
) -> None:
    client = await connect(gateway, sid="s-kills")
    model.dies_of = 66.0
    model.open.clear()
    for number in range(10):
        await client.infer(f"r{number}", model="fake", data=[1, 2], route="queue")
    await client.infer("killer", model="fake", data=[66, 2], route="queue")
    await asyncio.to_thread(until, lambda: len(model.asked) == 11)  # it has them all in hand
    model.open.set()
    ended = [await client.next() for _ in range(22)]
    answered = {event["id"] for event in ended if event["type"] == "result"}
    assert answered == {f"r{number}" for number in range(10)}
    (error,) = (event for event in ended if event["type"] == "error")
    assert (error["id"], error["code"]) == ("killer", "upstream")
    assert error["message"] == "the model died 3 times while it had this request"
    assert "1 dead letter" in await asyncio.to_thread(replay, "--list")


async def test_a_model_that_says_far_too_much_is_quoted_in_part(
    gateway: Gateway, model: FakeModel, connect: Connect, replay: Callable[..., str]
) -> None:
    model.answer = (500, {"error": "no! " * 1_000_000})
    client = await connect(gateway)
    await client.infer("r", model="fake", data=[1, 2], route="queue")
    error = await client.answer("r")
    assert error["code"] == "upstream"
    assert len(error["message"]) < 3000
    assert "1 dead letter" in await asyncio.to_thread(replay, "--list")


async def test_old_events_do_not_have_requests_with_a_deadline_refused(
    gateway: Gateway, broker: Broker, connect: Connect, names: dict[str, Any]
) -> None:
    """When something happened, and what other services' clocks say, is no measure of how long answers take."""
    client = await connect(gateway, sid="s-old")
    producer = Producer({"bootstrap.servers": broker.address})
    now = time.time()
    old: list[dict[str, Any]] = [
        {"headers": {"ce_time": "2020-01-01T00:00:00Z"}},
        {"timestamp": int((now - 86_400) * 1000)},
        {"headers": {"queued_at": str(int((now - 86_400) * 1000))}},  # a copy
        {"headers": {"ce_time": "2020-01-01t00:00:00z", "ce_source": "another"}, "timestamp": int((now - 600) * 1000)},
    ]
    for number, one in enumerate(old):
        headers = {"ce_id": f"old-{number}", "ce_subject": "user/s-old", "model": "fake", **one.get("headers", {})}
        more = {name: value for name, value in one.items() if name != "headers"}
        producer.produce(names["requests"]["topic"], b'{"data":[1,2]}', headers=headers, **more)
    producer.flush(10)
    found = [await client.event("result") for _ in old]
    waits = {event["id"]: event["timing"]["queue_ms"] for event in found}
    assert waits["old-0"] < 60_000
    for number in range(5):
        await client.infer(f"r{number}", model="fake", data=[1, 2], route="queue", deadline_ms=60_000)
        assert (await client.answer(f"r{number}"))["type"] == "result"
    assert gateway.metric("rejected_total", reason="deadline") == 0
