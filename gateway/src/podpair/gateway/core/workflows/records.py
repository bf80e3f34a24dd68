"""Records of the workflows topic: everything that is known of an instance, by key.

    <session>/<id>                 how it began, and once it has ended its marker
    <session>/<id>/<stage>         a stage, or what it does for all items of its `for_each`
    <session>/<id>/<stage>/<index> what it does for one item
    <session>/<id>/~<stage>[/…]    the compensation of one of those
    <session>/<id>/!<name>         a message that a client sent
    <session>/<id>/@               how far its events are numbered, and why it is failing, if it is
    ^<session>/<id>                a request that is to begin later, and once it has been written again its marker

Session, id and name are percent-encoded, so that each key says one thing. The topic is compacted: the newest record of a key
is what counts, and one without a value says that there is nothing.
"""

from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from podpair.gateway.core.protocol import Code

CURSOR = "@"
_encoder = msgspec.json.Encoder()


class InvalidState(ValueError):
    """A record of the workflows topic that can't be read."""


class Unit(NamedTuple):
    """What is run, retried and recorded by itself: a stage, one item of its `for_each`, or the compensation of either."""

    stage: str
    index: int | None = None  # type: ignore[assignment]  # a tuple's method of that name isn't needed
    undo: bool = False

    @property
    def suffix(self) -> str:
        """What its key ends with."""
        return ("~" if self.undo else "") + self.stage + ("" if self.index is None else f"/{self.index}")


class Begun(msgspec.Struct, tag="begun", tag_field="kind", omit_defaults=True):
    """How an instance began."""

    id: str
    session: str
    model: str
    declaration: msgspec.Raw
    began: float
    """Unix seconds."""
    version: str = ""
    value: msgspec.Raw = msgspec.Raw(b"{}")
    """Of the request's record, a JSON object."""
    headers: dict[str, str] = {}
    """Of the request's record, their bytes as Latin-1."""
    deadline: float | None = None
    """Unix seconds: the request's, or the workflow's `timeout`, whichever is sooner."""
    lane: int = 0
    trace: str = ""
    reply_to: tuple[str, int] | None = None
    offset: int = -1
    """Of the request's record in the partition with the same number."""


class Ended(msgspec.Struct, tag="ended", tag_field="kind"):
    """The marker of an instance that has ended: whoever reads its request again knows that it is answered."""

    at: float
    """Unix seconds."""
    outcome: str
    """`result`, or the code of its error."""
    offset: int = -1
    """Of its request's record: another one with its id is a request of its own, which learns how it ended."""


class Scheduled(msgspec.Struct, tag="scheduled", tag_field="kind", omit_defaults=True):
    """A request that is to begin later: its record, as it is written again then."""

    id: str
    session: str
    not_before: float
    """Unix seconds."""
    value: bytes = b""
    headers: dict[str, str] = {}
    """Their bytes as Latin-1, without the time."""
    key: bytes | None = None
    reply_to: tuple[str, int] | None = None
    handed_over: float | None = None
    """Unix seconds: when it was written again; nothing else of it is kept then, but its ids and its time."""


class UnitRecord(msgspec.Struct, omit_defaults=True):
    """A unit."""

    state: Literal["running", "retrying", "waiting", "finished", "skipped", "failed"]
    attempt: int = 1
    since: float = 0.0
    """When the unit began, in Unix seconds."""
    until: float | None = None
    """Unix seconds: when a unit that is retrying tries again, when one that is waiting gives up."""
    items: int | None = None
    """Of a `for_each`."""
    output: msgspec.Raw = msgspec.Raw(b"")
    checkpoint: msgspec.Raw = msgspec.Raw(b"")
    error: str = ""
    order: int = 0
    """The how manieth to finish."""

    @property
    def ended(self) -> bool:
        """Whether nothing more is done for it."""
        return self.state in ("finished", "skipped", "failed")


class Cursor(msgspec.Struct, omit_defaults=True):
    """Counters, and the reason for which the instance is being compensated."""

    seq: int = -1
    """Of the `partial` written last."""
    order: int = 0
    """Units that have finished."""
    code: Code | None = None
    message: str = ""


class SignalRecord(msgspec.Struct):
    """A message that a client sent."""

    data: msgspec.Raw
    at: float


class RecordKey(NamedTuple):
    """A key: the instance's, and what follows it."""

    instance: str
    suffix: str


_instance: msgspec.json.Decoder[Begun | Ended | Scheduled] = msgspec.json.Decoder(Begun | Ended | Scheduled)
_unit = msgspec.json.Decoder(UnitRecord)
_cursor = msgspec.json.Decoder(Cursor)
_signal = msgspec.json.Decoder(SignalRecord)


def instance_key(session: str, request_id: str) -> str:
    """Return the key of an instance."""
    return f"{quote(session, safe='')}/{quote(request_id, safe='')}"


def scheduled_key(instance: str) -> str:
    """Return the key of a request that is to begin later, from the one that an instance of it would have."""
    return "^" + instance


def signal_suffix(name: str) -> str:
    """Return what the key of a client's message ends with."""
    return "!" + quote(name, safe="")


def split_key(key: bytes) -> RecordKey:
    """Split a record's key. Raises InvalidState."""
    parts = key.decode(errors="replace").split("/", 2)
    if len(parts) < 2:
        raise InvalidState(f"{key[:100]!r} is no key of a workflow's record")
    return RecordKey("/".join(parts[:2]), parts[2] if len(parts) > 2 else "")


def unit_of(suffix: str) -> Unit:
    """Parse what a unit's key ends with. Raises InvalidState."""
    stage, _, index = suffix.removeprefix("~").partition("/")
    if not stage or (index and not (index.isdecimal() and index.isascii() and len(index) < 10)):
        raise InvalidState(f"{suffix[:100]!r} names no stage")
    return Unit(stage, int(index) if index else None, suffix.startswith("~"))


def signal_name(suffix: str) -> str:
    """Return the name of a client's message from its key."""
    return unquote(suffix[1:])


def encode(record: msgspec.Struct) -> bytes:
    """Encode a record's value."""
    return _encoder.encode(record)


def decode_instance(value: bytes) -> Begun | Ended | Scheduled:
    """Decode the record of an instance, or of a request that is to begin later. Raises InvalidState."""
    found: Begun | Ended | Scheduled = _decoded(_instance, value)
    return found


def decode_unit(value: bytes) -> UnitRecord:
    """Decode the record of a unit. Raises InvalidState."""
    found: UnitRecord = _decoded(_unit, value)
    return found


def decode_cursor(value: bytes) -> Cursor:
    """Decode an instance's counters. Raises InvalidState."""
    found: Cursor = _decoded(_cursor, value)
    return found


def decode_signal(value: bytes) -> SignalRecord:
    """Decode a client's message. Raises InvalidState."""
    found: SignalRecord = _decoded(_signal, value)
    return found


def _decoded(decoder: "msgspec.json.Decoder[Any]", value: bytes) -> Any:
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidState(f"a record of the workflows topic can't be read: {error}") from None
