"""One session: a user's place in the results topic, with or without a connected client."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence

from podpair.gateway.core.answer_frames import AnswerFrame
from podpair.gateway.core.channels import ChannelAccess
from podpair.gateway.core.chunks import merge_adjacent
from podpair.gateway.core.frames import text_frames
from podpair.gateway.core.ledger import Ledger, OpenRequest
from podpair.gateway.core.positions import Position
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import RESULT, Event, Kind, accepted_event, answer_again, ended_by, takeover_of
from podpair.gateway.core.takeovers import Hold, Stamp
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.log import DeliveryResult, Log
from podpair.gateway.sessions.subscription import Subscription
from podpair.gateway.sessions.user_log import UserLog

_RESULT = ("ce_type", RESULT)  # a header of results
_TERMINAL, _TAKEOVER, _PUSH = Kind.TERMINAL, Kind.TAKEOVER, Kind.PUSH


class Session(Log):
    """State of one session on this gateway; state that outlives the gateway is in Kafka or in the resume token."""

    __slots__ = (
        "active",
        "channel_access",
        "connection",
        "ends_at",
        "expires_at",
        "gap_at",
        "given_from",
        "grant",
        "hold",
        "ledger",
        "requests_epoch",
        "sees",
        "subject",
        "subscriptions",
        "user_log",
    )

    def __init__(self, session_id: str, subject: str, home: int, ledger: Ledger) -> None:
        super().__init__(session_id, home)
        self.subject = subject
        self.ledger = ledger
        self.user_log: UserLog | None = (
            None  # what is addressed to its user; None: that is not read, or no client is there
        )
        self.subscriptions: dict[str, Subscription] = {}  # of its connection, by channel
        self.channel_access: ChannelAccess | None = None  # what its token may do with channels; None: nothing
        self.sees: re.Pattern[str] | None = None  # the subjects whose presence its token may see; None: nobody's
        self.grant: Grant | None = None  # what its token allows; None: whatever `limits` allow
        self.connection: Connection | None = None
        self.hold = Hold(Stamp(), shared=False)  # the connection's, among those at other gateways
        self.gap_at = -1.0  # when a gap was last declared to its client, on the performance counter
        self.given_from = -1  # offset behind which its client is given the log
        self.requests_epoch: str | None = None  # of the requests topic, as its client knows it; None: it knows none
        self.expires_at: float | None = None  # Unix seconds: when its token expires
        self.ends_at: float | None = None  # Unix seconds: when its connection is closed for that
        self.active = 0.0  # monotonic seconds: when a frame last went either way

    def logs(self) -> Iterator[Log]:
        """Iterate over the logs that its client follows."""
        yield self
        if self.user_log is not None:
            yield self.user_log
        yield from self.subscriptions.values()

    def note_gap(self) -> None:
        self.gap_at = time.perf_counter()

    def may_be_lost(self, request: OpenRequest) -> bool:
        """Return whether a gap that was declared since an open request was asked may cover its record, or its result.

        To say `accepted` would promise an answer that only this gateway knows to be missing, and its client, who may come to
        another one, would wait for it.
        """
        return request.route == "queue" and request.began <= self.gap_at

    def received(self) -> tuple[int, int, int] | None:
        """Return what its client's machine has acknowledged of the log: the home, and the offsets after and up to which; None:
        no client is there, or something is on its way to it.
        """
        connection = self.connection
        if connection is None or not connection.acknowledged():
            return None
        return self.home, self.given_from, self.seen

    def move(self, home: int, previous_home: int | None) -> None:
        if previous_home != home:
            self.ledger.on_log_moved()
        super().move(home, previous_home)

    def skip_to(self, offset: int) -> None:
        super().skip_to(offset)
        self.given_from = self.seen  # nobody has received what is skipped

    def position(self, epoch: str, offset: int) -> Position:
        user = self.user_log
        return Position(epoch, self.home, offset, None if user is None else (user.home, user.seen))

    def update_position_prefix(self, epoch: str) -> None:
        """Update the prefix of positions: its home, and the client's place in the user's log."""
        if self.connection is not None:
            self.connection.wire.on_log_moved(str(self.position(epoch, 0)).removesuffix("0").encode())

    def push(self, records: Sequence[Record]) -> int | None:
        """Send records of the home partition that were not seen, if all are pushes, or all results, and the client takes them at
        once.

        Return how many were sent, the others being duplicates; None if nothing was done.
        """
        connection = self.connection
        offset, _, headers = records[0]
        if connection is None or offset <= self.seen:
            return None
        if headers and _RESULT in headers:
            frames = connection.answers(records)
            if frames is None:
                return None
            sent = self._answer(connection, frames)
        elif connection.send_pushes(records):
            sent = len(records)
        else:
            return None
        self.seen = records[-1][0]
        return sent

    def _answer(self, connection: Connection, frames: Sequence[AnswerFrame]) -> int:
        """Send results, and end their requests. Return how many were sent, less duplicates."""
        ledger = self.ledger
        written: list[bytes] = []
        sent = 0
        for request_id, offset, frame in frames:
            if ledger.is_duplicate(request_id, offset):
                continue
            request = ledger.end(request_id, offset)
            if request is not None and not request.accepted:
                # The result has overtaken the broker's acknowledgement, which it implies.
                written.append(text_frames((accepted_event(request_id, "queue").payload,)))
            written.append(frame)
            sent += 1
        connection.write(written)
        return sent

    def deliver(self, records: Iterable[Record], *, merge: bool = False) -> DeliveryResult:
        connection = self.connection
        if connection is None:
            return DeliveryResult(0, 0, complete=True)
        to_event = connection.wire.event
        seen = self.seen
        events: list[Event] = []
        duplicates = 0
        lost = False  # another connection has taken the session over
        for offset, value, headers in records:
            if offset <= seen:
                continue
            seen = offset
            event = to_event(value, headers, offset)
            kind = event.kind
            if kind is _PUSH:
                pass  # the common case
            elif kind is _TAKEOVER:
                lost = self.hold.loses_to(event.id)
                if lost:
                    break
                continue
            elif kind is _TERMINAL and event.id is not None:
                if self.ledger.is_duplicate(event.id, offset):
                    duplicates += 1
                    continue
                self._end(event.id, offset, events)
            events.append(event)
        if merge:
            events = merge_adjacent(events)
        taken = connection.send(events)
        complete = taken == len(events)
        self.seen = seen if complete else max([self.seen, *(event.offset for event in events[:taken])])
        if lost:
            self.on_replaced()
        return DeliveryResult(taken, duplicates, complete)

    def _end(self, request_id: str, offset: int, events: list[Event]) -> None:
        """End a request whose result, which is at `offset` of the home, is about to be added to `events`."""
        request = self.ledger.end(request_id, offset)
        if request is not None and not request.accepted:
            # The result has overtaken the broker's acknowledgement, which it implies.
            events.append(accepted_event(request_id, "queue"))

    def take_answers(self, records: Sequence[Record]) -> tuple[list[Event], list[Record]]:
        connected = self.connection is not None and self.connection.open
        answers: list[Event] = []
        others: list[Record] = []
        for record in records:
            _, value, headers = record
            request_id = ended_by(value, headers)
            if request_id is None:
                others.append(record)
            elif self.ledger.get(request_id) is not None or (connected and not self.ledger.has_ended(request_id)):
                answers.append(answer_again(request_id, value, headers))
        return answers, others

    def deliver_unplaced(self, records: Iterable[Record]) -> None:
        connection = self.connection
        if connection is not None and connection.open:
            self.send_all([connection.wire.unplaced(value, headers) for _, value, headers in records])

    def observe(self, records: Iterable[Record]) -> None:
        if self.connection is None:
            for offset, value, headers in records:
                request_id = ended_by(value, headers)
                if request_id is not None and self.ledger.get(request_id) is not None:
                    self.ledger.end(request_id, offset)
            return
        self.apply_takeovers(
            found for offset, _, headers in records if (found := takeover_of(headers, offset)) is not None
        )

    def apply_takeovers(self, takeovers: Iterable[Event]) -> None:
        if self.connection is not None and any(self.hold.loses_to(takeover.id) for takeover in takeovers):
            self.on_replaced()

    def on_replaced(self) -> None:
        """Close the connection: another one has taken the session over."""
        self.end(CloseCode.REPLACED, "another connection took over this session")

    def end(self, code: int, reason: str) -> None:
        self.live = False
        if self.connection is not None:
            self.connection.close(code, reason)

    def send(self, event: Event) -> bool:
        """Send one event that did not come through Kafka. Return False if no client is connected."""
        return self.send_all((event,))

    def send_all(self, events: Sequence[Event]) -> bool:
        """Send events that did not come through Kafka, in one write. Return False if no client is connected."""
        connection = self.connection
        if connection is None or not connection.send_unlogged(events):
            return False
        self.active = time.monotonic()
        return True

    def send_frames(self, frames: bytes) -> bool:
        """Write text frames of events that did not come through Kafka, if the client takes them at once.

        Return False if nothing was done.
        """
        connection = self.connection
        if connection is None or not connection.send_frames(frames):
            return False
        self.active = time.monotonic()
        return True
