"""Bounds what costs a client nothing and the server work: pings, settings, empty frames, and requests that it resets.

Clients have reasons for each: gRPC's measure the bandwidth by a ping for each round trip with data, and cancel what takes too
long. So what is allowed grows with what a connection carries, and with time.
"""

from collections.abc import Callable

# Frames that carry nothing: at once, a second, and for each frame that carries something, in either direction.
_FRAMES, _FRAMES_PER_SECOND, _FRAMES_PER_FRAME = 1000, 100, 2
# Requests that the client resets: at once, a second, and for each that it let end. All that may be open, and as many again.
_RESETS, _RESETS_PER_SECOND, _RESETS_PER_REQUEST = 8192, 1000, 2


class FloodGuard:
    """Counts for one connection. now: the time in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        # Frames of data and header blocks, received or sent; requests that ended otherwise than by a reset of the client.
        self.frames = self.requests = 0
        self._empty = _Allowance(now, _FRAMES, _FRAMES_PER_SECOND, _FRAMES_PER_FRAME)
        self._resets = _Allowance(now, _RESETS, _RESETS_PER_SECOND, _RESETS_PER_REQUEST)

    def allows_empty_frame(self) -> bool:
        """Count a frame that carries nothing. Return whether it is allowed."""
        return self._empty.take(self.frames)

    def allows_reset(self) -> bool:
        """Count a request that the client has reset. Return whether it is allowed."""
        return self._resets.take(self.requests)


class _Allowance:
    """A token bucket (`most`) that time and useful work fill; both are looked at only once it is empty."""

    __slots__ = ("_left", "_most", "_now", "_per_second", "_per_unit", "_since", "_work")

    def __init__(self, now: Callable[[], float], most: int, per_second: int, per_unit: int) -> None:
        self._now, self._most, self._per_second, self._per_unit = now, most, per_second, per_unit
        self._left: float = most
        self._since, self._work = now(), 0

    def take(self, work: int) -> bool:
        """Take one; work: all that was done up to now. Return whether there was one."""
        if self._left < 1:
            now = self._now()
            earned = (now - self._since) * self._per_second + (work - self._work) * self._per_unit
            self._left = min(self._most, self._left + earned)
            self._since, self._work = now, work
        self._left -= 1
        return self._left >= 0
