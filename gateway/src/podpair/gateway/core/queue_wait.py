"""Measures how long queued requests wait, by the times of their records, so that a deadline that can't be met is refused early.

`ce_time` says when something happened, which is the producer's own affair; a record's timestamp is the clock of whoever
wrote it (CreateTime) or of the broker (LogAppendTime). Neither is believed alone.

Invariant: what others wrote, replays and clocks that are wrong change the estimate of nobody else's requests.
"""

from collections.abc import Iterable

from podpair.gateway.core.records import Request

_AHEAD = 1.0  # seconds that another's clock may be ahead of ours
_APART = 60.0  # seconds between a gateway's word on when it queued a request and when its record was written
_LONGEST = 3600.0  # seconds of waiting beyond which a record says nothing about what others will wait


class AppendTimes:
    """When the records of one partition were written, in Unix seconds."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest = 0.0  # of the records that gateways queued

    def observe(self, timestamp: tuple[int, int], request: Request, now: float) -> float | None:
        """Return when the request's record was written; None if unknown. Records are given in the order of their offsets.

        `timestamp` is confluent-kafka's: what it is, and Unix milliseconds. A record stands behind those before it, and so is
        no older than they are, whatever the clock of its producer says.
        """
        kind, milliseconds = timestamp
        written = milliseconds / 1000
        if not kind or written < 0.0 or written > now + _AHEAD:
            return None
        if written < self._latest:
            written = self._latest
        elif agree(request.queued_at, written):
            self._latest = written
        return written if written < now else now


def representative_wait(request: Request, written: float | None, now: float) -> float:
    """Return the seconds that a gateway's request, written then and answered `now`, took; 0.0 if it says nothing about others."""
    if written is None or not agree(request.queued_at, written):
        return 0.0
    return longest_wait((written,), now)


def longest_wait(written: Iterable[float], now: float) -> float:
    """Return the longest wait of gateways' requests that were written then and are answered `now`; 0.0 if none says anything."""
    return max(0.0, now - min([at for at in written if now - at <= _LONGEST], default=now))


def agree(queued_at: float | None, written: float) -> bool:
    """Return whether a gateway queued a record when it was written: it was neither copied nor requeued later."""
    return queued_at is not None and abs(written - queued_at) <= _APART
