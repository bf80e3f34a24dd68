"""A stream's records on the results topic, and what they add up to.

The first record says whose it is and what was asked; records of events follow, numbered from 0; whoever ends the stream from
outside (cancels or deletes it, finds that its gateway is gone) adds a record too. Invariant: folding the records in the log's
order is the state, at every gateway the same: each event counts once, by its number, and what follows the end does not.
"""

from typing import Any, Literal, NamedTuple

import msgspec

TYPE = b"dev.podpair.stream"
"""The `ce_type` of all of these records."""
_encode = msgspec.json.Encoder().encode


class Begin(msgspec.Struct, tag="begin", tag_field="kind", omit_defaults=True):
    """The first record. `about`: what the stream's own kind keeps."""

    subject: str
    about: dict[str, Any] = {}


class Events(msgspec.Struct, tag="events", tag_field="kind", omit_defaults=True):
    """Further events; `first` is the number of the first one. `last`: the stream is whole with them."""

    first: int
    events: list[msgspec.Raw]
    last: bool = False


class Note(msgspec.Struct, tag="note", tag_field="kind", omit_defaults=True):
    """What is not an event: it goes on (alive), or ends from outside."""

    what: Literal["alive", "cancelled", "deleted", "lost"]
    message: str = ""


StreamRecord = Begin | Events | Note
_record = msgspec.json.Decoder(StreamRecord)


def encode_record(record: StreamRecord) -> bytes:
    """Encode the value of a record."""
    return _encode(record)


def decode_record(value: bytes | None) -> StreamRecord | None:
    """Read the value of a record; None if it is none of a stream's."""
    try:
        found: StreamRecord = _record.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found


class Ending(NamedTuple):
    """How a stream has ended."""

    how: Literal["whole", "cancelled", "lost"]
    message: str = ""


_NO_EVENT = msgspec.Raw(b"")


class StreamState:
    """The fold of a stream's records."""

    def __init__(self) -> None:
        self.begin: Begin | None = None
        self.events: list[msgspec.Raw] = []
        self.ending: Ending | None = None
        self.deleted = False

    def forget_events(self) -> None:
        """Drop the contents of the events so far, and keep their number."""
        self.events[:] = [_NO_EVENT] * len(self.events)

    def add(self, value: bytes | None) -> None:
        """Take the next record of the log."""
        match decode_record(value):
            case Begin() as begin if self.begin is None:
                self.begin = begin
            case Events(first, events, last) if self.ending is None and first <= len(self.events):
                self.events += events[len(self.events) - first :]  # those before were written twice
                if last:
                    self.ending = Ending("whole")
            case Note("deleted"):
                self.deleted = True
                self.ending = self.ending or Ending("cancelled")
            case Note("cancelled" | "lost" as how, message) if self.ending is None:
                self.ending = Ending(how, message)
