"""Decides what becomes of a request that the model has not answered.

Invariant: an inference container that is dead or unready costs no request one of its attempts; an answer that says the request
itself is wrong ends it at once; one that it is busy is retried for a bounded time; anything else is tried a bounded number
of times. A request that the model had when it died is suspected of that, and tried again beside no other suspect; after a number
of such deaths it is given up.
"""

from dataclasses import dataclass
from typing import Literal

from podpair.gateway.core.model_errors import Busy, Failed, ServiceUnavailable, TooLarge, Unavailable
from podpair.gateway.core.protocol import Code, Fault

_LONGEST_BACKOFF = 10.0
_FIRST_BUSY, _LONGEST_BUSY = 0.05, 1.0  # seconds: the same for servers that say the same all the time


Step = Literal["wait_ready", "wait", "give_up"]


@dataclass(slots=True)
class RetryPolicy:
    """The attempts of one request: at most `max_attempts`, with exponential back-off from `backoff_seconds`.

    The model may die at most `max_crashes` times while it has the request, and may be busy for at most `busy_seconds` of
    waiting. Waiting for a model that is not ready doesn't count.
    """

    max_attempts: int
    backoff_seconds: float
    max_crashes: int
    busy_seconds: float = float("inf")
    failures: int = 0
    crashes: int = 0
    refusals: int = 0  # as busy
    waited_seconds: float = 0.0  # for a busy model

    @property
    def poison_suspect(self) -> bool:
        """Whether the model has died with this request in hand."""
        return self.crashes > 0

    @property
    def tries(self) -> int:
        """How often the model was called in vain while it was reachable."""
        return self.failures + self.crashes + self.refusals

    def next(self, error: Unavailable | Busy | Failed, *, ready: bool = False) -> tuple[Step, float]:
        """Return the next step, and the seconds to wait before it. `ready`: the model's health after the error."""
        if isinstance(error, Busy) or (isinstance(error, ServiceUnavailable) and ready):
            return self._next_after_busy(error.retry_after)
        if isinstance(error, Unavailable) and (error.midway or not ready):
            self.crashes += error.midway
            return ("give_up" if self.crashes >= self.max_crashes else "wait_ready"), 0.0
        self.failures += 1
        if self.failures >= self.max_attempts or isinstance(error, TooLarge):
            return "give_up", 0.0
        return "wait", min(self.backoff_seconds * 2.0 ** min(self.failures - 1, 16), _LONGEST_BACKOFF)

    def _next_after_busy(self, retry_after: float) -> tuple[Step, float]:
        left = self.busy_seconds - self.waited_seconds
        if left <= 0.0:
            return "give_up", 0.0
        # It knows best when to come again, unless it says the same all the time.
        own = min(_FIRST_BUSY * 2.0 ** min(self.refusals, 16), _LONGEST_BUSY)
        self.refusals += 1
        seconds = min(max(retry_after, own), left)
        self.waited_seconds += seconds
        return "wait", seconds

    def terminal_error(self, error: Exception) -> Fault:
        """Return the terminal error after the last attempt."""
        if isinstance(error, Busy | ServiceUnavailable):
            tries = _times(self.refusals + 1)
            said = error.client_message if isinstance(error, ServiceUnavailable) else error
            return Fault(Code.UPSTREAM, f"the model was busy {tries} in {self.waited_seconds:.3g} s: {said}")
        if isinstance(error, Unavailable) and error.midway:
            return Fault(Code.UPSTREAM, f"the model died {_times(self.crashes)} while it had this request")
        return Fault(Code.UPSTREAM, f"the model failed {_times(self.failures)}: {error}")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
