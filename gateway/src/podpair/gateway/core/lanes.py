"""In which order the model is asked where requests have to wait: by lane, the first one first.

A direct request stands in the lane of its token's priority, a queued one a lane below, since somebody waits for the first only.
Of each eight turns one is the last lane's, and one that of the one before it, so that no request waits for ever.
"""

from typing import Final, Literal

Priority = Literal["low", "normal", "high"]

FIRST: Final = 0
MIDDLE: Final = 1
LAST: Final = 2
TURN: Final = 8
"""Of so many turns one is the last lane's, and one that of the one before it."""

PRIORITY_NAMES: Final = ("high", "normal", "low")
"""What a call to the model says of its lane."""

_DIRECT: Final[dict[str, int]] = {"high": FIRST, "normal": MIDDLE, "low": LAST}
_QUEUED: Final[dict[str, int]] = {"high": MIDDLE, "normal": LAST, "low": LAST}


def direct_lane(priority: Priority) -> int:
    """Return the lane of a direct request."""
    return _DIRECT[priority]


def queued_lane(priority: str) -> int:
    """Return the lane of a queued request; a record's header may be anything."""
    return _QUEUED.get(priority, LAST)


def lane_of_turn(turn: int) -> int:
    """Return which of two or three lanes that wait has its turn; the last two are counted from the end."""
    if turn == 0:
        return -1
    return -2 if turn == TURN // 2 else 0
