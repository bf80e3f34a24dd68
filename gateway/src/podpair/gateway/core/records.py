"""Records on the requests and results topics: CloudEvents (Kafka binding 1.0.2), written in binary mode and read in either.

Invariant: a record whose value is not what its type says still becomes an event that its client can read.
"""

import base64
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple, cast

import msgspec

from podpair.gateway.core.cloud_events import (
    Headers as Headers,
)
from podpair.gateway.core.cloud_events import (
    InvalidCloudEvent,
    extension,
    in_binary_mode,
    in_binary_mode_if_any,
    is_structured,
)
from podpair.gateway.core.commands import WORKFLOW_SESSION as WORKFLOW_SESSION
from podpair.gateway.core.commands import Cancellation as Cancellation
from podpair.gateway.core.commands import Reply as Reply
from podpair.gateway.core.commands import Signal as Signal
from podpair.gateway.core.frames import is_utf8
from podpair.gateway.core.lanes import LAST, queued_lane
from podpair.gateway.core.protocol import Code
from podpair.gateway.core.record_times import unix_deadline, unix_seconds

_TYPE_PREFIX = b"dev.podpair."
REQUEST = b"dev.podpair.request"
PARTIAL = b"dev.podpair.partial"
RESULT = b"dev.podpair.result"
ERROR = b"dev.podpair.error"
PUSH = b"dev.podpair.push"
CANCEL = b"dev.podpair.cancel"
TAKEOVER = b"dev.podpair.takeover"
SIGNAL = b"dev.podpair.signal"
QUEUED_AT = "queued_at"
"""The header by which a gateway marks the requests that it queues: when, in Unix milliseconds."""

NOT_BEFORE = "notbefore"
"""The header of a request that is to begin later: when, as `deadline` has it."""

REPLY_TO, REPLY_PARTITION = "reply_to", "reply_partition"
"""The headers of a request whose terminal record is to be written to this topic and partition, too."""

USER = "user"
"""The header that names the subject of a request's session, if the model's answers are cached by subject."""


class Kind(IntEnum):
    """What an event is to its client, and so what a full buffer may do with it."""

    PUSH = 0
    PARTIAL = 1
    TERMINAL = 2
    CONTROL = 3
    TAKEOVER = 4  # not for clients: another connection of the session is announced
    UNREADABLE = 5  # an `error` without an id: there is a record, and what it says can't be read


class Event(NamedTuple):
    """One event on its way to a client."""

    kind: Kind
    name: str  # the `type` that the client reads
    id: str | None  # of the request it belongs to
    payload: bytes  # the whole event as JSON text
    offset: int  # in the home partition; -1: did not come through Kafka


class MalformedEvent(Event):
    """What a record is to its client whose value is not what its type, or its content-type, says: an error, or a part without
    data."""

    __slots__ = ()


_encode = msgspec.json.Encoder().encode
_raw = msgspec.json.Decoder(msgspec.Raw)


def is_json(value: bytes) -> bool:
    """Return whether `value` is one JSON text in UTF-8, nested no deeper than a parser follows."""
    try:
        _raw.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return False
    return is_utf8(value)


def event_of_record(value: bytes | None, headers: Headers | None, offset: int, prefix: bytes) -> Event:
    """Convert a results record to its client's event.

    `prefix` is the position up to the offset, `<epoch>.<partition>.`. Without `ce_type`, or with an unknown one, a record
    is a push. The envelope's members stand after the value's own, so that a value can't forge them.
    """
    if headers:
        found = dict(headers)
        content_type = found.get("content-type")
        if content_type is not None and content_type != b"application/json" and is_structured(content_type):
            try:
                value, headers = in_binary_mode(value, headers)
            except InvalidCloudEvent as error:
                return _unreadable(f"a CloudEvent that can't be read: {error}", offset, prefix)
            found = dict(headers or ())
        kind = found.get("ce_type")
        if kind in _TYPED and (raw_id := found.get("ce_id")):
            return _typed(kind, raw_id.decode(errors="replace"), value, extension(found, "seq"), offset, prefix)
        if kind == TAKEOVER:
            return takeover_event(found.get("ce_id"), offset)
    if value is not None and is_json(value):
        return Event(
            Kind.PUSH, "push", None, b'{"type":"push","data":%b,"position":"%b%d"}' % (value, prefix, offset), offset
        )
    data = b'"data":null' if value is None else b'"data_base64":"%b"' % base64.b64encode(value)
    return Event(Kind.PUSH, "push", None, b'{"type":"push",%b,"position":"%b%d"}' % (data, prefix, offset), offset)


def _unreadable(why: str, offset: int, prefix: bytes) -> Event:
    payload = b'{"type":"error","code":"invalid","message":%b,"position":"%b%d"}' % (_encode(why), prefix, offset)
    return MalformedEvent(Kind.UNREADABLE, "error", None, payload, offset)


def takeover_event(connection: bytes | None, offset: int) -> Event:
    """Build the announcement of a connection that takes over the session: its id is the event's."""
    return Event(Kind.TAKEOVER, "takeover", (connection or b"").decode(errors="replace"), b"", offset)


def ended_by(value: bytes | None, headers: Headers | None) -> str | None:
    """Return the request that a results record ends, if it ends one."""
    found = dict(in_binary_mode_if_any(value, headers)[1] or ())
    request_id = found.get("ce_id") if found.get("ce_type") in (RESULT, ERROR) else None
    return request_id.decode(errors="replace") if request_id else None


def invites_retry(value: bytes | None, headers: Headers | None) -> bool:
    """Return whether a results record is an error after which its request may run, if it is repeated."""
    value, headers = in_binary_mode_if_any(value, headers)
    if ("ce_type", ERROR) not in (headers or ()):
        return False
    try:
        return msgspec.json.decode(value or b"", type=_ErrorCode).code in (Code.OVERLOADED, Code.LOST)
    except msgspec.MsgspecError:
        return False


class _ErrorCode(msgspec.Struct):
    """What is read of an error."""

    code: str = ""


def takeover_of(headers: Headers | None, offset: int) -> Event | None:
    """Return the announcement in a results record with these headers, if it is one."""
    if not headers or ("ce_type", TAKEOVER) not in headers:
        return None
    return takeover_event(dict(headers).get("ce_id"), offset)


ANSWERS = frozenset({PARTIAL, RESULT, ERROR})
"""The types of records that belong to a request."""
_TYPED = {PARTIAL: (Kind.PARTIAL, "partial"), RESULT: (Kind.TERMINAL, "result"), ERROR: (Kind.TERMINAL, "error")}


def _typed(
    ce_type: bytes, request_id: str, value: bytes | None, seq: bytes | None, offset: int, prefix: bytes
) -> Event:
    kind, name = _TYPED[ce_type]
    body = (value or b"").strip()
    made = Event
    if kind is Kind.PARTIAL:
        made = Event if is_json(body) else MalformedEvent
        number = int(seq) if seq and seq.isdigit() and len(seq) < 16 else 0
        members = b'"seq":%d,"data":%b' % (number, b"null" if made is MalformedEvent else body)
    elif body.startswith(b"{") and is_json(body):
        members = body[1:-1]
    else:
        made, name = MalformedEvent, "error"
        members = b'"code":"internal","message":"the record\'s value is not a JSON object"'
    comma = b"," if members.strip() else b""
    payload = b'{%b%b"type":"%b","id":%b,"position":"%b%d"}' % (
        members, comma, name.encode(), msgspec.json.encode(request_id), prefix, offset,
    )  # fmt: skip
    return made(kind, name, request_id, payload, offset)


def answer_again(request_id: str, value: bytes | None, headers: Headers | None) -> Event:
    """Build a terminal event from a results record, to be sent once more: without a position, because the client has had it."""
    value, headers = in_binary_mode_if_any(value, headers)
    named = "error" if dict(headers or ()).get("ce_type") == ERROR else "result"
    members = (value or b"").strip()[1:-1]
    if not is_json(b"{%b}" % members):
        return _typed(RESULT, request_id, None, None, -1, b"")
    payload = b'{%b%b"type":"%b","id":%b}' % (members, b"," if members else b"", named.encode(), _encode(request_id))
    return Event(Kind.TERMINAL, named, request_id, payload, -1)


def unplaced_event(value: bytes | None, headers: Headers | None) -> Event:
    """Convert a record outside its session's home partition to an event, which has no position."""
    event = event_of_record(value, headers, 0, b"")
    if not event.payload:
        return event._replace(offset=-1)  # clients are not shown it
    members: dict[str, msgspec.Raw] = msgspec.json.decode(event.payload, type=dict[str, msgspec.Raw])
    del members["position"]
    return event._replace(payload=_encode(members), offset=-1)


def result_event(request_id: str, members: bytes) -> Event:
    """Build a `result` that did not come through Kafka; `members` are those of its JSON object, without the braces."""
    payload = b'{%b,"type":"result","id":%b}' % (members, _encode(request_id))
    return Event(Kind.TERMINAL, "result", request_id, payload, -1)


def direct_events(request_id: str, members: bytes) -> tuple[Event, Event]:
    """Build `accepted` and `result` of a request that was answered at once."""
    quoted = _encode(request_id)
    accepted = b'{"type":"accepted","id":%b,"route":"direct"}' % quoted
    result = b'{%b,"type":"result","id":%b}' % (members, quoted)
    # A named tuple's own constructor takes half of the time that all of this does.
    return (
        tuple.__new__(Event, (Kind.CONTROL, "accepted", None, accepted, -1)),
        tuple.__new__(Event, (Kind.TERMINAL, "result", request_id, result, -1)),
    )


def record_value(event: Event) -> bytes:
    """Return the value that the record of an event would have had."""
    members: dict[str, msgspec.Raw] = msgspec.json.decode(event.payload, type=dict[str, msgspec.Raw])
    if event.kind is Kind.PARTIAL:
        return bytes(members["data"])
    return msgspec.json.encode({name: value for name, value in members.items() if name not in ("type", "id")})


def control_event(name: str, payload: bytes) -> Event:
    """Build an event of the connection itself: welcome, accepted, gap, drain, an error without an id."""
    return Event(Kind.CONTROL, name, None, payload, -1)


def accepted_event(request_id: str, route: str) -> Event:
    """Build the `accepted` event, which for a queued request means that the broker has it."""
    payload = b'{"type":"accepted","id":%b,"route":"%b"}' % (_encode(request_id), route.encode())
    return tuple.__new__(Event, (Kind.CONTROL, "accepted", None, payload, -1))


class Request(NamedTuple):
    """A queued request, as a worker reads it."""

    id: str
    session: str
    model: str
    deadline: float | None  # Unix seconds
    time: float | None  # Unix seconds: when what it is about happened (ce_time)
    body: bytes
    trace: str = ""  # traceparent
    queued_at: float | None = None  # Unix seconds: when a gateway queued it; None: another service did, or a replay
    written: float | None = None  # Unix seconds: when its record was written, as far as its worker knows
    lane: int = LAST  # where it waits for the model (`lanes`)
    user: str = ""  # the subject of the session; empty: not known
    reply_to: tuple[str, int] | None = None  # topic and partition (-1: any) that its answer is written to, too
    not_before: float | None = None  # Unix seconds: when it is to begin; None: at once


class InvalidRecord(ValueError):
    """A record on the requests topic that no worker can serve."""


QueueRecord = Request | Cancellation | Signal | Reply
"""What a record of the requests topic may be."""


def request_of_record(value: bytes | None, headers: Headers | None) -> QueueRecord:
    """Read a record of the requests topic. Raises InvalidRecord, saying which header is missing or wrong."""
    named = dict(headers or ())
    if tuple(named) == _GATEWAYS_HEADERS and (request := _gateways_request(value, *named.values())) is not None:
        return request
    found = _stated(headers)
    content_type = found.get("content-type")
    if content_type is not None and content_type != b"application/json" and is_structured(content_type):
        try:
            value, headers = in_binary_mode(value, headers)
        except InvalidCloudEvent as error:
            raise InvalidRecord(f"a CloudEvent that can't be read: {error}") from None
        found = _stated(headers)
    return _request_of_headers(value, found)


def _gateways_request(
    value: bytes | None, _: Any, request_id: Any, kind: Any, __: Any, session: Any, ce_time: Any, content_type: Any,
    model: Any, queued_at: Any,
) -> Request | None:  # fmt: skip
    """Read a request with the headers that a gateway gives it; None if one of them isn't what it writes."""
    if kind != REQUEST or content_type != b"application/json":
        return None
    try:
        time, queued = _times(ce_time, queued_at)
        members = (
            request_id.decode(), session.decode(), _text(model), None, time, value or b"", "", queued, None, LAST, "", None, None,
        )  # fmt: skip
    except (AttributeError, TypeError, ValueError):
        return None
    # A named tuple's own constructor takes several times as long.
    return tuple.__new__(Request, members)


@lru_cache(256)
def _times(ce_time: bytes, queued_at: bytes) -> tuple[float, float | None]:
    """Parse both times of a gateway's request; those of a millisecond are the same. Raises ValueError."""
    return unix_seconds(ce_time), _mark(queued_at)


@lru_cache(64)
def _text(model: bytes) -> str:
    return model.decode()


def _request_of_headers(value: bytes | None, found: dict[str, bytes]) -> QueueRecord:
    if not _EXTENSIONS.isdisjoint(found):
        found = {name.removeprefix("ce_"): text for name, text in found.items() if name in _EXTENSIONS} | found
    kind = found.get("ce_type")
    try:
        request_id, session = found["ce_id"].decode(), found["ce_subject"].decode()
        if kind in _OTHERS:
            return _other_record(kind, request_id, session, value, found)
        model = found["model"].decode()
    except KeyError as missing:
        raise InvalidRecord(f"header {missing} is missing") from None
    except UnicodeDecodeError as error:
        raise InvalidRecord(f"a header is not UTF-8: {error}") from None
    try:
        deadline = unix_deadline(found["deadline"]) if "deadline" in found else None
        time = unix_seconds(found["ce_time"]) if "ce_time" in found else None
        not_before = unix_deadline(found[NOT_BEFORE]) if NOT_BEFORE in found else None
    except ValueError as error:
        raise InvalidRecord(f"header deadline, ce_time or notbefore: {error}") from None
    trace = found["traceparent"].decode(errors="replace") if "traceparent" in found else ""
    queued_at = _mark(found[QUEUED_AT]) if QUEUED_AT in found else None
    lane = queued_lane(found.get("priority", b"").decode(errors="replace"))
    user = found[USER].decode(errors="replace") if USER in found else ""
    said = (request_id, session, model, deadline, time, value or b"", trace, queued_at, None, lane, user)
    return Request(*said, _reply_to(found), not_before)


def _reply_to(found: dict[str, bytes]) -> tuple[str, int] | None:
    topic, number = found.get(REPLY_TO, b"").decode(errors="replace"), found.get(REPLY_PARTITION, b"")
    if not topic:
        return None
    return topic, int(number) if number.isdigit() and len(number) < 7 else -1


_OTHERS = (CANCEL, SIGNAL, RESULT, ERROR)
"""The types of records that are no requests."""


def _other_record(
    kind: bytes | None, request_id: str, session: str, value: bytes | None, found: dict[str, bytes]
) -> Cancellation | Signal | Reply:
    if kind == CANCEL:
        return Cancellation(request_id, session)
    if kind != SIGNAL:
        if not session.startswith(WORKFLOW_SESSION):
            raise InvalidRecord("an answer is no request: its topic is that of results")
        return Reply(request_id, session, kind == ERROR, value or b"")
    name = found["name"].decode()
    if not is_json(value or b""):
        raise InvalidRecord("the value of a signal is not JSON")
    return Signal(request_id, session, name, value or b"")


def _stated(headers: Headers | None) -> dict[str, bytes]:
    """Return the headers that have a value; of those with one name the last."""
    found = dict(headers or ())
    if None in found.values():
        found = {name: value for name, value in headers or () if value is not None}
    return cast("dict[str, bytes]", found)


def _mark(queued_at: bytes) -> float | None:
    """Return the time in a gateway's mark; None if it is no number, and so not written by a gateway."""
    return int(queued_at) / 1000 if len(queued_at) <= 15 and queued_at.isdigit() else None


_GATEWAYS_HEADERS = (
    "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_time", "content-type", "model", QUEUED_AT,
)  # fmt: skip
"""The names of the headers that a gateway gives a request, but for a deadline and a traceparent (`record_headers`)."""
_EXTENSIONS = frozenset(
    {"ce_model", "ce_deadline", "ce_notbefore", "ce_priority", "ce_traceparent", "ce_user"}
)  # of a request, as an SDK writes them
