"""What a record is on each kind of connection, and how events are written there."""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from podpair.gateway.core.frames import http_chunk, raw_frames, server_sent_event, text_frames
from podpair.gateway.core.records import (
    Event,
    Headers,
    Kind,
    event_of_record,
    record_value,
    takeover_of,
    unplaced_event,
)


class Wire(Protocol):
    """One way of writing events to a client."""

    def event(self, value: bytes | None, headers: Headers | None, offset: int) -> Event:
        """The event that a results record at `offset` of the home partition is here; one that is for no client is a TAKEOVER."""
        ...

    def unplaced(self, value: bytes | None, headers: Headers | None) -> Event:
        """The event that a results record outside the home partition is here: one without a position."""
        ...

    def encode(self, events: Iterable[Event]) -> bytes:
        """The events as bytes for the transport."""
        ...

    def moved(self, prefix: bytes) -> None:
        """The positions of records have another beginning from now on."""
        ...


class JsonWire:
    """Subprotocol podpair.v1: each event is a text frame. `prefix` is the position up to the offset."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix

    def event(self, value: bytes | None, headers: Headers | None, offset: int) -> Event:
        return event_of_record(value, headers, offset, self.prefix)

    def unplaced(self, value: bytes | None, headers: Headers | None) -> Event:
        return unplaced_event(value, headers)

    def encode(self, events: Iterable[Event]) -> bytes:
        return text_frames([event.payload for event in events])

    def moved(self, prefix: bytes) -> None:
        self.prefix = prefix


class EventStreamWire(JsonWire):
    """Server-sent events: the same JSON, the position as the event's id."""

    def encode(self, events: Iterable[Event]) -> bytes:
        return http_chunk(b"".join(server_sent_event(e.name, e.payload, self._position(e)) for e in events))

    def _position(self, event: Event) -> str | None:
        """What a client that has seen the event sends as Last-Event-ID."""
        if event.offset >= 0:
            # The topic may have changed since the event was made: its own position counts.
            return event.payload.rsplit(b'"', 2)[1].decode()
        # An EventSource that is cut before its first record comes back with the welcome's place, or that behind a gap.
        if event.name in ("welcome", "gap"):
            place = msgspec.json.decode(event.payload, type=_Place)
            return place.position or place.to
        return None


class _Place(msgspec.Struct):
    position: str | None = None
    to: str | None = None


class RawWire:
    """Subprotocol podpair.v1.raw: each record's value as it is, and nothing else.

    An answer that took no way through Kafka is the value that its record would have had.
    """

    def event(self, value: bytes | None, headers: Headers | None, offset: int) -> Event:
        takeover = takeover_of(headers, offset) if headers else None
        return takeover or Event(Kind.PUSH, "push", None, value or b"", offset)

    def unplaced(self, value: bytes | None, headers: Headers | None) -> Event:
        return self.event(value, headers, 0)

    def encode(self, events: Iterable[Event]) -> bytes:
        return raw_frames(
            [
                event.payload if event.offset >= 0 else record_value(event)
                for event in events
                if event.kind is not Kind.CONTROL
            ]
        )

    def moved(self, prefix: bytes) -> None:
        pass
