"""When a delivery that failed is tried again.

Invariant: the wait is never shorter than the receiver asked for, unless that is longer than the longest wait of all.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

_JITTER = 0.1


class NextAttempt(NamedTuple):
    """When a delivery is due again, and where it waits until then."""

    tier: int  # index of the wait in the schedule
    due: float  # Unix seconds


class Schedule:
    """Waits after each failure in seconds, ascending, and the age at which a delivery is given up."""

    def __init__(self, waits: Sequence[float], max_age: float, random: Callable[[], float]) -> None:
        self._waits = tuple(waits)
        self._max_age = max_age
        self._random = random  # of 0 to 1

    def next(self, level: int, first: float, now: float, asked: float | None = None) -> NextAttempt | None:
        """Return the next attempt after `level` + 1 failures; None: the delivery is too old.

        first: when the event happened, Unix seconds. asked: the wait that the receiver asked for, in seconds.
        """
        waits = self._waits
        tier = min(level, len(waits) - 1)
        if asked is not None:
            while tier < len(waits) - 1 and waits[tier] < asked:
                tier += 1
        wait = waits[tier] if asked is None or asked <= waits[min(level, tier)] else min(asked, waits[-1])
        due = now + wait * (1 + _JITTER * (self._random() if asked else 2 * self._random() - 1))
        return NextAttempt(tier, due) if due <= first + self._max_age else None
