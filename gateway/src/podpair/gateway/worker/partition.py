"""A partition of the requests topic, for as long as it is this member's."""

from collections.abc import Collection

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
        "end", "first", "last", "lost_before", "number", "offsets", "revoked", "skips", "times",
    )  # fmt: skip

    def __init__(self, number: int, committed: Committed, incarnation: str) -> None:
        self.number = number
        self.offsets = ContiguousOffsets(committed.finished, incarnation, committed.lost_before)
        self.times = AppendTimes()
        self.first = committed.offset  # where reading begins
        self.last = -1  # the offset that was received last
        self.end: int | None = None  # of the log, when that was last asked
        self.lost_before = committed.lost_before
        self.skips: list[int] = []  # offsets that should have come, and did not, and why is not known yet; ascending
        self.revoked = False  # another member has it: nothing of it may be committed here

    @property
    def next_offset(self) -> int:
        """The offset that is read next."""
        return max(self.last + 1, self.first)

    def skip_to(self, offset: int) -> bool:
        """Note that the record at `offset` comes next: a transaction's marker is before it, or the log was cut.

        Commits stay before what was skipped until `settle` says why: whoever has the partition next finds the same. Returns
        False if nothing was skipped.
        """
        expected = self.next_offset
        if offset <= expected:
            return False
        self.skips.append(expected)
        self.offsets.hold(expected)
        return True

    def settle(self, skips: Collection[int]) -> bool:
        """Let commits go beyond these skips. Returns False if there are none of them."""
        known = frozenset(skips)
        settled = [offset for offset in self.skips if offset in known]
        for offset in settled:
            self.offsets.finish(offset)
        if settled:
            self.skips = [offset for offset in self.skips if offset not in known]
        return bool(settled)

    @property
    def lag(self) -> int:
        """Requests that are not finished: in flight, or not read yet."""
        unread = max(0, (self.end or 0) - self.next_offset)
        return max(0, unread + self.offsets.unfinished - len(self.skips))
