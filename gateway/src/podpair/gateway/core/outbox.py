"""What waits for a slow client, and what gives way when that is too much.

Invariant: the buffer is bounded; adjacent partials are merged first, then progress is dropped, then the client is closed
and may resume. A terminal event is never dropped: what came through Kafka is there again on resume, and `unsent` hands
out the rest.
"""

from collections import deque

import msgspec

from podpair.gateway.core.records import Event, Kind


class Overflow(Exception):
    """The client is too slow: close it with 3008."""


class Outbox:
    """Events that one connection could not take yet, at most about `limit` bytes of them."""

    __slots__ = ("_events", "_limit", "dropped", "merged", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self.size = 0  # bytes of payload
        self.merged = 0  # partials that were merged into another
        self.dropped = 0  # partials that were dropped

    def __bool__(self) -> bool:
        return bool(self._events)

    def add(self, event: Event) -> None:
        """Keep an event. Raises Overflow (the event is kept all the same: it may be a terminal one)."""
        self._events.append(event)
        self.size += len(event.payload)
        if self.size <= self._limit:
            return
        self._merge_partials()
        if self.size > self._limit:
            self._drop_progress()
        if self.size > self._limit:
            raise Overflow

    def take(self, budget: int) -> list[Event]:
        """The oldest events, up to `budget` bytes, but one at least."""
        taken: list[Event] = []
        while self._events and (not taken or budget > 0):
            event = self._events.popleft()
            budget -= len(event.payload)
            self.size -= len(event.payload)
            taken.append(event)
        return taken

    def unsent(self) -> list[Event]:
        """The terminal events in here that are not in Kafka's log; the outbox is empty after this."""
        left = [e for e in self._events if e.kind is Kind.TERMINAL and e.offset < 0]
        self._events.clear()
        self.size = 0
        return left

    def _replace(self, events: list[Event]) -> None:
        self._events = deque(events)
        self.size = sum(len(e.payload) for e in events)

    def _merge_partials(self) -> None:
        kept: list[Event] = []
        run: list[Event] = []
        for event in self._events:
            if run and (event.kind is not Kind.PARTIAL or event.id != run[0].id):
                kept += _merged(run)
                self.merged += len(run) - 1
                run = []
            if event.kind is Kind.PARTIAL:
                run.append(event)
            else:
                kept.append(event)
        if run:
            kept += _merged(run)
            self.merged += len(run) - 1
        self._replace(kept)

    def _drop_progress(self) -> None:
        kept = [e for e in self._events if e.kind is not Kind.PARTIAL]
        self.dropped += len(self._events) - len(kept)
        self._replace(kept)


def _merged(run: list[Event]) -> list[Event]:
    """Adjacent partials of one request as one: texts and lists are joined, of anything else the newest stands."""
    if len(run) == 1:
        return run
    bodies = [msgspec.json.decode(e.payload) for e in run]
    data = [body.get("data") for body in bodies]
    joined: object = data[-1]
    if all(isinstance(d, str) for d in data):
        joined = "".join(data)
    elif all(isinstance(d, list) for d in data):
        joined = [item for part in data for item in part]
    newest = run[-1]
    return [newest._replace(payload=msgspec.json.encode({**bodies[-1], "data": joined}))]
