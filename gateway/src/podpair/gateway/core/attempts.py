"""What becomes of a request after the model has not answered it.

Invariant: an inference container that is dead or unready costs no request one of its attempts; an answer that says the request
itself is wrong ends it at once; one that it is busy is asked again for a bounded time; anything else is tried a bounded number
of times. A request that the model had when it died is suspected of that, and tried again beside no other suspect; after a number
of such deaths it is given up.
"""

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from podpair.gateway.core.masking import masked
from podpair.gateway.core.protocol import Code, Fault

_SOONEST, _LATEST = 0.05, 30.0  # seconds after which a busy server is asked again, whatever it says
_LONGEST_BACKOFF = 10.0
_FIRST_BUSY, _LONGEST_BUSY = 0.05, 1.0  # seconds: the same for servers that say the same all the time
_NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{0,30})?")


class Unavailable(Exception):
    """The inference container is not there: no connection to it can be made (`down`), or it went away in the middle of a
    call (`midway`), or it is not ready.

    The message is for operators: it may hold addresses. `said` is the container's own word, where it gave one.
    """

    reason = "unavailable"

    def __init__(self, message: str, *, midway: bool = False, down: bool = False, said: str = "") -> None:
        super().__init__(masked(message))
        self.midway = midway
        self.down = down
        self.said = said

    @property
    def client_message(self) -> str:
        """What a client is told: no address of what is behind the gateway is in it."""
        return self.said or ("the model went away during the call" if self.midway else "the model can't be reached")


class ServiceUnavailable(Unavailable):
    """It answered that it is not available (HTTP 503, gRPC UNAVAILABLE). Where its health says that it is ready it is busy,
    for this request.
    """

    reason = "busy"

    def __init__(self, message: str, retry_after: float, *, said: str = "") -> None:
        super().__init__(message, said=said)
        self.retry_after = retry_after  # seconds

    @property
    def client_message(self) -> str:
        return self.said or "the model is busy"


class Busy(Exception):
    """The inference container's queue is full."""

    reason = "busy"

    def __init__(self, retry_after: float, message: str = "the model's queue is full") -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class Failed(Exception):
    """The inference container answered that it failed, or in another protocol, or did not answer in time."""

    reason = "failed"


class Late(Failed):
    """It did not answer in time."""

    reason = "late"


class TooLarge(Failed):
    """Its answer is larger than `limit` bytes: it is so each time."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"its answer is larger than {limit} bytes (inference.max_response_bytes)")


Step = Literal["wait_ready", "wait", "give_up"]


@dataclass(slots=True)
class Attempts:
    """The attempts of one request: at most `limit`, with exponential back-off from `backoff` seconds.

    At most `crashes` times may the model die while it has the request; for at most `patience` seconds of waiting may it be
    busy. Waiting for a model that is not ready counts for nothing.
    """

    limit: int
    backoff: float
    crashes: int
    patience: float = float("inf")
    made: int = 0
    crashed: int = 0
    refused: int = 0  # as busy
    waited: float = 0.0  # seconds, for a busy model

    @property
    def suspect(self) -> bool:
        """The model has died with this request in hand."""
        return self.crashed > 0

    @property
    def tries(self) -> int:
        """How often the model was asked in vain while it was there."""
        return self.made + self.crashed + self.refused

    def after(self, error: Unavailable | Busy | Failed, *, ready: bool = False) -> tuple[Step, float]:
        """What to do now, and how many seconds to wait before. `ready`: the model's health says so, after the error."""
        if isinstance(error, Busy) or (isinstance(error, ServiceUnavailable) and ready):
            return self._after_busy(error.retry_after)
        if isinstance(error, Unavailable) and (error.midway or not ready):
            self.crashed += error.midway
            return ("give_up" if self.crashed >= self.crashes else "wait_ready"), 0.0
        self.made += 1
        if self.made >= self.limit or isinstance(error, TooLarge):
            return "give_up", 0.0
        return "wait", min(self.backoff * 2.0 ** min(self.made - 1, 16), _LONGEST_BACKOFF)

    def _after_busy(self, retry_after: float) -> tuple[Step, float]:
        left = self.patience - self.waited
        if left <= 0.0:
            return "give_up", 0.0
        # It knows best when to come again, unless it says the same all the time.
        own = min(_FIRST_BUSY * 2.0 ** min(self.refused, 16), _LONGEST_BUSY)
        self.refused += 1
        seconds = min(max(retry_after, own), left)
        self.waited += seconds
        return "wait", seconds

    def verdict(self, error: Exception) -> Fault:
        """The terminal error after the last attempt."""
        if isinstance(error, Busy | ServiceUnavailable):
            tries = _times(self.refused + 1)
            said = error.client_message if isinstance(error, ServiceUnavailable) else error
            return Fault(Code.UPSTREAM, f"the model was busy {tries} in {self.waited:.3g} s: {said}")
        if isinstance(error, Unavailable) and error.midway:
            return Fault(Code.UPSTREAM, f"the model died {_times(self.crashed)} while it had this request")
        return Fault(Code.UPSTREAM, f"the model failed {_times(self.made)}: {error}")


def retry_after(text: str | bytes | None, unit: float = 1.0) -> float | None:
    """Seconds that a server asks to wait: of a number in `unit` seconds, at least 0.05 and at most 30; None: it is none.

    RFC 9110, 10.2.3 has whole seconds only, servers have others too.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if text is None or _NUMBER.fullmatch(text.strip()) is None:
        return None
    return min(max(float(text) * unit, _SOONEST), _LATEST)


def until_date(text: bytes, now: float) -> float | None:
    """The same of an HTTP-date (RFC 9110, 5.6.7); `now` in Unix seconds."""
    try:
        found = parsedate_to_datetime(text.decode("latin-1")).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(found - now, _SOONEST), _LATEST)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
