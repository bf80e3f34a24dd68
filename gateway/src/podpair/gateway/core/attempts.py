"""What becomes of a request after the model has not answered it.

Invariant: an inference container that is dead, unready or full costs no request one of its attempts; an answer that says
the request itself is wrong ends it at once; anything else is tried a bounded number of times.
"""

from dataclasses import dataclass
from typing import Literal

from podpair.gateway.core.protocol import Code, Fault


class Unavailable(Exception):
    """The inference container can't be reached, is not ready, or went away in the middle of a call."""


class Busy(Exception):
    """The inference container's queue is full."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the model's queue is full")
        self.retry_after = retry_after  # seconds


class Failed(Exception):
    """The inference container answered that it failed, or did not answer in time."""


Step = Literal["wait_ready", "wait", "give_up"]


@dataclass(slots=True)
class Attempts:
    """The attempts of one request: at most `limit`, with exponential back-off from `backoff` seconds."""

    limit: int
    backoff: float
    made: int = 0

    def after(self, error: Unavailable | Busy | Failed) -> tuple[Step, float]:
        """What to do now, and how many seconds to wait before."""
        if isinstance(error, Unavailable):
            return "wait_ready", 0.0
        if isinstance(error, Busy):
            return "wait", error.retry_after
        self.made += 1
        if self.made >= self.limit:
            return "give_up", 0.0
        return "wait", min(self.backoff * 2.0 ** min(self.made - 1, 16), 10.0)

    def verdict(self, error: Failed) -> Fault:
        """The terminal error after the last attempt."""
        times = "once" if self.made == 1 else f"{self.made} times"
        return Fault(Code.UPSTREAM, f"the model failed {times}: {error}")
