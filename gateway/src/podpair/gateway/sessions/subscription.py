"""A session's subscription to a channel, and what the subscriptions of one channel have in common at this gateway.

A subscription is a log that its client follows, beside the session's own: it is caught up with, moves and is cut as those are
(`resume.py`). It belongs to a connection; one that comes next subscribes anew, with the position of the last event that its
client has.

Invariant: records are encoded once for each kind of connection, and the same bytes are written to all of a channel's clients
that keep up. One that doesn't keep up, or fails, costs the others nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from podpair.gateway.core.channels import channel_key, publication, unplaced_publication
from podpair.gateway.core.positions import Position
from podpair.gateway.core.protocol import Subscribe
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import Event
from podpair.gateway.core.wires import Wire
from podpair.gateway.kafka.results import PartitionLease
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.log import DeliveryResult, Log

if TYPE_CHECKING:
    from podpair.gateway.sessions.session import Session


class Subscription(Log):
    """One session's view of a channel, while the connection lasts that subscribed."""

    __slots__ = ("asked", "channel", "epoch", "lease", "session", "subscriber")

    def __init__(self, message: Subscribe, home: int, session: "Session", connection: Connection) -> None:
        super().__init__(channel_key(message.channel), home)
        self.channel = message.channel
        self.asked = message.id  # what the client calls it, so as to know this subscription from a former one
        self.session = session
        self.epoch = ""  # of the results topic
        self.lease: PartitionLease | None = None  # keeps the home read
        self.subscriber = connection

    @property
    def connection(self) -> Connection | None:  # type: ignore[override]
        """The connection that subscribed; None once it, or the subscription, has ended."""
        connection, session = self.subscriber, self.session
        ended = session.connection is not connection or session.subscriptions.get(self.channel) is not self
        return None if ended else connection

    @property
    def gap_members(self) -> Mapping[str, str]:
        return {"channel": self.channel}

    def position(self, epoch: str, offset: int) -> Position:
        return Position(epoch, self.home, offset)

    def update_position_prefix(self, epoch: str) -> None:
        self.epoch = epoch

    def deliver(self, records: Iterable[Record], *, merge: bool = False) -> DeliveryResult:
        new = [record for record in records if record[0] > self.seen]
        return self.deliver_events(encode_records(self, new), new[-1][0] if new else self.seen)

    def deliver_events(self, events: Sequence[Event], last: int) -> DeliveryResult:
        """Send events of records up to offset `last`; if the client takes only some it has to catch up from `seen`."""
        connection = self.connection
        if connection is None:
            return DeliveryResult(0, 0, complete=True)
        new = [event for event in events if event.offset > self.seen]
        taken = connection.send(new)
        complete = taken == len(new)
        self.seen = max(self.seen, last) if complete else max([self.seen, *(event.offset for event in new[:taken])])
        return DeliveryResult(taken, 0, complete)

    def take_answers(self, records: Sequence[Record]) -> tuple[list[Event], list[Record]]:
        return [], list(records)

    def deliver_unplaced(self, records: Iterable[Record]) -> None:
        connection = self.connection
        if connection is not None and connection.open:
            found = [unplaced_publication(self.channel, value, headers) for _, value, headers in records]
            self.session.send_all([event for event in found if event is not None])

    def observe(self, records: Iterable[Record]) -> None:
        pass  # the client gets them when it catches up

    def note_gap(self) -> None:
        pass  # a gap of a channel covers no request

    def end(self, code: int, reason: str) -> None:
        self.session.end(code, reason)


def encode_records(subscription: Subscription, records: Iterable[Record]) -> list[Event]:
    """Convert records of a channel's home to events for any of its subscribers."""
    channel, prefix = subscription.channel, f"{subscription.epoch}.{subscription.home}.".encode()
    found = (publication(channel, value, headers, offset, prefix) for offset, value, headers in records)
    return [event for event in found if event is not None]


class Channel:
    """The subscriptions of one channel at this gateway."""

    __slots__ = ("key", "subscriptions")

    def __init__(self, key: str) -> None:
        self.key = key
        self.subscriptions: set[Subscription] = set()

    @property
    def home(self) -> int:
        """The home partition: all subscriptions have one."""
        return next(iter(self.subscriptions)).home

    def live(self) -> list[Subscription]:
        """Return the subscriptions that have caught up."""
        return [one for one in self.subscriptions if one.live]


class SharedFrames:
    """Events of a channel, encoded once for each kind of connection. `last` is the offset of the last record."""

    __slots__ = ("events", "frames", "last")

    def __init__(self, subscription: Subscription, records: Sequence[Record]) -> None:
        self.events = encode_records(subscription, records)
        self.last = records[-1][0]
        self.frames: dict[str, bytes] = {}

    def for_wire(self, wire: Wire) -> bytes:
        """Return the events as this kind of connection has them."""
        frames = self.frames.get(wire.encoding)
        if frames is None:
            frames = self.frames[wire.encoding] = wire.encode(self.events)
        return frames
