"""How long an answer takes just now, so that a request whose deadline can't be met is refused before it costs anything.

Invariant: an estimate that no answer has borne out for a while counts for nothing; so whoever was refused too early finds
that out, and one request goes through.
"""

QUEUE = ""
"""What queued requests are seen under, whatever their model: they wait for each other."""
_WEIGHT = 0.2  # of the newest observation
_GOOD_FOR = 10.0  # seconds


class Paces:
    """Seconds from asking to the answer, by what was asked (a moving average). Time is given, in seconds of any clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def saw(self, what: str, seconds: float, now: float) -> None:
        """An answer took so long."""
        before = self._seen.get(what)
        if before is not None and now - before[1] <= _GOOD_FOR:
            seconds = before[0] + _WEIGHT * (seconds - before[0])
        self._seen[what] = (seconds, now)

    def expected(self, what: str, now: float) -> float:
        """What an answer takes; 0: not known."""
        seen = self._seen.get(what)
        return seen[0] if seen is not None and now - seen[1] <= _GOOD_FOR else 0.0
