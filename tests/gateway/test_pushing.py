"""Anything that writes to the results topic with a session's id as key reaches that session's client."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import aiohttp
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from gateway.conftest import Connect, kafka_of, resuming
from harness.kafka import Broker
from harness.pair import Gateway
from harness.processes import BIN, completed, output_of
from harness.waiting import soon
from podpair.gateway.core.partitions import home_partition


def order(position: str) -> tuple[str, int]:
    place, _, offset = position.rpartition(".")
    return place, int(offset)


async def test_pushes_arrive_in_order_each_at_its_position(pair: Gateway, connect: Connect, push: Any) -> None:
    client = await connect(pair)
    push(kafka_of(pair), client.welcome["session"], *(b'{"n":%d}' % n for n in range(500)))
    events = [await client.event("push") for _ in range(500)]
    assert [event["data"]["n"] for event in events] == list(range(500))
    positions = [order(event["position"]) for event in events]
    assert positions == sorted(set(positions))
    assert positions[0] > order(client.welcome["position"])


async def test_nobody_reads_what_is_anothers(pair: Gateway, connect: Connect, push: Any) -> None:
    """Two sessions with the same home."""
    home = home_partition("user/mine", 4)
    other = next(name for name in (f"other-{n}" for n in range(1000)) if home_partition(f"user/{name}", 4) == home)
    mine, theirs = await connect(pair, sid="mine"), await connect(pair, sid=other)
    for n in range(10):
        push(kafka_of(pair), ("user/mine", f"user/{other}")[n % 2], b"%d" % n)
    assert [(await mine.event("push"))["data"] for _ in range(5)] == [0, 2, 4, 6, 8]
    assert [(await theirs.event("push"))["data"] for _ in range(5)] == [1, 3, 5, 7, 9]


async def test_whatever_is_pushed_is_an_event(pair: Gateway, connect: Connect, push: Any) -> None:
    """And poison for one session holds up nobody."""
    client, other = await connect(pair, sid="poisoned"), await connect(pair)
    deep = b"[" * 50_000 + b"]" * 50_000
    push(kafka_of(pair), "user/poisoned", b'{"a":1}', b"plain", b"\xff\x00", None, b"", deep, b"[1,\n2]")
    assert [{k: v for k, v in (await client.event("push")).items() if k not in ("type", "position")} for _ in range(7)] == [
        {"data": {"a": 1}},
        {"data_base64": base64.b64encode(b"plain").decode()},
        {"data_base64": base64.b64encode(b"\xff\x00").decode()},
        {"data": None},
        {"data_base64": ""},
        {"data_base64": base64.b64encode(deep).decode()},
        {"data": [1, 2]},
    ]  # fmt: skip
    await other.lives()


async def test_a_workflow_of_another_service(pair: Gateway, connect: Connect, push: Any) -> None:
    client = await connect(pair)
    session = client.welcome["session"]
    for seq in range(3):
        headers = {"ce_type": "dev.podpair.partial", "ce_id": "job", "seq": str(seq)}
        push(kafka_of(pair), session, b'"stage"', headers=headers)
    push(kafka_of(pair), session, b'{"data":1}', headers={"ce_type": "dev.podpair.result", "ce_id": "job"})
    assert [(await client.event("partial", id="job"))["seq"] for _ in range(3)] == [0, 1, 2]
    assert (await client.answer("job"))["data"] == 1


async def test_a_raw_connection_gets_the_values_as_they_are(pair: Gateway, connect: Connect, push: Any) -> None:
    client = await connect(pair, raw=True, sid="raw-push")
    values = [b'{ "a" : 1 }', b"text", b"\xff\x00\x01", b""]
    push(kafka_of(pair), "user/raw-push", *values)
    frames = [await client.frame() for _ in values]
    assert [frame.data for frame in frames] == ['{ "a" : 1 }', "text", b"\xff\x00\x01", ""]


async def test_from_a_shell(pair: Gateway, connect: Connect) -> None:
    client = await connect(pair)
    command = [BIN / "podpair-gateway", "push", "--kafka", kafka_of(pair), "--session", client.welcome["session"]]
    done = await asyncio.to_thread(completed, *command, '{"hi": 1}')
    assert (done.returncode, done.stderr) == (0, "")
    assert (await client.event("push"))["data"] == {"hi": 1}


async def test_from_kcat(
    real_gateway: Callable[..., Gateway], broker: Broker, names: Any, connect: Connect, require: Callable[[str], str]
) -> None:
    kcat = require("kcat")
    gateway = real_gateway()
    for sub, sid in (("alice", "tab-1"), ("bob@example.com", "s-0123456789abcdef"), ("café|1", "x")):
        client = await connect(gateway, sub=sub, sid=sid)
        command = [
            kcat,
            "-P",
            "-b",
            broker.address,
            "-t",
            names["results"]["topic"],
            "-X",
            "partitioner=murmur2_random",
        ]
        await asyncio.to_thread(output_of, *command, "-k", client.welcome["session"], stdin='{"from":"kcat"}\n')
        assert (await client.event("push"))["data"] == {"from": "kcat"}


async def test_what_retention_took_is_a_gap_and_the_rest_comes(
    real_gateway: Callable[..., Gateway], broker: Broker, names: Any, connect: Connect, push: Any
) -> None:
    gateway = real_gateway()
    topic = names["results"]["topic"]
    first = await connect(gateway)
    epoch, partition, _ = first.welcome["position"].split(".")
    await first.socket.close()
    push(broker.address, first.welcome["session"], *(b"%d" % n for n in range(20)), topic=topic)
    admin = AdminClient({"bootstrap.servers": broker.address})
    for future in admin.delete_records([TopicPartition(topic, int(partition), 12)]).values():
        future.result(10)
    gateway = real_gateway()  # another one, which has nothing in memory
    second = await connect(gateway, params=resuming(first))
    gap = await second.event("gap")
    assert gap == {
        "type": "gap", "from": first.welcome["position"], "to": f"{epoch}.{partition}.11", "reason": "retention",
    }  # fmt: skip
    events = [await second.event("push") for _ in range(8)]
    assert [event["data"] for event in events] == list(range(12, 20))
    assert events[0]["position"] == f"{epoch}.{partition}.12"
    await second.lives()
    # Just at the edge nothing is missing.
    third = await connect(gateway, params=resuming(first, gap["to"]))
    assert (await third.next())["data"] == 12


async def test_history_that_is_not_in_memory_is_read_from_the_log(
    real_gateway: Callable[..., Gateway], broker: Broker, names: Any, connect: Connect
) -> None:
    gateway = real_gateway(results={"tail_cache_bytes": 1})
    first = await connect(gateway, sid="back")
    value = json.dumps("x" * 1000).encode()
    producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random"})
    for n in range(3000):
        producer.produce(names["results"]["topic"], value, ("user/back", "another-1", "another-2")[n % 3])
    assert producer.flush(20) == 0
    await first.socket.close()
    await soon(lambda: gateway.metric("sessions") == 0)
    second = await connect(gateway, sid="back", params=resuming(first))
    events = [await second.event("push") for _ in range(1000)]
    offsets = [order(event["position"])[1] for event in events]
    assert offsets == sorted(set(offsets))
    await second.lives()
    assert not [event for event in second.skipped if event["type"] == "push"]


async def test_what_the_broker_drops_before_it_is_read_is_a_gap(pair: Gateway, connect: Connect) -> None:
    """The embedded broker keeps 5 MB of a partition: a burst of more outruns its reader, and its session is told."""
    client = await connect(pair)
    producer = Producer({"bootstrap.servers": kafka_of(pair), "partitioner": "murmur2_random", "linger.ms": 50})
    for n in range(1500):
        producer.produce("podpair.results", json.dumps({"n": n, "filling": "x" * 20_000}), client.welcome["session"])
    start = client.welcome["position"]
    sent = asyncio.create_task(asyncio.to_thread(producer.flush, 30))
    told, at = 0, client.welcome["position"]
    while True:
        message = await client.frame()
        if message.type is aiohttp.WSMsgType.CLOSE:
            assert message.data == 3008  # it comes faster than a test in Python reads
            client = await connect(pair, params=resuming(client, at))
            continue
        event = json.loads(message.data)
        if event["type"] == "gap":
            assert (event["from"], event["reason"]) == (at, "retention")
            at = event["to"]
        else:
            at = event["position"]
            told += 1
            if event["data"]["n"] == 1499:
                break
    assert await sent == 0
    assert order(at)[1] - order(start)[1] == 1500
    assert told <= 1500
    await client.lives()


async def test_a_service_that_writes_answers_which_are_none_is_told_of(
    before_model: Gateway, connect: Connect, push: Callable[..., None]
) -> None:
    client = await connect(before_model)
    session = client.welcome["session"]
    before = before_model.metric("results_records_malformed_total", type="result")
    headers = {"ce_type": "dev.podpair.result", "ce_id": "r-odd", "ce_source": "billing", "ce_subject": session}
    push(kafka_of(before_model), session, b"[1, 2]", headers=headers)
    error = await client.event("error", id="r-odd")
    assert (error["code"], error["message"]) == ("internal", "the record's value is not a JSON object")
    assert before_model.metric("results_records_malformed_total", type="result") == before + 1
    assert "it was written by billing" in before_model.wait_for(lambda line: "is a result whose value is not" in line)
