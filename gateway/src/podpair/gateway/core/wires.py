"""Converts records to events, and encodes events, for each kind of connection."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Protocol

import msgspec

from podpair.gateway.core.answer_frames import AnswerFrame, answer_frames
from podpair.gateway.core.cloud_events import in_binary_mode_if_any, is_structured
from podpair.gateway.core.event_ids import TAKEN_OVER, event_id
from podpair.gateway.core.frames import http_chunk, raw_frames, server_sent_event, text_frames
from podpair.gateway.core.protocol import CloseCode, event
from podpair.gateway.core.push_frames import push_frames
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import (
    ANSWERS,
    TAKEOVER,
    Event,
    Headers,
    Kind,
    MalformedEvent,
    event_of_record,
    record_value,
    takeover_event,
    unplaced_event,
)

_OF_CHANNEL = b'{"type":"error","channel":'  # an error that a channel's unreadable record is to its subscribers


class Wire(Protocol):
    """A way of writing events to a client. text_frames: each event is a text frame with its payload."""

    text_frames: ClassVar[bool]
    encoding: str
    """What connections have in common that encode events of a channel alike."""

    def event(self, value: bytes | None, headers: Headers | None, offset: int, prefix: bytes | None = None) -> Event:
        """Convert a results record at `offset` of the home partition to an event; one that is for no client is a TAKEOVER.

        `prefix`: what its position begins with, if that is not the home's.
        """
        ...

    def unplaced(self, value: bytes | None, headers: Headers | None) -> Event:
        """Convert a results record outside the home partition to an event without a position."""
        ...

    def pushes(self, records: Sequence[Record]) -> bytes | None:
        """Encode records of the home partition for the transport; None if they aren't all pushes, or need events."""
        ...

    def answers(self, records: Sequence[Record]) -> list[AnswerFrame] | None:
        """Encode records of the home partition for the transport; None if they aren't all results, or need events."""
        ...

    def encode(self, events: Iterable[Event]) -> bytes:
        """Encode the events for the transport."""
        ...

    def on_log_moved(self, prefix: bytes) -> None:
        """Use another prefix for the positions of records from now on."""
        ...


class JsonWire:
    """Subprotocol podpair.v1: each event is a text frame. `prefix` is the position up to the offset.

    on_malformed: called with each record read for the client whose value is not what its type says.
    """

    text_frames: ClassVar = True
    encoding = "text"
    on_malformed: Callable[[MalformedEvent, Headers | None], object] | None = None

    def __init__(self, prefix: bytes = b"") -> None:
        self.prefix = prefix

    def event(self, value: bytes | None, headers: Headers | None, offset: int, prefix: bytes | None = None) -> Event:
        event = event_of_record(value, headers, offset, prefix or self.prefix)
        self._judge(event, headers)
        return event

    def unplaced(self, value: bytes | None, headers: Headers | None) -> Event:
        event = unplaced_event(value, headers)
        self._judge(event, headers)
        return event

    def _judge(self, event: Event, headers: Headers | None) -> None:
        if type(event) is MalformedEvent and self.on_malformed is not None:
            self.on_malformed(event, headers)

    def pushes(self, records: Sequence[Record]) -> bytes | None:
        return push_frames(records, self.prefix)

    def answers(self, records: Sequence[Record]) -> list[AnswerFrame] | None:
        return answer_frames(records, self.prefix)

    def encode(self, events: Iterable[Event]) -> bytes:
        return text_frames([event.payload for event in events])

    def on_log_moved(self, prefix: bytes) -> None:
        self.prefix = prefix


class EventStreamWire(JsonWire):
    """Server-sent events: the same JSON; the ids say where to go on, and in which session.

    shorten: the short form of a resume token. chunked: False for HTTP/1.0, where the end of the connection is that of the stream.
    """

    text_frames = False

    def __init__(
        self, prefix: bytes = b"", shorten: Callable[[str], str] | None = None, *, chunked: bool = True
    ) -> None:
        super().__init__(prefix)
        self._shorten = shorten
        self._chunked = chunked
        self.encoding = "chunked events" if chunked else "events"
        self._resume: str | None = None  # short: what the last `welcome` or `gap` said
        self._position: str | None = None  # of the last event that had one

    def pushes(self, records: Sequence[Record]) -> None:
        """Encode nothing: ids are made of events."""

    def answers(self, records: Sequence[Record]) -> None:
        """Encode nothing: ids are made of events."""

    def encode(self, events: Iterable[Event]) -> bytes:
        return self._framed(b"".join(server_sent_event(e.name, e.payload, self._id(e)) for e in events))

    def comment(self) -> bytes:
        """Encode a comment line, which keeps proxies from closing a silent stream.

        Without a blank line: there are clients for which that ends an event, without data.
        """
        return self._framed(b":\n")

    def closed(self, code: int, reason: str) -> bytes:
        """Encode the event that ends the stream, as a close frame ends a WebSocket."""
        payload = event("close", code=code, reason=reason)
        return self._framed(server_sent_event("close", payload, TAKEN_OVER if code == CloseCode.REPLACED else None))

    def renew(self, resume: str) -> None:
        """Use this resume token in ids from now on."""
        if self._shorten is not None:
            self._resume = self._shorten(resume)

    def _framed(self, data: bytes) -> bytes:
        return http_chunk(data) if self._chunked and data else data  # an empty chunk is the end

    def _id(self, event: Event) -> str | None:
        """Return what a client that has seen the event sends as Last-Event-ID."""
        if event.name == "publication" or event.payload.startswith(_OF_CHANNEL):
            return None  # its position is the channel's
        if event.offset >= 0:
            # The topic may have changed since the event was made: its own position counts.
            self._position = event.payload.rsplit(b'"', 2)[1].decode()
        elif event.name in ("welcome", "gap"):
            # An EventSource that is cut before its first record comes back with the welcome's place, or that behind a gap. The
            # token is the event's own: who has not got the event must not have it.
            place = msgspec.json.decode(event.payload, type=_Place)
            if place.channel is not None:
                return None
            self._position = place.position or place.to or self._position
            if place.resume is not None:
                self.renew(place.resume)
        else:
            return None
        return event_id(self._position, self._resume) if self._position else None


class _Place(msgspec.Struct):
    channel: str | None = None
    position: str | None = None
    to: str | None = None
    resume: str | None = None


class RawWire:
    """Subprotocol podpair.v1.raw: each record's value as it is, and nothing else.

    An answer that did not come through Kafka is the value that its record would have had.
    """

    text_frames: ClassVar = False
    encoding = "raw"

    def event(self, value: bytes | None, headers: Headers | None, offset: int, prefix: bytes | None = None) -> Event:
        if headers:
            found = dict(headers)
            if found.get("ce_type") == TAKEOVER:
                return takeover_event(found.get("ce_id"), offset)
            if is_structured(found.get("content-type")):
                value, headers = in_binary_mode_if_any(value, headers)
                found = dict(headers or ())
            if found.get("ce_type") in ANSWERS:
                return Event(Kind.TERMINAL, "result", None, value or b"", offset)
        return Event(Kind.PUSH, "push", None, value or b"", offset)

    def unplaced(self, value: bytes | None, headers: Headers | None) -> Event:
        return self.event(value, headers, 0)

    def pushes(self, records: Sequence[Record]) -> bytes | None:
        if any(headers for _, _, headers in records):
            return None
        return raw_frames([value or b"" for _, value, _ in records])

    def answers(self, records: Sequence[Record]) -> None:
        """Encode nothing: there are no ids."""

    def encode(self, events: Iterable[Event]) -> bytes:
        return raw_frames(
            [
                event.payload if event.offset >= 0 else record_value(event)
                for event in events
                if event.kind is not Kind.CONTROL
            ]
        )

    def on_log_moved(self, prefix: bytes) -> None:
        pass
