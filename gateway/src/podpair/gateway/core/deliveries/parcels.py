"""A delivery on its way: an event for one subscription, also as a record of the topics where it waits or has ended.

Invariant: what waits says all that is needed to deliver it; the results topic may have forgotten the event by then.
"""

from typing import NamedTuple

import msgspec

from podpair.gateway.core.cloud_events import Headers
from podpair.gateway.core.deliveries.events import DeliveryEvent, message_id
from podpair.gateway.core.protocol import shortened

_LONGEST = 15  # digits of a number in a header


class Parcel(NamedTuple):
    """One event for one subscription."""

    id: str
    """The event's id at this subscription (`webhook-id`)."""
    subscription: str
    key: str
    """The session's id, or a user's key."""
    event: str
    first: int
    """Unix milliseconds: when the event happened."""
    body: bytes
    level: int = 0
    """How many waits are over."""
    attempts: int = 0
    due: int = 0
    """Unix milliseconds: when it is tried again."""
    place: tuple[str, int, int] | None = None
    """Of an event that is only for who is away: incarnation, partition and offset of its record."""


class InvalidParcel(ValueError):
    """A record that is no delivery."""


def parcel_of(event: DeliveryEvent, subscription_id: str) -> Parcel:
    """Make a parcel of an event for a subscription."""
    return Parcel(
        message_id(event.place, subscription_id), subscription_id, event.key, event.name, event.time, event.body
    )


def record_key(parcel: Parcel) -> bytes:
    """Return the key of its records: those of one subscription and session keep their order."""
    return f"{parcel.subscription} {parcel.key}".encode()


def encode_headers(parcel: Parcel) -> list[tuple[str, bytes]]:
    """Encode the headers of its record; the body is the value."""
    return [
        ("delivery_id", parcel.id.encode()), ("subscription", parcel.subscription.encode()),
        ("key", parcel.key.encode()), ("event", parcel.event.encode()), ("first", b"%d" % parcel.first),
        ("level", b"%d" % parcel.level), ("attempts", b"%d" % parcel.attempts), ("due", b"%d" % parcel.due),
        *([("place", msgspec.json.encode(parcel.place))] if parcel.place is not None else ()),
    ]  # fmt: skip


def dead_headers(parcel: Parcel, reason: str, time: bytes, by: str) -> list[tuple[str, bytes]]:
    """Encode the headers of its dead letter."""
    return [
        *encode_headers(parcel), ("dead_reason", shortened(reason).encode()), ("dead_time", time), ("dead_by", by.encode()),
    ]  # fmt: skip


def decode_parcel(value: bytes | None, headers: Headers | None) -> Parcel:
    """Read a record. Raises InvalidParcel."""
    found = {name: text for name, text in headers or () if text is not None}
    try:
        texts = [found[name].decode() for name in ("delivery_id", "subscription", "key", "event")]
        place = msgspec.json.decode(found["place"], type=tuple[str, int, int]) if "place" in found else None
        first, level, attempts, due = (_number(found[name]) for name in ("first", "level", "attempts", "due"))
    except (KeyError, ValueError) as error:
        raise InvalidParcel(f"no delivery: {error}") from None
    return Parcel(texts[0], texts[1], texts[2], texts[3], first, value or b"", level, attempts, due, place)


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > _LONGEST:
        raise ValueError(f"{text[:20]!r} is no number")
    return int(text)
