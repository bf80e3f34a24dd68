"""Tasks of Celery (message protocol 2) that are requests, and their results as its `rpc://` backend reads them.

https://docs.celeryq.dev/en/stable/internals/protocol.html. A producer's `expires` is a deadline, its `eta` the time to begin.
What a worker would do with a task beyond running it (callbacks, chains, chords) isn't done here, and so refused. Bodies are
JSON: pickles are never read.
"""

import binascii
import zlib
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from podpair.gateway.core.amqp_messages import (
    AmqpRequest,
    Message,
    Outbound,
    QueueRules,
    ReplyAddress,
    correlation_of,
    expiry,
    header_value,
    identity_of,
    reply_address,
    reply_id,
)
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import InvalidRecord, Request

_MOST_BYTES = 16 << 20  # of a body that was compressed, as RabbitMQ takes one that isn't: many may be in hand
_LATEST_ETA = 900.0  # seconds: brokers take a message back that is held for half an hour
_KNOWN = {"data", "inputs", "parameters"}
_CANVAS = ("callbacks", "errbacks", "chain", "chord")
_EXCEPTIONS = {Code.INVALID: "ValueError", Code.NOT_FOUND: "LookupError", Code.DEADLINE_EXCEEDED: "TimeoutError"}


class _Embed(NamedTuple):
    args: list[msgspec.Raw]
    kwargs: dict[str, msgspec.Raw]
    embed: dict[str, Any]


_body = msgspec.json.Decoder(_Embed)


def is_celery(message: Message, rules: QueueRules) -> bool:
    """Return whether a message is to be read as a task."""
    headers = message.headers
    return bool(rules.tasks) and isinstance(headers.get("task"), str) and isinstance(headers.get("id"), str)


def celery_reply(message: Message, rules: QueueRules) -> ReplyAddress | None:
    """Return where a task's result goes; None: nowhere, or its caller doesn't want it. Raises InvalidRecord."""
    if message.headers.get("ignore_result"):
        return None
    return reply_address(message, rules, celery=True)


def read_task(message: Message, rules: QueueRules, now: float) -> AmqpRequest:
    """Read a task as a request. `now` in Unix seconds. Raises InvalidRecord with the reason."""
    headers = message.headers
    name, task_id = str(headers["task"]), str(headers["id"])
    reply = celery_reply(message, rules)
    model = rules.tasks.get(name)
    if model is None:
        raise InvalidRecord(f"task {name[:100]!r} is not among those of amqp.celery_tasks")
    args, kwargs, embed = _arguments(message)
    if asked := [one for one in _CANVAS if embed.get(one)]:
        raise InvalidRecord(f"the task has {' and '.join(asked)}, which only Celery's own workers follow")
    trace = header_value(headers.get("traceparent")) or b""
    deadline = _unix(headers.get("expires"), "expires")
    request = Request(
        task_id,
        "",
        model,
        deadline if deadline is not None else expiry(message, now),
        None,
        _request_body(args, kwargs),
        trace.decode(errors="replace"),
    )
    begin = _unix(headers.get("eta"), "eta")
    if begin is not None and begin - now > _LATEST_ETA:
        raise InvalidRecord(f"its eta is more than {_LATEST_ETA:.0f} s away: a message can't be held for so long")
    return AmqpRequest(request, reply, begin if begin is not None and begin > now else None, "inputs" not in kwargs)


def _arguments(message: Message) -> _Embed:
    kind = message.content_type.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise InvalidRecord(f"its content_type is {kind[:50]!r}: only tasks with task_serializer json are read")
    if message.content_encoding.lower() not in ("", "utf-8", "utf8"):
        raise InvalidRecord(f"its content_encoding is {message.content_encoding[:50]!r}: it has to be UTF-8")
    try:
        return _body.decode(_uncompressed(message))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRecord(f"its body is not [args, kwargs, embed] in JSON: {error}") from None


def _uncompressed(message: Message) -> bytes:
    compression = message.headers.get("compression")
    if not compression:
        return message.body
    if compression != "application/x-gzip":  # which is zlib's format all the same
        raise InvalidRecord(f"its compression is {str(compression)[:50]!r}: gzip, or none, is read")
    reader = zlib.decompressobj()
    try:
        body = reader.decompress(message.body, _MOST_BYTES)
    except (zlib.error, binascii.Error) as error:
        raise InvalidRecord(f"its body can't be decompressed: {error}") from None
    if not reader.eof:
        raise InvalidRecord(f"its body is cut off, or has more than {_MOST_BYTES} bytes")
    return body


def _request_body(args: list[msgspec.Raw], kwargs: dict[str, msgspec.Raw]) -> bytes:
    """Build the value that a request record would have."""
    if len(args) > 1 or (args and kwargs.keys() & {"data", "inputs"}):
        raise InvalidRecord(f"the task has {len(args)} arguments: one, `data`, is taken")
    if unknown := sorted(kwargs.keys() - _KNOWN):
        raise InvalidRecord(f"the task has the argument {unknown[0][:100]!r}: data, inputs and parameters are taken")
    members = ({"data": args[0]} if args else {}) | {name: raw for name, raw in kwargs.items() if bytes(raw) != b"null"}
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), bytes(raw)) for name, raw in members.items())


def _unix(value: Any, name: str) -> float | None:
    """Parse a time of a task's headers, as UTC if it names no offset, into Unix seconds."""
    if value is None:
        return None
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidRecord(f"its {name} is no time: {str(value)[:50]!r}") from None


def task_result(found: AmqpRequest, reply: ReplyAddress, body: bytes) -> Outbound:
    """Build the message that ends a task well; `body` is the JSON object of the result."""
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    wanted = ("data", "outputs") if found.by_data else ("outputs", "data")
    value = next((members[name] for name in wanted if name in members), msgspec.Raw(body))
    return _message(found, reply, {"status": "SUCCESS", "result": value})


def task_failure(found: AmqpRequest, reply: ReplyAddress, fault: Fault) -> Outbound:
    """Build the message that ends a task with an exception: it is raised at the caller's `get()`."""
    error = {
        "exc_type": _EXCEPTIONS.get(fault.code, "RuntimeError"),
        "exc_message": [f"{fault.code}: {fault.message}"],
        "exc_module": "builtins",
    }
    return _message(found, reply, {"status": "FAILURE", "result": error})


def _message(found: AmqpRequest, reply: ReplyAddress, members: dict[str, Any]) -> Outbound:
    body = {"task_id": found.request.id, **members, "traceback": None, "children": []}
    return Outbound(
        "",
        reply.queue,
        msgspec.json.encode(body),
        reply_id(identity_of(found)),
        correlation_of(reply, found.request.id),
        content_encoding="utf-8",
    )
