"""Distinguishes a topic's changes from a broker's outdated knowledge: brokers of one cluster learn of changes one by one.

Invariant: an observation that may be another broker's old knowledge is not taken for a change until it has lasted.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

_CONFIRMED = 2.0  # seconds that a topic has to be missing, or narrower under the same name, to be taken for that
_RETIRED = 10.0  # seconds in which a broker may still name the id that a topic had before

Change = Literal["created", "deleted", "recreated", "widened", "narrowed"]


class TopicState(NamedTuple):
    """What identifies one incarnation of a topic.

    `topic_id` is None if brokers have no topic ids (before 2.8, or the embedded broker): then a topic that was made
    again with as many partitions can't be distinguished from the one before it.
    """

    topic_id: str | None
    partitions: int


def change_of(old: TopicState | None, new: TopicState | None) -> Change | None:
    """Name what happened between two states of a topic; None: nothing."""
    if old == new:
        return None
    if new is None:
        return "deleted"
    if old is None:
        return "created"
    if old.topic_id != new.topic_id:
        return "recreated"
    return "widened" if new.partitions > old.partitions else "narrowed"


class ObservedTopic:
    """The state of one topic, as far as it is certain; None: there is no such topic."""

    def __init__(self, state: TopicState | None, clock: Callable[[], float]) -> None:
        self.state = state
        self._last = state  # what it was when it was last there
        self._clock = clock
        self._retired: dict[str | None, float] = {}  # ids that were replaced → until when they are old knowledge
        self._doubtful: TopicState | None = state  # what was observed last, if that has to last …
        self._since: float | None = None  # … since then

    @property
    def in_doubt(self) -> bool:
        """Whether something was observed that has to last before it counts."""
        return self._since is not None

    def observe(self, seen: TopicState | None) -> bool:
        """Take an answer of a broker; returns whether `state` has changed."""
        old = self.state
        if seen is not None and old is not None and (seen.topic_id is None or old.topic_id is None):
            seen = TopicState(old.topic_id, seen.partitions)  # a broker that knows no ids says nothing about them
        if seen == old or (seen is not None and self._is_old(seen)):
            self._since = None
            return False
        if self._must_last(seen) and not self._has_lasted(seen):
            return False
        self._since = None
        if seen is not None:
            self._retire(seen)
        self.state = seen
        return True

    def _retire(self, seen: TopicState) -> None:
        """Retire the last id: another id is the topic's from now on."""
        now = self._clock()
        self._retired = {topic_id: end for topic_id, end in self._retired.items() if end > now}
        if self._last is not None and self._last.topic_id not in (None, seen.topic_id):
            self._retired[self._last.topic_id] = now + _RETIRED
        self._last = seen

    def _is_old(self, seen: TopicState) -> bool:
        """Return whether a broker reports an older state than others have reported."""
        if seen.topic_id is None:
            return False
        if self._retired.get(seen.topic_id, 0.0) > self._clock():
            return True
        # The partitions of a topic never become fewer.
        return (
            self.state is not None and seen.topic_id == self.state.topic_id and seen.partitions < self.state.partitions
        )

    def _must_last(self, seen: TopicState | None) -> bool:
        if seen is None:
            return True  # a broker that has just started knows of no topic
        return self.state is not None and seen.topic_id is None and seen.partitions < self.state.partitions

    def _has_lasted(self, seen: TopicState | None) -> bool:
        now = self._clock()
        if self._since is None or self._doubtful != seen:
            self._doubtful, self._since = seen, now
        return now - self._since >= _CONFIRMED
