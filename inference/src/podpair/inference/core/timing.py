"""Whether a run is so short that a thread would cost more than it gives.

Handing a batch to a thread and back takes 50–200 µs, and more under load, since the thread must win the GIL back from the
loop. A run that is shorter than that is better made in the loop itself. What a run takes is known from the warm-up, and
from each run in the loop afterwards; a size that was never timed goes to a thread.
"""


class RunTimes:
    """Run times by batch size, in powers of two; seconds.

    limit: the longest run to make in the loop; 0: none.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        # bit length of the rows → moving average.
        self._average: dict[int, float] = {}

    def seed(self, rows: int, seconds: float) -> None:
        """A quiet measurement: that of the warm-up."""
        self._average[rows.bit_length()] = seconds

    def observe(self, rows: int, seconds: float) -> None:
        """A run in the loop has taken `seconds`. A single outlier (the process was descheduled) changes nothing."""
        size = rows.bit_length()
        self._average[size] = 0.9 * self._average.get(size, seconds) + 0.1 * min(seconds, 2 * self.limit)

    def is_short(self, rows: int) -> bool:
        """Whether to run this many rows in the loop. A size that got too slow is tried again after some hundred runs."""
        size = rows.bit_length()
        average = self._average.get(size)
        if average is None:
            return False
        if average < self.limit:
            return True
        self._average[size] = 0.998 * average
        return False
