"""Which offset of a partition may be committed while its records are worked on concurrently.

Invariant: an offset is committed only when every record before it is finished, so that a crash repeats work and never
skips it.
"""

from collections import deque


class ContiguousOffsets:
    """The offsets of one partition that were started and not yet committed."""

    __slots__ = ("_finished", "_started", "_taken", "_upto")

    def __init__(self) -> None:
        self._started: deque[int] = deque()  # ascending, as they were read
        self._finished: set[int] = set()  # those of _started that are done but wait for one before them
        self._upto: int | None = None  # the next offset to read after a restart
        self._taken: int | None = None  # what `take` returned last

    def start(self, offset: int) -> None:
        """A record was read. Offsets come in ascending order; raises ValueError otherwise."""
        if self._started and offset <= self._started[-1]:
            raise ValueError(f"offset {offset} after {self._started[-1]}")
        self._started.append(offset)

    def finish(self, offset: int) -> None:
        """Its terminal record is acknowledged."""
        self._finished.add(offset)
        while self._started and self._started[0] in self._finished:
            done = self._started.popleft()
            self._finished.remove(done)
            self._upto = done + 1

    def take(self) -> int | None:
        """The offset to commit now (that of the next record to read), or None if nothing new is finished."""
        if self._upto == self._taken:
            return None
        self._taken = self._upto
        return self._upto
