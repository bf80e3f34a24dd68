"""Tasks of Celery's protocol 2 as requests, and their results."""

import json
import zlib
from typing import Any

import pytest

from podpair.gateway.core.amqp_messages import Message, QueueRules
from podpair.gateway.core.celery_tasks import is_celery, read_task, task_failure, task_result
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import InvalidRecord

NOW = 1_000_000.0
RULES = QueueRules("q", tasks={"shop.digit": "digits"})


def task(
    args: Any = ([1, 2],), kwargs: Any = None, embed: Any = None, body: bytes | None = None, **changed: Any
) -> Message:
    headers = {"lang": "py", "task": "shop.digit", "id": "t1", **changed.pop("headers", {})}
    made = body if body is not None else json.dumps([list(args), kwargs or {}, embed or {}]).encode()
    properties = {"content_type": "application/json", "content_encoding": "utf-8", "reply_to": "r", **changed}
    return Message(made, headers, **properties)


@pytest.mark.parametrize(
    ("args", "kwargs", "body"),
    [
        (([1, 2],), {}, {"data": [1, 2]}),
        ((), {"data": [1], "parameters": {"a": 1}}, {"data": [1], "parameters": {"a": 1}}),
        (([1],), {"parameters": None}, {"data": [1]}),
        ((), {"inputs": []}, {"inputs": []}),
    ],
)
def test_arguments(args: Any, kwargs: Any, body: Any) -> None:
    found = read_task(task(args, kwargs), RULES, NOW)
    assert (found.request.id, found.request.model, json.loads(found.request.body)) == ("t1", "digits", body)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"args": (1, 2)}, "2 arguments"),
        ({"args": (1,), "kwargs": {"data": 2}}, "1 arguments"),
        ({"kwargs": {"row": 1}, "args": ()}, "argument 'row'"),
        ({"embed": {"chord": {"task": "x"}}}, "chord"),
        ({"embed": {"callbacks": [1], "errbacks": [2]}}, "callbacks and errbacks"),
        ({"headers": {"task": "other"}}, "not among those"),
        ({"content_type": "application/x-python-serialize"}, "task_serializer json"),
        ({"content_encoding": "binary"}, "content_encoding"),
        ({"body": b"{"}, "not \\[args, kwargs, embed\\]"),
        ({"body": b"[1, 2, 3]"}, "not \\[args, kwargs, embed\\]"),
        ({"headers": {"compression": "application/x-gzip"}, "body": b"no"}, "can't be decompressed"),
        ({"headers": {"compression": "application/x-gzip"}, "body": zlib.compress(b"x" * 99)[:-9]}, "cut off"),
        ({"headers": {"compression": "zstd"}}, "compression"),
        ({"headers": {"eta": "2999-01-01T00:00:00Z"}}, "eta is more than"),
        ({"headers": {"expires": "soon"}}, "expires is no time"),
        ({"reply_to": "q"}, "the queue of requests itself"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRecord, match=why):
        read_task(task(**changed), RULES, NOW)


def test_a_body_that_swells_is_refused() -> None:
    bomb = zlib.compress(b"[" + b" " * (17 << 20))
    with pytest.raises(InvalidRecord, match="more than"):
        read_task(task(body=bomb, headers={"compression": "application/x-gzip"}), RULES, NOW)


def test_times_without_an_offset_are_utc() -> None:
    found = read_task(task(headers={"expires": "1970-01-12T13:46:50", "eta": "1970-01-12T13:46:45+00:00"}), RULES, NOW)
    assert (found.request.deadline, found.begin) == (NOW + 10, NOW + 5)
    assert read_task(task(headers={"eta": "1970-01-01T00:00:00Z"}), RULES, NOW).begin is None


def test_whoever_ignores_the_result_gets_none() -> None:
    assert read_task(task(headers={"ignore_result": True}), RULES, NOW).reply is None


def test_what_isnt_declared_is_no_task() -> None:
    assert is_celery(task(), RULES)
    assert not is_celery(task(), QueueRules("q"))
    assert not is_celery(Message(b"", {"model": "m"}), RULES)


def test_results_and_failures_are_as_the_backend_reads_them() -> None:
    found = read_task(task(correlation_id="t1"), RULES, NOW)
    assert found.reply is not None
    made = task_result(found, found.reply, b'{"data":{"y":1},"model":"digits","timing":{}}')
    assert (made.routing_key, made.content_type, made.content_encoding) == ("r", "application/json", "utf-8")
    result = {"task_id": "t1", "status": "SUCCESS", "result": {"y": 1}, "traceback": None, "children": []}
    assert json.loads(made.body) == result
    failed = json.loads(task_failure(found, found.reply, Fault(Code.UPSTREAM, "why")).body)
    assert failed["status"] == "FAILURE"
    assert failed["result"] == {
        "exc_type": "RuntimeError",
        "exc_message": ["upstream: why"],
        "exc_module": "builtins",
    }
