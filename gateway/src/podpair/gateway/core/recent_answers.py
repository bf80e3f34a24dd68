"""Answers that are not in Kafka, kept for a while so that a repeated request gets the same.

Invariant: the size is bounded, in bytes; the oldest answers are evicted first, those that came together at once. A result is
kept as its members alone, and becomes an event only if it is asked for.
"""

from collections import deque
from collections.abc import Mapping
from sys import getsizeof

from podpair.gateway.core.records import Event, result_event

_ANSWER = 220  # bytes that an answer costs besides its id and its payload


class RecentAnswers:
    """Answers by their request's id. limit: bytes of all of them."""

    __slots__ = ("_batches", "_kept", "_limit", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[str, Event | bytes] = {}  # bytes: the members of a result, without braces
        self._batches: deque[tuple[Mapping[str, Event | bytes], int]] = deque()  # as they came, and the bytes of each
        self.size = 0  # bytes

    def put(self, request_id: str, answer: Event) -> None:
        """Store an answer in place of the one that the id had. One larger than the limit is not stored."""
        self._kept.pop(request_id, None)
        size = _size(request_id, answer)
        if size <= self._limit:
            self._add({request_id: answer}, size)

    def put_results(self, results: Mapping[str, bytes]) -> None:
        """Store results, as their members, of ids that have no answer here. They are evicted together."""
        size = sum(map(len, results.values())) + _ANSWER * len(results) + 2 * sum(map(getsizeof, results))
        if size <= self._limit:
            self._add(results, size)
            return
        for request_id, members in results.items():
            size = _size(request_id, members)
            if size <= self._limit:
                self._add({request_id: members}, size)

    def _add(self, answers: Mapping[str, Event | bytes], size: int) -> None:
        kept, batches = self._kept, self._batches
        total = self.size + size
        while total > self._limit:
            oldest, less = batches.popleft()
            total -= less
            for request_id, answer in oldest.items():
                if kept.get(request_id) is answer:  # else it was replaced
                    del kept[request_id]
        self.size = total
        batches.append((answers, size))
        kept.update(answers)

    def get(self, request_id: str) -> Event | None:
        """Return the answer of a request."""
        found = self._kept.get(request_id)
        return result_event(request_id, found) if isinstance(found, bytes) else found

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._kept

    def __len__(self) -> int:
        return len(self._kept)


def _size(request_id: str, answer: Event | bytes) -> int:
    payload = answer if isinstance(answer, bytes) else answer.payload
    return len(payload) + _ANSWER + 2 * getsizeof(request_id)
