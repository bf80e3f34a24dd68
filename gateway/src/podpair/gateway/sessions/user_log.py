"""The log of records that are addressed to a user rather than to a session: each of the user's sessions follows it.

Positions of a session that follows its user's log name both places, so that either log continues where its client was, on any
gateway. Between the two logs there is no order.

Invariant: an event of one log names the place in the other log up to which the client was given records before that event.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from podpair.gateway.core.positions import Position
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import Event, Kind
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.log import DeliveryResult, Log

if TYPE_CHECKING:
    from podpair.gateway.sessions.session import Session

_PASSED = (Kind.PUSH, Kind.UNREADABLE)


class UserLog(Log):
    """One session's view of its user's log, while its client is connected. Only pushes pass: a user has no requests."""

    __slots__ = ("epoch", "session")

    def __init__(self, key: str, home: int, session: "Session") -> None:
        super().__init__(key, home)
        self.session = session
        self.epoch = ""  # of the results topic

    @property
    def connection(self) -> Connection | None:  # type: ignore[override]
        return self.session.connection if self.session.user_log is self else None

    def position(self, epoch: str, offset: int) -> Position:
        return Position(epoch, self.session.home, self.session.seen, (self.home, offset))

    def update_position_prefix(self, epoch: str) -> None:
        self.session.update_position_prefix(epoch)

    def deliver(self, records: Iterable[Record], *, merge: bool = False) -> DeliveryResult:
        connection = self.connection
        if connection is None:
            return DeliveryResult(0, 0, complete=True)
        to_event = connection.wire.event
        prefix = self.position(self.epoch, 0).before_user().encode()
        seen = self.seen
        events = []
        for offset, value, headers in records:
            if offset > seen:
                seen = offset
                event = to_event(value, headers, offset, prefix)
                if event.kind in _PASSED:
                    events.append(event)
        taken = connection.send(events)
        complete = taken == len(events)
        self.seen = seen if complete else max([self.seen, *(event.offset for event in events[:taken])])
        self.session.update_position_prefix(self.epoch)
        return DeliveryResult(taken, 0, complete)

    def take_answers(self, records: Sequence[Record]) -> tuple[list[Event], list[Record]]:
        return [], list(records)

    def deliver_unplaced(self, records: Iterable[Record]) -> None:
        connection = self.connection
        if connection is not None and connection.open:
            events = [connection.wire.unplaced(value, headers) for _, value, headers in records]
            self.session.send_all([event for event in events if event.kind in _PASSED])

    def observe(self, records: Iterable[Record]) -> None:
        pass  # the client gets them when it catches up or comes back

    def note_gap(self) -> None:
        self.session.note_gap()

    def end(self, code: int, reason: str) -> None:
        self.session.end(code, reason)
