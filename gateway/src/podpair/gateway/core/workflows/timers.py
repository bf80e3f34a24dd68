"""When something is due next for each of many things: of each only its newest time counts."""

import heapq

_OUTDATED = 1000  # times that may be outdated, beside as many as count


class Timers:
    """Times in Unix seconds, by key."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []  # some of them are outdated
        self._newest: dict[str, float] = {}

    @property
    def next(self) -> float:
        """When the next may be due; infinity if nothing is."""
        return self._heap[0][0] if self._heap else float("inf")

    def set(self, key: str, due: float) -> None:
        """Have a thing be due then, and not when it was to be before."""
        if self._newest.get(key) == due:
            return
        self._newest[key] = due
        heapq.heappush(self._heap, (due, key))
        if len(self._heap) > 2 * len(self._newest) + _OUTDATED:  # most are of things that are no more
            self._heap = [(due, key) for key, due in self._newest.items()]
            heapq.heapify(self._heap)

    def forget(self, key: str) -> None:
        """Have a thing never be due."""
        self._newest.pop(key, None)

    def take(self, now: float) -> list[str]:
        """Take out what is due."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._newest.get(key) == due:  # else its next time is another one by now
                del self._newest[key]
                found.append(key)
        return found
