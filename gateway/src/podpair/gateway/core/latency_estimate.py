"""Estimates how long an answer takes now, so that a request whose deadline can't be met is refused before it costs anything.

Invariant: an estimate that no answer has confirmed for a while expires; so one request goes through, and shows whether
requests were refused too early.
"""

QUEUE = ""
"""The key of queued requests, whatever their model: they wait for each other."""
_WEIGHT = 0.2  # of the newest observation
_GOOD_FOR = 10.0  # seconds


class LatencyEstimator:
    """A moving average of the seconds from a request to its answer, by key. Times are seconds of any clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def observe(self, what: str, seconds: float, now: float) -> None:
        """Record how long an answer took."""
        before = self._seen.get(what)
        if before is not None and now - before[1] <= _GOOD_FOR:
            seconds = before[0] + _WEIGHT * (seconds - before[0])
        self._seen[what] = (seconds, now)

    def estimate(self, what: str, now: float) -> float:
        """Return the expected seconds until an answer; 0 if unknown."""
        seen = self._seen.get(what)
        return seen[0] if seen is not None and now - seen[1] <= _GOOD_FOR else 0.0
