"""The bounded buffer of a slow client, and what it drops when it is full.

Invariant: the buffer holds no more than its limit and one event; adjacent partials are merged first, then progress is dropped,
then the client is closed and may resume. A terminal event is never dropped: what came through Kafka is there again on resume,
and `unsent` hands out the rest. A pass over all events frees a good part of the buffer or is not repeated: a slow client
costs no time that others would have.
"""

from collections import deque

from podpair.gateway.core.chunks import merge_adjacent
from podpair.gateway.core.records import Event, Kind

_OVERHEAD = 64  # bytes that an event costs besides its payload, which may be empty


class Overflow(Exception):
    """The buffer is full: what comes through Kafka waits there, and for anything else the client is too slow."""


class Outbox:
    """Events that a connection could not send yet, at most about `limit` bytes of them."""

    __slots__ = ("_events", "_full", "_limit", "_partials", "dropped", "merged", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._partials = 0  # at most so many of the events are partials
        self._full = False  # Overflow was raised: nothing makes room any more
        self.size = 0  # bytes, about
        self.merged = 0  # partials that were merged into another
        self.dropped = 0  # partials that were dropped

    def __bool__(self) -> bool:
        return bool(self._events)

    def add(self, event: Event, *, extra: int = 0, beside: int = 0) -> None:
        """Keep an event; `extra` bytes beyond the limit are for those that are in no log, `beside` are held elsewhere.

        Raises Overflow (the event is kept all the same: it may be a terminal one).
        """
        self._events.append(event)
        self.size += _size(event)
        self._partials += event.kind is Kind.PARTIAL
        if self.size + beside > self._limit and not self._full:
            self._make_room()
        if self.size + beside > self._limit + extra:
            self._full = True
            raise Overflow

    def _make_room(self) -> None:
        if self._partials > 1:
            self._merge_partials()
            # What frees next to nothing would be done again for the next event.
            if self.size > self._limit - self._limit // 8:
                self._drop_progress()
        elif self._events[-1].kind is Kind.PARTIAL:
            self.size -= _size(self._events.pop())
            self._partials = 0
            self.dropped += 1
        elif self._partials:
            self._drop_progress()

    def pop(self, budget: int) -> list[Event]:
        """Remove and return the oldest events, up to `budget` bytes, but at least one."""
        taken: list[Event] = []
        self._full = False
        while self._events and (not taken or budget > 0):
            event = self._events.popleft()
            budget -= len(event.payload)
            self.size -= _size(event)
            taken.append(event)
        return taken

    def unsent(self) -> list[Event]:
        """Empty the outbox, and return its terminal events that are not in Kafka's log."""
        left = [e for e in self._events if e.kind is Kind.TERMINAL and e.offset < 0]
        self._replace([])
        return left

    def _replace(self, events: list[Event]) -> None:
        self._events = deque(events)
        self._partials = sum(e.kind is Kind.PARTIAL for e in events)
        self.size = sum(map(_size, events))

    def _merge_partials(self) -> None:
        kept = merge_adjacent(self._events)
        self.merged += len(self._events) - len(kept)
        self._replace(kept)

    def _drop_progress(self) -> None:
        kept = [e for e in self._events if e.kind is not Kind.PARTIAL]
        self.dropped += len(self._events) - len(kept)
        self._replace(kept)


def _size(event: Event) -> int:
    return len(event.payload) + _OVERHEAD
