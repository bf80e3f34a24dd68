"""With `requests.exactly_once` gateways may die whenever they like: the results topic itself holds one answer a request."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

import podpair.client
from harness.checking import TopicChecker
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.topics import TopicAdmin
from harness.waiting import until

_REQUESTS, _KILLS, _SESSIONS = 2_000, 3, 20


def ask(producer: Producer, topic: str, requests: list[str], body: bytes = b"", key: bool = False) -> None:
    """Queue requests as a gateway would."""
    body = body or b'{"data":[%b]}' % b",".join([b"0"] * 64)
    for number, request in enumerate(requests):
        session = f"s-{number % _SESSIONS}"
        headers = {"ce_id": request, "ce_subject": session, "ce_type": "dev.podpair.request", "model": "digits"}
        producer.produce(topic, body, session if key else None, headers=headers)
        producer.poll(0)
    assert producer.flush(30) == 0


@pytest.fixture
def answers(broker: Broker, names: dict[str, Any]) -> Iterator[Callable[[float], list[tuple[str, str]]]]:
    """`answers(seconds)`: what was committed to the results topic since the last call: (session, request)."""
    consumer = Consumer(
        {"bootstrap.servers": broker.address, "group.id": "checker", "isolation.level": "read_committed"}
    )
    topic = names["results"]["topic"]
    assigned = False

    def read(seconds: float) -> list[tuple[str, str]]:
        nonlocal assigned
        if not assigned:
            consumer.assign([TopicPartition(topic, partition, 0) for partition in range(8)])
            assigned = True
        found = []
        for message in consumer.consume(10_000, seconds):
            assert message.error() is None, message.error()
            headers = dict(message.headers() or ())
            assert headers["ce_type"] in (b"dev.podpair.result", b"dev.podpair.error")
            found.append((headers["ce_subject"].decode(), headers["ce_id"].decode()))
        return found

    yield read
    consumer.close()


@pytest.mark.timeout(500)
@pytest.mark.parametrize("ordering", ["none", "session"])
def test_one_answer_a_request_whoever_dies(
    ordering: str, start_pair: Any, names: dict[str, Any], producer: Producer, answers: Any
) -> None:
    requests = names["requests"] | {
        "exactly_once": True, "transaction_timeout_seconds": 2, "session_timeout_seconds": 2, "ordering": ordering,
    }  # fmt: skip
    rng = random.Random(11)
    gateways: list[Gateway] = [start_pair(requests=requests) for _ in range(2)]
    asked = [f"r-{number:05}" for number in range(_REQUESTS)]
    ask(producer, requests["topic"], asked, key=ordering == "session")
    checker = TopicChecker(asked)
    order: dict[str, list[str]] = {}
    kills = sorted(rng.sample(range(100, _REQUESTS - 500), _KILLS))
    killed, transactions = 0, 0.0
    end = time.monotonic() + 300
    while checker.answered < _REQUESTS:
        assert time.monotonic() < end, (checker.answered, killed, [gateway.lines[-5:] for gateway in gateways])
        for session, request in answers(0.2):
            checker.saw(request)
            order.setdefault(session, []).append(request)
        while killed < _KILLS and checker.answered >= kills[killed]:
            transactions += sum(gateway.metric("transactions_total", outcome="committed") for gateway in gateways)
            gateways.pop(rng.randrange(2)).kill()
            gateways.append(start_pair(requests=requests))
            killed += 1
    for session, request in answers(3.0):  # whatever still comes would be one too many
        checker.saw(request)
        order.setdefault(session, []).append(request)
    assert checker.faults() == []
    assert killed == _KILLS
    if ordering == "session":
        assert {session: sorted(seen) for session, seen in order.items()} == order
    assert transactions > 0


def test_an_answer_that_is_too_large_ends_in_an_error(
    broker: Broker, start_pair: Any, names: dict[str, Any], producer: Producer, answers: Any
) -> None:
    requests = names["requests"] | {"exactly_once": True, "max_attempts": 1}
    gateway: Gateway = start_pair(
        requests=requests, kafka={"bootstrap_servers": broker.address, "client": {"message.max.bytes": 3000}}
    )
    row = b"[%b]" % b",".join([b"0"] * 64)
    rows = b'{"data":[%b]}' % b",".join([row] * 200)  # its answer has 200 rows
    ask(producer, requests["topic"], ["big"], rows)
    ask(producer, requests["topic"], ["small"])
    seen: list[tuple[str, str]] = []
    until(lambda: seen.extend(answers(0.2)) or len(seen) >= 2, lambda: seen)
    assert sorted(request for _, request in seen) == ["big", "small"]
    until(lambda: gateway.metric("queue_requests_total", outcome="result") == 2)  # the model had answered both
    until(lambda: gateway.metric("transactions_total", outcome="aborted") >= 1)


async def queue(session: Any, count: int) -> int:
    """Ask so many queued requests; returns how many have an answer, and not an error."""
    asked = [session.infer("digits", [0.0] * 64, route="queue") for _ in range(count)]
    outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 120)
    return sum(not isinstance(outcome, BaseException) for outcome in outcomes)


@pytest.mark.parametrize("topic", ["requests", "results", "dead letters"])
async def test_answers_go_out_again_after_a_topic_was_made_again(
    start_pair: Any, names: dict[str, Any], broker: Broker, producer: Producer, topic: str
) -> None:
    """A producer keeps what it knows of partitions that are gone: sequence numbers, epochs, leaders."""
    gateway: Gateway = start_pair(
        requests=names["requests"] | {"exactly_once": True},
        kafka={"bootstrap_servers": broker.address, "probe_seconds": 0.2},
    )
    name = names["results"]["topic"] if topic == "results" else names["requests"]["topic"]
    name += ".dlq" if topic == "dead letters" else ""
    topics = TopicAdmin(broker.address)
    async with podpair.client.connect(gateway.ws, token=token("again")) as session:
        assert await queue(session, 100) == 100
        for _ in range(2):
            before = gateway.metric("dead_letters_total") or 0
            producer.produce(names["requests"]["topic"], b"no request")  # which is written in a transaction, too
            producer.flush(30)
            # Once more where its transaction was aborted, and it is read again.
            await asyncio.to_thread(until, lambda before=before: (gateway.metric("dead_letters_total") or 0) > before)
            noticed = gateway.renewals(name)
            await asyncio.to_thread(topics.recreate, name, 8)
            await queue(session, 20)  # each ends
            # What is being written when the gateway goes on with another producer is not queued.
            await asyncio.to_thread(until, lambda noticed=noticed: gateway.renewals(name) > noticed)
            await asyncio.to_thread(until, lambda: gateway.get("/readyz")[0] == 200)
            for _ in range(3):
                assert await queue(session, 40) == 40
