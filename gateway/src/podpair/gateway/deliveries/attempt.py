"""What became of one attempt at a delivery, whichever way it went."""

from typing import Literal, NamedTuple

Reason = Literal["status", "busy", "timeout", "connection", "address", "gone", "content", "circuit", "crowded"]


class Attempt(NamedTuple):
    """What became of an attempt."""

    outcome: Literal["delivered", "retry", "failed"]
    reason: Reason | None = None
    text: str = ""
    retry_after: float | None = None
    """Seconds that the receiver asked for."""
    host_failed: bool = False
    """It says something about its host, not about this delivery."""


DELIVERED = Attempt("delivered")
