"""What becomes of a request after the model has not answered it.

Invariant: an inference container that is dead, unready or full costs no request one of its attempts; an answer that says
the request itself is wrong ends it at once; anything else is tried a bounded number of times. A request that the model
had when it died is suspected of that, and tried again beside no other suspect; after a number of such deaths it is given up.
"""

from dataclasses import dataclass
from typing import Literal

from podpair.gateway.core.masking import masked
from podpair.gateway.core.protocol import Code, Fault


class Unavailable(Exception):
    """The inference container can't be reached, is not ready, or (`midway`) went away in the middle of a call."""

    def __init__(self, message: str, *, midway: bool = False) -> None:
        super().__init__(masked(message))  # clients are told it, and it may name the container's URL
        self.midway = midway


class Busy(Exception):
    """The inference container's queue is full."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the model's queue is full")
        self.retry_after = retry_after  # seconds


class Failed(Exception):
    """The inference container answered that it failed, or did not answer in time."""


class Late(Failed):
    """It did not answer in time."""


Step = Literal["wait_ready", "wait", "give_up"]


@dataclass(slots=True)
class Attempts:
    """The attempts of one request: at most `limit`, with exponential back-off from `backoff` seconds.

    At most `crashes` times may the model die while it has the request.
    """

    limit: int
    backoff: float
    crashes: int
    made: int = 0
    crashed: int = 0

    @property
    def suspect(self) -> bool:
        """The model has died with this request in hand."""
        return self.crashed > 0

    def after(self, error: Unavailable | Busy | Failed) -> tuple[Step, float]:
        """What to do now, and how many seconds to wait before."""
        if isinstance(error, Unavailable):
            self.crashed += error.midway
            return ("give_up" if self.crashed >= self.crashes else "wait_ready"), 0.0
        if isinstance(error, Busy):
            return "wait", error.retry_after
        self.made += 1
        if self.made >= self.limit:
            return "give_up", 0.0
        return "wait", min(self.backoff * 2.0 ** min(self.made - 1, 16), 10.0)

    def verdict(self, error: Exception) -> Fault:
        """The terminal error after the last attempt."""
        if isinstance(error, Unavailable):
            return Fault(Code.UPSTREAM, f"the model died {_times(self.crashed)} while it had this request: {error}")
        return Fault(Code.UPSTREAM, f"the model failed {_times(self.made)}: {error}")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
