"""Events of the results topic as receivers get them.

Invariant: the id of an event at a subscription follows from its place on the topic alone, so that whoever delivers it again says
the same one.
"""

import hashlib
from typing import NamedTuple

import msgspec

from podpair.gateway.core.cloud_events import Headers, in_binary_mode_if_any
from podpair.gateway.core.record_times import rfc_3339
from podpair.gateway.core.records import ERROR, PARTIAL, RESULT, TAKEOVER, Kind, unplaced_event
from podpair.gateway.core.session_ids import USER

_DELIVERED = (Kind.PUSH, Kind.TERMINAL)


class Place(NamedTuple):
    """Where a record is."""

    incarnation: str  # of the topic
    partition: int
    offset: int
    timestamp: int  # Unix milliseconds


class DeliveryEvent(NamedTuple):
    """A result, an error or a push."""

    name: str
    key: str
    """The session's id, or a user's key."""
    time: int
    """Unix milliseconds, of its record."""
    model: str
    """Of a result; empty where it isn't known."""
    body: bytes
    """JSON: type, timestamp, session (or user) and data, the event as the session's client gets it."""
    place: Place


class _Result(msgspec.Struct):
    model: str = ""


def event_of(key: str, value: bytes | None, headers: Headers | None, place: Place) -> DeliveryEvent | None:
    """Convert a record to what is delivered of it; None: it is nothing for those who aren't connected."""
    value, headers = in_binary_mode_if_any(value, headers)
    kind = dict(headers or ()).get("ce_type")
    if kind in (PARTIAL, TAKEOVER):
        return None
    is_users = key.encode().startswith(USER)
    if is_users and kind in (RESULT, ERROR):
        return None  # nothing to anybody (docs/protocol.md)
    event = unplaced_event(value, headers)
    if event.kind not in _DELIVERED:
        return None
    return DeliveryEvent(
        event.name, key, place.timestamp, _model_of(event.payload) if event.name == "result" else "",
        b'{"type":"podpair.%b","timestamp":"%b","%b":%b,"data":%b}' % (
            event.name.encode(), rfc_3339(place.timestamp), b"user" if is_users else b"session",
            msgspec.json.encode(key.removeprefix(USER.decode()) if is_users else key), event.payload,
        ),
        place,
    )  # fmt: skip


def _model_of(payload: bytes) -> str:
    try:
        return msgspec.json.decode(payload, type=_Result).model
    except msgspec.MsgspecError:
        return ""


def message_id(place: Place, subscription_id: str) -> str:
    """Return the id of an event at a subscription (`webhook-id`)."""
    said = f"{place.incarnation}/{place.partition}/{place.offset}/{place.timestamp}/{subscription_id}"
    return f"msg_{hashlib.sha256(said.encode()).hexdigest()[:32]}"
