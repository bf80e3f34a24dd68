"""Messages of RabbitMQ: how one is read as a request, and what the answer to it looks like.

A message says the same as a record of the requests topic, by the same headers, but needs less of them: what it lacks its
properties and the settings of the queue have. A task of Celery is read by `celery_tasks`.

Invariant: whom to answer is known before anything else is read, so that whoever sent a message that can't be read learns why.
"""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec

from podpair.gateway.core.cloud_events import Headers, InvalidCloudEvent, in_binary_mode
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.record_headers import answer_headers
from podpair.gateway.core.records import ERROR, NOT_BEFORE, RESULT, InvalidRecord, Request, request_of_record

_LONGEST_EXPIRATION = 4_294_967_295  # milliseconds that RabbitMQ takes
_LONGEST_PROPERTY = 255  # bytes of a text that is no header
_TEXT_ENCODINGS = ("", "utf-8", "utf8", "identity")
_HIGH = 0.5  # share of the highest priority from which on a message is of high priority for the model


class Message(NamedTuple):
    """A message as it was delivered."""

    body: bytes
    headers: Mapping[str, Any]
    message_id: str = ""
    correlation_id: str = ""
    reply_to: str = ""
    content_type: str = ""
    content_encoding: str = ""
    expiration: str = ""  # milliseconds
    timestamp: float | None = None  # Unix seconds, whole ones
    priority: int | None = None
    routing_key: str = ""
    redelivered: bool = False


class QueueRules(NamedTuple):
    """What the settings say of a queue's messages."""

    queue: str
    model: str | None = None
    model_by_routing_key: bool = False
    max_priority: int | None = None
    tasks: Mapping[str, str] = {}
    """The models of Celery's tasks."""


class ReplyAddress(NamedTuple):
    """Who waits for an answer, and how that finds its request."""

    queue: str
    correlation_id: str
    celery: bool = False


class AmqpRequest(NamedTuple):
    """A message that is a request. Its session is empty if it names none."""

    request: Request
    reply: ReplyAddress | None
    begin: float | None = None  # Unix seconds before which it may not be worked on; None: at once
    by_data: bool = True  # what Celery's caller gets is the result's `data`, else its `outputs`


class Outbound(NamedTuple):
    """A message to be published."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    correlation_id: str = ""
    type: str = ""
    content_type: str = "application/json"
    content_encoding: str = ""
    headers: Mapping[str, Any] = {}
    reply_to: str = ""


class Identity(NamedTuple):
    """What two deliveries of one message have in common."""

    reply_to: str
    session: str
    id: str


def identity_of(found: AmqpRequest) -> Identity:
    """Return what a second delivery of this message is known by."""
    return Identity("" if found.reply is None else found.reply.queue, found.request.session, found.request.id)


def reply_address(message: Message, rules: QueueRules, *, celery: bool) -> ReplyAddress | None:
    """Return where a message is answered; None: nowhere. Raises InvalidRecord if that is the queue that it came from."""
    if not message.reply_to:
        return None
    if message.reply_to == rules.queue:
        raise InvalidRecord("its reply_to is the queue of requests itself")
    return ReplyAddress(message.reply_to, message.correlation_id, celery)


def read_message(message: Message, rules: QueueRules, now: float) -> AmqpRequest:
    """Read a message that is no task of Celery's. `now` in Unix seconds. Raises InvalidRecord with the reason."""
    if message.content_encoding.lower() not in _TEXT_ENCODINGS:
        raise InvalidRecord(f"its content_encoding is {message.content_encoding[:50]!r}: it has to be UTF-8")
    reply = reply_address(message, rules, celery=False)
    headers: Headers = [
        (name, value) for name, raw in message.headers.items() if (value := header_value(raw)) is not None
    ]
    if message.content_type:
        headers = [*headers, ("content-type", message.content_type.encode())]
    try:
        body, attributes = in_binary_mode(message.body, headers)
    except InvalidCloudEvent as error:
        raise InvalidRecord(f"a CloudEvent that can't be read: {error}") from None
    stated = [("ce_id", _id_of(message).encode()), ("ce_subject", b"")]
    model = _default_model(message, rules)
    if model:
        stated.append(("model", model.encode()))
    if (priority := _priority(message, rules)) != "normal":
        stated.append(("priority", priority.encode()))
    named = {name for name, _ in attributes or ()}
    aliases = {"ce_subject": "session", "model": "ce_model", "priority": "ce_priority"}
    merged = {name: value for name, value in stated if aliases.get(name) not in named} | dict(attributes or ())
    if "session" in named and "ce_subject" not in named:
        merged["ce_subject"] = merged["session"] or b""
    request = request_of_record(body, list(merged.items()))
    if not isinstance(request, Request):
        raise InvalidRecord("it is a cancellation: those go to Kafka's requests topic")
    if not request.id:
        raise InvalidRecord("its id is empty")
    if request.not_before is not None and request.not_before > now:
        raise InvalidRecord(f"{NOT_BEFORE}: what is to begin later goes to Kafka's requests topic")
    deadline = request.deadline if request.deadline is not None else expiry(message, now)
    return AmqpRequest(request._replace(deadline=deadline, written=message.timestamp), reply)


def header_value(value: Any) -> bytes | None:
    """Return a header of AMQP as one of Kafka's would be; None if it is a table, or a list, or says nothing."""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, datetime):
        return value.isoformat().encode()
    if isinstance(value, str | int | float):
        return str(value).encode()
    return None


def expiry(message: Message, now: float) -> float | None:
    """Return when a message's own time to live is over, in Unix seconds; None: never, or that is no number.

    The broker doesn't look at what it has delivered, and says when a message came only by the producer's word: without that
    the time begins now. A timestamp has whole seconds.
    """
    if not message.expiration.isdigit() or int(message.expiration) > _LONGEST_EXPIRATION:
        return None
    seconds = int(message.expiration) / 1000
    began = now if message.timestamp is None else min(message.timestamp + 1.0, now)
    return began + seconds


def _id_of(message: Message) -> str:
    return message.message_id or message.correlation_id or uuid4().hex


def _default_model(message: Message, rules: QueueRules) -> str | None:
    if rules.model_by_routing_key and message.routing_key and message.routing_key != rules.queue:
        return message.routing_key
    return rules.model


def _priority(message: Message, rules: QueueRules) -> str:
    if not rules.max_priority or not message.priority:
        return "normal"
    return "high" if message.priority > rules.max_priority * _HIGH else "normal"


def correlation_of(reply: ReplyAddress, request_id: str) -> str:
    """Return by what a caller finds its request: what it said, else the request's id, as is usual; empty if AMQP has no room."""
    found = reply.correlation_id or request_id
    return found if len(found.encode()) <= _LONGEST_PROPERTY else ""


def reply_id(identity: Identity) -> str:
    """Return the message id of the answer to a request: the same for each time that it is answered."""
    return str(UUID(bytes=sha256("\0".join(identity).encode()).digest()[:16], version=4))


def result_message(found: AmqpRequest, reply: ReplyAddress, body: bytes, source: str, now: float) -> Outbound:
    """Build the answer with a result; `body` is its JSON object."""
    return _answer(found, reply, body, RESULT, (source, now))


def error_message(found: AmqpRequest, reply: ReplyAddress, fault: Fault, source: str, now: float) -> Outbound:
    """Build the answer with an error."""
    return _answer(found, reply, error_body(fault), ERROR, (source, now))


def _answer(found: AmqpRequest, reply: ReplyAddress, body: bytes, kind: bytes, origin: tuple[str, float]) -> Outbound:
    request, (source, now) = found.request, origin
    session = request.session.encode()
    headers = answer_headers(kind, request_id=request.id, session=session, source=source, now=now)
    kept = {name: value.decode() for name, value in headers if name != "content-type" and value}
    return Outbound(
        "",
        reply.queue,
        body,
        reply_id(identity_of(found)),
        correlation_of(reply, request.id),
        kind.decode(),
        headers=kept,
    )


def error_body(fault: Fault) -> bytes:
    """Encode an error as the log has it."""
    members: dict[str, Any] = {"code": fault.code, "message": fault.message}
    if fault.retry_after_ms is not None:
        members["retry_after_ms"] = fault.retry_after_ms
    return msgspec.json.encode(members)


def unread(message: Message, reply: ReplyAddress | None) -> AmqpRequest:
    """Make a stand-in for the request of a message that can't be read, so that its sender can be notified."""
    return AmqpRequest(Request(_id_of(message), "", "", None, None, b""), reply)


def dead_letter(
    message: Message, fault: Fault, attempts: int, by: str, exchange: str, queue: str, time: str
) -> Outbound:
    """Build the dead letter of a message: the message, with the reason in headers that begin with `podpair_dlq_`."""
    headers = {name: value for name, value in message.headers.items() if not name.startswith(_DEAD)}
    about = {
        "reason": f"{fault.code}: {fault.message}",
        "attempts": str(attempts),
        "origin": queue,
        "time": time,
        "by": by,
    }
    headers |= {_DEAD + name: value for name, value in about.items()}
    return Outbound(
        exchange,
        queue,
        message.body,
        message.message_id or uuid4().hex,
        message.correlation_id,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=headers,
        reply_to=message.reply_to,
    )


_DEAD = "podpair_dlq_"


def deserves_dead_letter(code: str, *, notified: bool) -> bool:
    """Return whether a message that ended so is kept: the model failed it, it can't be read, or nobody can be notified."""
    return code in (Code.UPSTREAM, Code.INTERNAL) or not notified
