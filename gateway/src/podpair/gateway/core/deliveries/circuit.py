"""Leaves a host alone that has failed several times in a row, and asks it again after a while, with one delivery.

Invariant: while a circuit is open one attempt at a time is let through, and none before its wait has passed.
"""

_LONGEST = 300.0  # seconds between two attempts at a host that is away


class Circuit:
    """The circuit breaker of one host: opened by so many `failures` in a row, for so many `seconds` at first, of any clock."""

    __slots__ = ("_failures", "_first", "_least", "_probing", "_retry_at", "_wait", "opened_at")

    def __init__(self, failures: int, seconds: float) -> None:
        self._least = failures
        self._first = seconds
        self._wait = seconds
        self._failures = 0
        self._retry_at = 0.0
        self._probing = False
        self.opened_at: float | None = None  # since when the host fails; None: it works

    def admit(self, now: float) -> bool:
        """Return whether an attempt may begin; its outcome has to be reported."""
        if self.closed_to(now):
            return False
        self._probing = self.opened_at is not None
        return True

    def closed_to(self, now: float) -> bool:
        """Return whether an attempt may not begin now."""
        return self.opened_at is not None and (self._probing or now < self._retry_at)

    def succeeded(self) -> None:
        """Report that the host has answered."""
        self._failures, self._probing, self.opened_at = 0, False, None

    def failed(self, now: float) -> None:
        """Report that the host has failed."""
        self._failures += 1
        if self.opened_at is not None:
            if self._probing:
                self._wait = min(self._wait * 2, _LONGEST)
                self._retry_at = now + self._wait
            self._probing = False
        elif self._failures >= self._least:
            self._wait, self.opened_at, self._retry_at = self._first, now, now + self._first

    def abandoned(self) -> None:
        """Report that an attempt ended without an outcome."""
        self._probing = False
