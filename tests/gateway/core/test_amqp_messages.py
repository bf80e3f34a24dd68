"""How a message of RabbitMQ is read as a request, and what its answer looks like."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from podpair.gateway.core.amqp_messages import (
    Message,
    QueueRules,
    dead_letter,
    deserves_dead_letter,
    expiry,
    header_value,
    identity_of,
    read_message,
    reply_id,
    result_message,
)
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import InvalidRecord

NOW = 1_000_000.0
RULES = QueueRules("q")


def message(body: bytes = b'{"data":[1]}', headers: dict[str, Any] | None = None, **properties: Any) -> Message:
    return Message(body, {"model": "m"} if headers is None else headers, **properties)


@pytest.mark.parametrize(
    ("properties", "headers", "wanted"),
    [
        ({"message_id": "m1", "correlation_id": "c1"}, {}, "m1"),
        ({"correlation_id": "c1"}, {}, "c1"),
        ({"message_id": "m1"}, {"ce_id": "e1"}, "e1"),
    ],
)
def test_its_id(properties: dict[str, Any], headers: dict[str, Any], wanted: str) -> None:
    assert read_message(message(headers={"model": "m", **headers}, **properties), RULES, NOW).request.id == wanted


def test_without_any_it_gets_one() -> None:
    first, second = (read_message(message(), RULES, NOW).request.id for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("headers", "key", "rules", "wanted"),
    [
        ({"model": "a"}, "b", RULES._replace(model="c", model_by_routing_key=True), "a"),
        ({"ce_model": "a"}, "b", RULES._replace(model="c", model_by_routing_key=True), "a"),
        ({}, "b", RULES._replace(model="c", model_by_routing_key=True), "b"),
        ({}, "q", RULES._replace(model="c", model_by_routing_key=True), "c"),
        ({}, "b", RULES._replace(model="c"), "c"),
    ],
)
def test_its_model(headers: dict[str, Any], key: str, rules: QueueRules, wanted: str) -> None:
    assert read_message(message(headers=headers, routing_key=key), rules, NOW).request.model == wanted


@pytest.mark.parametrize(
    ("headers", "session"),
    [({"ce_subject": "s"}, "s"), ({"session": "s"}, "s"), ({"ce_subject": "a", "session": "b"}, "a"), ({}, "")],
)
def test_its_session(headers: dict[str, Any], session: str) -> None:
    assert read_message(message(headers={"model": "m", **headers}), RULES, NOW).request.session == session


@pytest.mark.parametrize(
    ("properties", "headers", "deadline"),
    [
        ({}, {}, None),
        ({"expiration": "1500"}, {}, NOW + 1.5),
        ({"expiration": "1500", "timestamp": NOW - 60}, {}, NOW - 57.5),
        ({"expiration": "1500", "timestamp": NOW + 60}, {}, NOW + 1.5),  # another's clock is ahead
        ({"expiration": "soon"}, {}, None),
        ({"expiration": "1500"}, {"deadline": "5000"}, 5.0),
        ({}, {"deadline": datetime.fromtimestamp(77, UTC)}, 77.0),
    ],
)
def test_its_deadline(properties: dict[str, Any], headers: dict[str, Any], deadline: float | None) -> None:
    found = read_message(message(headers={"model": "m", **headers}, **properties), RULES, NOW)
    assert found.request.deadline == deadline


@pytest.mark.parametrize(
    ("priority", "most", "header", "lane"),
    [(9, 10, None, 1), (5, 10, None, 2), (None, 10, None, 2), (9, None, None, 2), (1, 10, "high", 1)],
)
def test_a_high_priority_is_asked_first(priority: int | None, most: int | None, header: str | None, lane: int) -> None:
    headers = {"model": "m"} | ({"priority": header} if header else {})
    rules = RULES._replace(max_priority=most)
    assert read_message(message(headers=headers, priority=priority), rules, NOW).request.lane == lane


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"headers": {}}, "'model' is missing"),
        ({"reply_to": "q"}, "the queue of requests itself"),
        ({"content_encoding": "gzip"}, "content_encoding"),
        ({"headers": {"model": "m", "ce_type": "dev.podpair.cancel"}}, "cancellation"),
        ({"headers": {"model": "m", "ce_id": ""}}, "its id is empty"),
        ({"body": b"{}", "content_type": "application/cloudevents+json"}, "CloudEvent"),
    ],
)
def test_what_is_no_request(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRecord, match=why):
        read_message(message(**changed), RULES, NOW)


def test_headers_of_any_type_are_texts_or_nothing() -> None:
    given = ["a", 7, 1.5, True, bytearray(b"b"), None, {"a": 1}, [1]]
    assert [header_value(value) for value in given] == [b"a", b"7", b"1.5", b"true", b"b", None, None, None]


def test_an_answer_finds_its_caller_and_is_the_same_each_time() -> None:
    found = read_message(message(message_id="m1", correlation_id="c1", reply_to="r"), RULES, NOW)
    assert found.reply is not None
    first = result_message(found, found.reply, b"{}", "gw", 1.0)
    assert (first.routing_key, first.correlation_id, first.type) == ("r", "c1", "dev.podpair.result")
    assert first.message_id == result_message(found, found.reply, b"{}", "other", 2.0).message_id
    other = read_message(message(message_id="m1", correlation_id="c1", reply_to="r2"), RULES, NOW)
    assert reply_id(identity_of(other)) != first.message_id


def test_without_a_correlation_id_the_message_id_is_it() -> None:
    found = read_message(message(message_id="m1", reply_to="r"), RULES, NOW)
    assert found.reply is not None
    assert result_message(found, found.reply, b"{}", "gw", 1.0).correlation_id == "m1"


def test_a_dead_letter_is_the_message_with_the_reason() -> None:
    given = message(headers={"model": "m", "podpair_dlq_reason": "before", "n": 1}, message_id="m1", reply_to="r")
    letter = dead_letter(given, Fault(Code.UPSTREAM, "why"), 3, "gw", "q.dlx", "q", "then")
    assert (letter.body, letter.message_id, letter.reply_to, letter.exchange) == (given.body, "m1", "r", "q.dlx")
    about = {"reason": "upstream: why", "attempts": "3", "origin": "q", "time": "then", "by": "gw"}
    assert letter.headers == {"model": "m", "n": 1} | {f"podpair_dlq_{name}": value for name, value in about.items()}


def test_what_is_kept() -> None:
    assert deserves_dead_letter("upstream", notified=True)
    assert not deserves_dead_letter("invalid", notified=True)
    assert deserves_dead_letter("deadline_exceeded", notified=False)


def test_a_time_to_live_beyond_what_the_broker_takes_is_none() -> None:
    assert expiry(message(expiration=str(1 << 40)), NOW) is None
    assert json.loads(read_message(message(), RULES, NOW).request.body) == {"data": [1]}
