"""Answers that are kept, and questions that are in flight: what one of them is, and when it may be given again.

Invariants: an answer is kept only if the call that made it began after everything that has removed its question since; errors
are never kept; the memory is bounded in bytes, and no answer is given after its time. What decides whether two questions are
equal is `core/questions.py`.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from podpair.gateway.core.questions import Question

_OVERHEAD = 640  # bytes of an entry besides its answer, about
# A clock that goes on while the machine is suspended, if there is one.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

Count = Callable[[], object]


def cache_clock() -> float:
    """Return the seconds by which answers age, and by which they are known to be current."""
    return time.clock_gettime(_CLOCK)


class CachePolicy(NamedTuple):
    """How answers of one model are cached."""

    model: str
    shared: bool  # among all subjects
    ttl: float  # seconds
    max_bytes: int


class CacheCounts(NamedTuple):
    """What is counted of one model."""

    hit: Count
    miss: Count
    wait: Count
    bypass: Count
    removed: Callable[[str, int], object]  # why, and how many answers


class Flight:
    """A question in flight. `current`: its answer may be kept, and further askers may wait for it."""

    __slots__ = ("current", "question")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.current = True


class _Entry(msgspec.Struct, eq=False):
    answer: Any
    size: int  # bytes
    stored: float  # seconds, on the caller's clock


class ModelCache:
    """The answers of one model, and its questions in flight. Times are seconds on one clock of the caller's."""

    def __init__(self, policy: CachePolicy, counts: CacheCounts) -> None:
        self.policy = policy
        self.counts = counts
        self.size = 0  # bytes
        self._described: object = None  # the model as it was described last
        # Not dictionaries: those look over all that was deleted at their front each time their first entry is asked for.
        self._by_use: OrderedDict[Question, _Entry] = OrderedDict()
        self._by_age: OrderedDict[Question, _Entry] = OrderedDict()
        self._flights: dict[Question, Flight] = {}

    def __len__(self) -> int:
        return len(self._by_use)

    def get(self, question: Question, now: float) -> Any:
        """Return the answer that is kept, or None."""
        entry = self._by_use.get(question)
        if entry is None:
            return None
        if now - entry.stored >= self.policy.ttl:
            self.expire(now)
            return None
        self._by_use.move_to_end(question)
        return entry.answer

    def age(self, question: Question, now: float) -> float:
        """Return for how many seconds an answer has been kept."""
        return now - self._by_use[question].stored

    def flight(self, question: Question) -> Flight | None:
        """Return the call in flight that answers the question, if it may be waited for."""
        return self._flights.get(question)

    def begin(self, flight: Flight) -> None:
        """Note a call that begins now."""
        self._flights[flight.question] = flight

    def end(self, flight: Flight) -> bool:
        """Note that a call has ended, or is given up. Return whether its answer may be kept."""
        if self._flights.get(flight.question) is flight:
            del self._flights[flight.question]
        return flight.current

    def store(self, question: Question, answer: object, size: int, now: float) -> None:
        """Keep an answer of `size` bytes, in place of those that are too old, then of the least recently used."""
        size += _OVERHEAD
        if not self.policy.ttl or size > self.policy.max_bytes:
            return
        self.expire(now)
        if question in self._by_use:
            self._remove(question)
        entry = _Entry(answer, size, now)
        self._by_use[question] = self._by_age[question] = entry
        self.size += size
        full = 0
        while self.size > self.policy.max_bytes:
            self._remove(next(iter(self._by_use)))
            full += 1
        if full:
            self.counts.removed("full", full)

    def expire(self, now: float) -> None:
        """Remove what is too old."""
        expired = 0
        while self._by_age and now - next(iter(self._by_age.values())).stored >= self.policy.ttl:
            self._remove(next(iter(self._by_age)))
            expired += 1
        if expired:
            self.counts.removed("expired", expired)

    def _remove(self, question: Question) -> None:
        self.size -= self._by_use.pop(question).size
        del self._by_age[question]

    def describe(self, model: object) -> None:
        """Note how the model is described now; one that is another takes away what the one before has answered."""
        if self._described is not model:
            if self._described is not None:
                self.clear("model")
            self._described = model

    def invalidate(self, subject: str | None) -> None:
        """Remove a subject's answers; None: all. Whose is not known, or everybody's, is removed with any subject's."""
        if subject is None or self.policy.shared:
            self.clear("invalidated")
            return
        others = b"u"
        mine = others + subject.encode()
        removed = [question for question in self._by_use if question.scope == mine or question.scope[:1] != others]
        for question in removed:
            self._remove(question)
        if removed:
            self.counts.removed("invalidated", len(removed))
        for question in [q for q in self._flights if q.scope == mine or q.scope[:1] != others]:
            self._flights.pop(question).current = False

    def clear(self, why: str) -> None:
        """Remove all answers. Those of calls in flight are not kept, and nobody else waits for them."""
        if self._by_use:
            self.counts.removed(why, len(self._by_use))
        self._by_use.clear()
        self._by_age.clear()
        self.size = 0
        for flight in self._flights.values():
            flight.current = False
        self._flights.clear()


class AnswerCaches:
    """The caches of the models that have one. until: seconds, up to which what is kept is known to be current.

    Invariant: nothing is given, kept or waited for once that time is over.
    """

    def __init__(self, caches: Mapping[str, ModelCache], until: float = math.inf) -> None:
        self._caches = dict(caches)
        self.until = until

    def is_current(self, now: float) -> bool:
        """Return whether what is kept is known to be current."""
        return now < self.until

    def invalidate(self, model: str | None, subject: str | None) -> None:
        """Remove the answers of a model, and of a subject; None: of all of them."""
        for name, cache in self._caches.items():
            if model is None or name == model:
                cache.invalidate(subject)

    def __iter__(self) -> Iterator[ModelCache]:
        return iter(self._caches.values())

    def get(self, model: str) -> ModelCache | None:
        """Return the model's cache, if it has one."""
        return self._caches.get(model)

    def clear(self, why: str) -> None:
        """Remove all answers of all models."""
        for cache in self._caches.values():
            cache.clear(why)
