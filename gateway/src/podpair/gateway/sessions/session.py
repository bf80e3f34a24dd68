"""One session: a user's place in the results topic, with or without a client connected right now."""

from collections.abc import Iterable

from podpair.gateway.core.ledger import Ledger
from podpair.gateway.core.records import Event, Kind
from podpair.gateway.core.tails import Record
from podpair.gateway.sessions.connection import Connection


class Session:
    """State of one session on this gateway; whatever outlives the gateway is in Kafka or in the resume token."""

    __slots__ = ("active", "connection", "expires_at", "home", "id", "key", "ledger", "live", "seen", "subject")

    def __init__(self, session_id: str, subject: str, home: int, max_open: int) -> None:
        self.id = session_id
        self.key = session_id.encode()
        self.subject = subject
        self.home = home  # partition of the results topic
        self.ledger = Ledger(max_open)
        self.connection: Connection | None = None
        self.live = False  # caught up: records are delivered as they are read
        self.seen = -1  # offset of the last record delivered, or of the one before the first
        self.expires_at: float | None = None  # Unix seconds: when its token ends
        self.active = 0.0  # monotonic seconds: when a frame last went either way

    def deliver(self, records: Iterable[Record]) -> tuple[int, int]:
        """Send records of the home partition, ascending; what was seen before is left out.

        Returns how many were sent, and how many were dropped as the second terminal event of a request.
        """
        connection = self.connection
        if connection is None:
            return 0, 0
        to_event = connection.wire.event
        seen = self.seen
        events: list[Event] = []
        duplicates = 0
        for record in records:
            offset: int = record.offset()
            if offset <= seen:
                continue
            seen = offset
            event = to_event(record.value(), record.headers(), offset)
            if event.kind is Kind.TERMINAL and event.id is not None:
                if self.ledger.has_ended(event.id):
                    duplicates += 1
                    continue
                self.ledger.end(event.id)
            events.append(event)
        self.seen = seen
        connection.send(events)
        return len(events), duplicates

    def send(self, event: Event) -> bool:
        """Send one event that did not come through Kafka; False if no client is there to take it."""
        if self.connection is None or self.connection.closing:
            return False
        self.connection.send((event,))
        return True
