"""Which queued requests run together, and when: the decision alone, without a loop, a thread or a clock.

The rule, per model:
- nothing runs: the oldest request and all that fit into its batch run at once. Waiting would only add latency.
- some runners are busy, not all: a batch runs when it is full, or when its oldest request has waited `max_delay`: at once
  if that is 0.
- all runners are busy: everything waits; what queues during that time is the next batch.

Requests of a higher priority run before others, but of each eight batches one is of the lowest priority that waits, and one of
the next above it. A batch has one priority, and requests with the same `key` (the shapes of their inputs without the first
dimension); they leave in the order in which they came. A request is never split, so one that is larger than `max_items` runs
alone.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from podpair.inference.core.errors import InvalidRequestError

Payload = TypeVar("Payload")

PRIORITIES = {"high": 0, "normal": 1, "low": 2}
NORMAL = PRIORITIES["normal"]
# Of so many batches one is of the lowest priority that waits, and one of the next, or they would wait for ever while there is
# enough of the others.
_TURN = 8


class QueueFullError(Exception):
    """No room for the request now."""


def parse_priority(text: str | None) -> int:
    """Return the priority of a request that says `high`, `normal`, `low` or nothing. Raises InvalidRequestError."""
    if text is None:
        return NORMAL
    priority = PRIORITIES.get(text.strip().lower())
    if priority is None:
        raise InvalidRequestError(f"podpair-priority is {text[:40]!r}; it is one of {', '.join(PRIORITIES)}")
    return priority


@dataclass(slots=True, eq=False)
class Queued(Generic[Payload]):
    """A request in the queue. Times are seconds on whatever clock the caller uses."""

    payload: Payload
    key: Hashable
    rows: int
    enqueued_at: float
    # When it isn't worth running any more; None: never.
    deadline: float | None = None
    # The least one runs first.
    priority: int = NORMAL

    @property
    def group(self) -> Hashable:
        """What a batch has in common."""
        return self.priority, self.key


@dataclass(slots=True)
class Decision(Generic[Payload]):
    """What to do now."""

    # These run as one batch; empty: nothing runs now.
    run: list[Queued[Payload]] = field(default_factory=list)
    # These have left the queue because their deadline has passed.
    expired: list[Queued[Payload]] = field(default_factory=list)
    # When to ask again if nothing happens before; None: only after a change.
    wake_at: float | None = None


class Batcher(Generic[Payload]):
    """The queue of one model.

    max_items: the most rows of a batch, which may be changed at any time. preferred: batch sizes to use if there are enough
    rows. max_delay: seconds that a request may wait for others. queue_size: rows that
    may wait. instances: batches that may run at the same time.
    """

    def __init__(
        self, max_items: int, max_delay: float, queue_size: int, instances: int, preferred: Sequence[int] = ()
    ) -> None:
        self.max_items = max_items
        self.preferred = sorted(preferred)
        self.max_delay = max_delay
        self.queue_size = queue_size
        self.instances = instances
        # Rows waiting.
        self.rows = 0
        # Batches, by eight, that ran while others of another priority could.
        self._turns = 0
        # group → requests by age. OrderedDict: taking the first and removing any one are both O(1).
        self._groups: OrderedDict[Hashable, _Group[Payload]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(group.waiting) for group in self._groups.values())

    def offer(self, item: Queued[Payload]) -> None:
        """Queue a request; QueueFullError if its rows don't fit."""
        if self.rows + item.rows > self.queue_size:
            raise QueueFullError
        group = self._groups.get(item.group)
        if group is None:
            group = self._groups[item.group] = _Group(item.priority)
        group.waiting[id(item)] = item
        group.rows += item.rows
        self.rows += item.rows

    def withdraw(self, item: Queued[Payload]) -> bool:
        """Drop a request (its client has gone, its deadline has passed); False if it isn't queued (any more)."""
        group = self._groups.get(item.group)
        if group is None or group.waiting.pop(id(item), None) is None:
            return False
        self._on_removed(group, item)
        return True

    def expire(self, now: float) -> list[Queued[Payload]]:
        """Drop and return every request whose deadline has passed, which makes room for others."""
        late = [item for item in self if item.deadline is not None and item.deadline <= now]
        for item in late:
            self.withdraw(item)
        return late

    def drain(self) -> list[Queued[Payload]]:
        """Drop and return everything."""
        items = list(self)
        self._groups.clear()
        self.rows = 0
        return items

    def __iter__(self) -> Iterator[Queued[Payload]]:
        return iter([item for group in self._groups.values() for item in group.waiting.values()])

    def decide(self, busy: int, now: float) -> Decision[Payload]:
        """Return what to do at `now` with `busy` batches running. Ask again until `run` is empty."""
        decision: Decision[Payload] = Decision()
        while self._groups and busy < self.instances:
            group = self._due(busy, now)
            if group is None:
                decision.wake_at = min(group.oldest.enqueued_at for group in self._groups.values()) + self.max_delay
                break
            self._fill_batch(group, now, decision)
            if decision.run:
                break
        return decision

    def _due(self, busy: int, now: float) -> "_Group[Payload] | None":
        """Return the group to run now: of those that may run and have their turn, the one with the oldest request."""
        due = [
            group
            for group in self._groups.values()
            if busy == 0 or self._is_full(group) or now >= group.oldest.enqueued_at + self.max_delay
        ]
        priorities = sorted({group.priority for group in due})
        if len(priorities) > 1:
            self._turns = (self._turns + 1) % _TURN
            turn = priorities[-1 if self._turns == 0 else -2 if self._turns == _TURN // 2 else 0]
            due = [group for group in due if group.priority == turn]
        return min(due, key=lambda group: group.oldest.enqueued_at, default=None)

    def _fill_batch(self, group: "_Group[Payload]", now: float, decision: Decision[Payload]) -> None:
        """Move what fits into one batch from the group to the decision; past deadlines go aside."""
        rows = 0
        limit = self.max_items
        if self.preferred and group.rows >= self.preferred[0]:
            limit = max(size for size in self.preferred if size <= group.rows)
        while group.waiting:
            item = group.oldest
            late = item.deadline is not None and item.deadline <= now
            if not late and decision.run and rows + item.rows > limit:
                return
            del group.waiting[id(item)]
            self._on_removed(group, item)
            if late:
                decision.expired.append(item)
            else:
                decision.run.append(item)
                rows += item.rows

    def _is_full(self, group: "_Group[Payload]") -> bool:
        """Return whether the batch can't get larger by waiting."""
        return group.rows >= (self.preferred[-1] if self.preferred else self.max_items)

    def _on_removed(self, group: "_Group[Payload]", item: Queued[Payload]) -> None:
        group.rows -= item.rows
        self.rows -= item.rows
        if not group.waiting:
            # An empty group is removed: otherwise a client that varies its shapes would fill the memory.
            del self._groups[item.group]


class _Group(Generic[Payload]):
    """The waiting requests of one priority and key."""

    __slots__ = ("priority", "rows", "waiting")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.rows = 0
        self.waiting: OrderedDict[int, Queued[Payload]] = OrderedDict()

    @property
    def oldest(self) -> Queued[Payload]:
        return next(iter(self.waiting.values()))
