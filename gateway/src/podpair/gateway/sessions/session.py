"""One session: a user's place in the results topic, with or without a client connected right now."""

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from podpair.gateway.core.ledger import Ledger
from podpair.gateway.core.partials import merge_adjacent
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.records import Event, Kind, accepted_event, ended_by, takeover_of
from podpair.gateway.core.tails import Record
from podpair.gateway.core.takeovers import Hold, Stamp
from podpair.gateway.sessions.connection import Connection

_TERMINAL, _TAKEOVER, _PUSH = Kind.TERMINAL, Kind.TAKEOVER, Kind.PUSH


class Delivery(NamedTuple):
    """What became of records that were to be delivered."""

    sent: int
    duplicates: int  # dropped: the second terminal event of a request
    complete: bool  # the client took all of them


class Session:
    """State of one session on this gateway; whatever outlives the gateway is in Kafka or in the resume token."""

    __slots__ = (
        "active",
        "connection",
        "ends_at",
        "expires_at",
        "grant",
        "hold",
        "home",
        "id",
        "key",
        "ledger",
        "live",
        "moves",
        "previous_home",
        "requests_epoch",
        "seen",
        "subject",
    )

    def __init__(self, session_id: str, subject: str, home: int, ledger: Ledger) -> None:
        self.id = session_id
        self.key = session_id.encode()
        self.subject = subject
        self.home = home  # partition of the results topic
        self.previous_home: int | None = None  # where some producers may write still, for the topic was widened
        self.moves = 0  # how often the results topic has changed since the session is here
        self.ledger = ledger
        self.grant: Grant | None = None  # what its token allows; None: whatever `limits` allow
        self.connection: Connection | None = None
        self.hold = Hold(Stamp(), shared=False)  # the connection's, among those that other gateways may have
        self.requests_epoch: str | None = None  # of the requests topic, as its client was told of it; None: of none yet
        self.live = False  # caught up: records are delivered as they are read
        self.seen = -1  # offset of the last record delivered, or of the one before the first
        self.expires_at: float | None = None  # Unix seconds: when its token ends
        self.ends_at: float | None = None  # Unix seconds: when its connection is closed for that
        self.active = 0.0  # monotonic seconds: when a frame last went either way

    def move(self, home: int, previous_home: int | None) -> None:
        """The results topic has changed: what was seen of the log before it says nothing about the one from now on.

        With a `previous_home` the log is the same, and was divided anew.
        """
        if previous_home != home:
            self.seen = -1
            self.ledger.moved()
        self.home = home
        self.previous_home = None if previous_home == home else previous_home
        self.moves += 1
        self.live = False

    def deliver(self, records: Iterable[Record], *, merge: bool = False) -> Delivery:
        """Send records of the home partition, ascending; what was seen before is left out. `merge`: adjacent partials as one.

        Where the client does not take all of them, `seen` is where it has to be brought up to date from.
        """
        connection = self.connection
        if connection is None:
            return Delivery(0, 0, complete=True)
        to_event = connection.wire.event
        seen = self.seen
        events: list[Event] = []
        duplicates = 0
        lost = False  # another connection has the session
        for record in records:
            offset: int = record.offset()
            if offset <= seen:
                continue
            seen = offset
            event = to_event(record.value(), record.headers(), offset)
            kind = event.kind
            if kind is _PUSH:
                pass  # what most are
            elif kind is _TAKEOVER:
                lost = self.hold.loses_to(event.id)
                if lost:
                    break
                continue
            elif kind is _TERMINAL and event.id is not None:
                if self.ledger.is_second_copy(event.id, offset):
                    duplicates += 1
                    continue
                request = self.ledger.end(event.id, offset)
                if request is not None and not request.accepted:
                    # The answer has overtaken the broker's acknowledgement, which it proves.
                    events.append(accepted_event(event.id, "queue"))
            events.append(event)
        if merge:
            events = merge_adjacent(events)
        taken = connection.send(events)
        complete = taken == len(events)
        self.seen = seen if complete else max([self.seen, *(event.offset for event in events[:taken])])
        if lost:
            self.replaced()
        return Delivery(taken, duplicates, complete)

    def deliver_unplaced(self, records: Iterable[Record]) -> None:
        """Send records of another partition than the home, without positions, if the client is there.

        Of answers only those of open requests: the others have been given, or are another connection's.
        """
        connection = self.connection
        if connection is None or not connection.open:
            return
        events: list[Event] = []
        for record in records:
            event = connection.wire.unplaced(record.value(), record.headers())
            if event.kind is Kind.TERMINAL and event.id is not None:
                if self.ledger.get(event.id) is None:
                    continue
                request = self.ledger.end(event.id)
                if request is not None and not request.accepted:
                    events.append(accepted_event(event.id, "queue"))
            events.append(event)
        self.send_all(events)

    def notice(self, records: Iterable[Record]) -> None:
        """Records of the home partition that are not delivered as they come: the client is away, or has to catch up."""
        if self.connection is None:
            for record in records:
                request_id = ended_by(record.headers())
                if request_id is not None and self.ledger.get(request_id) is not None:
                    self.ledger.end(request_id, record.offset())
            return
        self.heed(found for record in records if (found := takeover_of(record.headers(), record.offset())) is not None)

    def heed(self, takeovers: Iterable[Event]) -> None:
        """Let go of the client's connection where a newer one is announced."""
        if self.connection is not None and any(self.hold.loses_to(takeover.id) for takeover in takeovers):
            self.replaced()

    def replaced(self) -> None:
        """Another connection has the session now."""
        self.end(CloseCode.REPLACED, "another connection took over this session")

    def end(self, code: int, reason: str) -> None:
        """Close the client's connection, if there is one."""
        self.live = False
        if self.connection is not None:
            self.connection.close(code, reason)

    def send(self, event: Event) -> bool:
        """Send one event that did not come through Kafka; False if no client is there to take it."""
        return self.send_all((event,))

    def send_all(self, events: Sequence[Event]) -> bool:
        """Send events that did not come through Kafka, in one write; False if no client is there to take them."""
        connection = self.connection
        if connection is None or not connection.send_unlogged(events):
            return False
        self.active = time.monotonic()
        return True
