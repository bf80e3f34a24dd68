"""Run times by batch size, learnt from the warm-up and from every run since; two decisions depend on them.

Whether a run needs a thread: handing a batch to one and back takes 50–200 µs, and more under load, since the thread must win
the GIL back from the loop. A run that is shorter than that is better made in the loop itself. A size that was never timed
goes to a thread.

How large a batch should be: a larger one pays only if a row in it costs less. On a CPU that is so for a small model, and not
for a convolutional one, whose rows in a batch of 32 may cost half as much again as alone. Other load on the machine only
makes runs dearer, by up to a third: sizes are compared by their cost when little disturbs them.

Sizes are distinguished by powers of two. That a size pays, or doesn't, is checked again after a while: the reason may have
passed.
"""

import math

# What a row in a larger batch may cost, relative to the best smaller one, to be worth the wait. A row alone is answered
# sooner and never copied, so that company must save more.
_GAIN, _COMPANY = 0.95, 0.9
# How fast the undisturbed cost of a size follows a run that was cheaper, or dearer: it settles near the tenth that is cheapest.
_DOWN, _UP = 0.3, 0.03
# Runs before a size is judged: the first may pay for what is made lazily.
_TRIALS = 3
# So often, at every 16th run, a size may be found to be the best before those beside it are tried again.
_PATIENCE = 50


class RunTimes:
    """Run times by batch size; seconds.

    limit: the longest run to make in the loop; 0: none. largest: the rows that a batch may have at most.
    """

    def __init__(self, limit: float, largest: int = 64) -> None:
        self.limit = limit
        self.largest = largest
        # How many rows a batch should have at most: as many as pay.
        self.worthwhile = 1
        # bit length of the rows → seconds a row, moving average; the same undisturbed; and how many runs that is of.
        self._row: dict[int, float] = {}
        self._least: dict[int, float] = {}
        self._runs: dict[int, int] = {}
        self._patience = _PATIENCE

    def seed(self, rows: int, seconds: float) -> None:
        """Record a quiet measurement, made during the warm-up."""
        size = rows.bit_length()
        self._row[size] = self._least[size] = seconds / rows
        self._runs[size] = _TRIALS
        self._update_worthwhile()

    def observe(self, rows: int, seconds: float) -> None:
        """Record a run that took `seconds`. A single outlier (the process was descheduled) changes little."""
        size, taken = rows.bit_length(), seconds / rows
        before = self._row.get(size)
        runs = self._runs[size] = self._runs.get(size, 0) + 1
        if before is None or runs < _TRIALS:
            self._row[size] = self._least[size] = taken if before is None else min(before, taken)
        else:
            self._row[size] = 0.9 * before + 0.1 * min(taken, 4 * before)
            least = self._least[size]
            self._least[size] += (_DOWN if taken < least else _UP) * (min(taken, 4 * least) - least)
        if runs <= _TRIALS or not runs % 16:
            self._update_worthwhile()

    def is_short(self, rows: int) -> bool:
        """Return whether to run this many rows in the loop."""
        row = self._row.get(rows.bit_length())
        return row is not None and row * rows < self.limit

    def converged(self) -> bool:
        """Return whether a larger batch than the largest that was timed promises no gain."""
        return self.worthwhile.bit_length() in self._row

    def _update_worthwhile(self) -> None:
        """Go up the sizes while they get cheaper, to the first that doesn't, or that isn't known yet: it is found out."""
        size, top, best = 1, self.largest.bit_length(), math.inf
        while True:
            row = self._least.get(size)
            if row is None or self._runs[size] < _TRIALS:
                break
            if row > (_COMPANY if size == 2 else _GAIN) * best:
                size -= 1
                self._forget_neighbours(size)
                break
            if size == top:
                self._forget_neighbours(size)
                break
            best = row
            size += 1
        self.worthwhile = self.largest if size == top else 2 ** (size - 1)

    def _forget_neighbours(self, size: int) -> None:
        """Forget, at intervals, what is known of the neighbouring sizes: it is old, and may have been chance."""
        self._patience -= 1
        if self._patience:
            return
        self._patience = _PATIENCE
        for known in (self._row, self._least, self._runs):
            known.pop(size + 1, None)
        if size > 1:
            self._runs[size - 1] = 0
