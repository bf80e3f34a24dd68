"""When a worker process that has ended is restarted: at once, then after a wait that doubles.

A process that was up for a while starts anew at once; one that ends again and again, or can't be started at all, is tried
less and less often, but for ever: what is missing (memory, a file, a device) may come back.
"""

# Seconds: the first wait that isn't none, the longest, and how long a process has to be up to begin anew.
_FIRST = 0.5
_LONGEST = 60.0
_SOUND_AFTER = 60.0


class RestartBackoff:
    """The waits of one worker process."""

    def __init__(self) -> None:
        self._failures = 0

    def next_wait(self, up_seconds: float) -> float:
        """Return the seconds to wait before the next start. up_seconds: how long the process was up, 0 if it never was."""
        if up_seconds >= _SOUND_AFTER:
            self._failures = 0
        self._failures += 1
        if self._failures == 1:
            return 0.0
        return float(min(_LONGEST, _FIRST * 2 ** min(self._failures - 2, 16)))
