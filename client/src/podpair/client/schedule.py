"""When to try again, when to refresh, and what a close code means: decisions without a clock or a socket."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from podpair.client.errors import PodpairError, SessionClosed, TakenOver, Unauthorized

#: Seconds that a connection must have lived for the next back-off to begin anew, if it brought no event.
STABLE_AFTER = 5.0
#: Seconds to wait before a refresh whose moment seems past: this machine's clock is wrong, 4001 will tell.
SKEWED_REFRESH = 30.0


@dataclass(slots=True)
class Backoff:
    """Exponential back-off with full jitter: the n-th wait is uniform in [0, min(maximum, initial·factorⁿ)] seconds.

    Full jitter spreads a fleet of clients that lost the same gateway over the whole interval (M. Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015). A hint is a lower bound that the jitter comes on top of.
    """

    initial: float = 0.25
    """Seconds; the bound of the first wait."""
    maximum: float = 30.0
    """Seconds; the bound of any wait."""
    factor: float = 2.0
    """By how much the bound grows with each attempt."""
    #: Uniform in [0, 1): replaced in tests.
    rng: Callable[[], float] = random.random
    #: Waits since the last success.
    attempts: int = field(default=0, init=False)

    def next(self, hint: float | None = None) -> float:
        """Return the seconds to wait before the next attempt, at least `hint`."""
        # The exponent is bounded: a float overflows after a thousand attempts.
        ceiling = min(self.maximum, self.initial * self.factor ** min(self.attempts, 64))
        self.attempts += 1
        return (hint or 0.0) + self.rng() * ceiling

    def reset(self) -> None:
        """Begin anew, after a connection that proved good."""
        self.attempts = 0


def refresh_delay(expires_at: float, now: float, rng: Callable[[], float] = random.random) -> float:
    """Return seconds until a refresh of the token: the later of 80 % of its life and a minute before its end, jittered.

    `expires_at` and `now` are Unix seconds. A moment already past means that the clocks differ.
    """
    left = expires_at - now
    if left <= 0:
        return SKEWED_REFRESH
    # Jitter only shortens: sessions that began together don't all ask for tokens in the same second.
    return max(left * 0.8, left - 60.0) * (1.0 - 0.1 * rng())


def after_close(code: int | None, reason: str, *, can_renew: bool) -> PodpairError | None:
    """Return None if a close code asks to reconnect and resume, else the error that ends the session.

    3xxx, and everything that a network or a stopping gateway does, is worth reconnecting; 4xxx is not, until something
    has changed. An expired token (4001) has changed as soon as a new one can be had (`can_renew`).
    """
    if code is None or not 4000 <= code <= 4999:
        return None
    if code == 4001:
        return None if can_renew else Unauthorized(reason or "the token expired, and there is no function to renew it")
    if code == 4009:
        return TakenOver(reason or "a newer connection took the session over")
    error = SessionClosed(reason or f"the gateway closed the session ({code})")
    error.close_code = code
    return error
