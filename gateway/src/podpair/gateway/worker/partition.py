"""A partition of the requests topic, for as long as it is this member's."""

from podpair.gateway.core.offsets import Committed, ContiguousOffsets
from podpair.gateway.core.queue_wait import AppendTimes


class PartitionState:
    """How far a partition was read, and what of it is finished.

    Args:
        number: Of the partition.
        committed: What the group's last commit says.
        incarnation: Names the topic that there is now.
    """

    __slots__ = (
        "end", "first", "last", "lost_before", "number", "offsets", "revoked", "skipped", "times",
    )  # fmt: skip

    def __init__(self, number: int, committed: Committed, incarnation: str) -> None:
        self.number = number
        self.offsets = ContiguousOffsets(committed.finished, incarnation, committed.lost_before)
        self.times = AppendTimes()
        self.first = committed.offset  # where reading begins
        self.last = -1  # the offset that was received last
        self.end: int | None = None  # of the log, when that was last asked
        self.lost_before = committed.lost_before
        self.skipped: int | None = None  # the first offset that should have come, and did not; it may be a marker's
        self.revoked = False  # another member has it: nothing of it may be committed here

    @property
    def next_offset(self) -> int:
        """The offset that is read next."""
        return max(self.last + 1, self.first)

    @property
    def lag(self) -> int:
        """Requests that are not finished: in flight, or not read yet."""
        unread = max(0, (self.end or 0) - self.next_offset)
        return max(0, unread + self.offsets.unfinished)
