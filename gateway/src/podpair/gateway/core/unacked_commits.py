"""Resends failed commits: without further requests no later commit would include them.

Invariant: of a partition only the newest commit is ever sent again, so that a committed offset never goes back.
"""

from collections.abc import Collection, Mapping

from podpair.gateway.core.offsets import Commit

_AGAIN = 0.2  # seconds before a commit that failed is sent again


class UnackedCommits:
    """The last commit of each partition that is this member's, and which of them failed. Times are in seconds of one clock."""

    __slots__ = ("_again", "_failed", "_sent")

    def __init__(self) -> None:
        self._sent: dict[int, Commit] = {}
        self._failed: set[int] = set()
        self._again = 0.0

    def send(self, commits: Mapping[int, Commit], now: float) -> dict[int, Commit]:
        """Return the commits to send now: these, and those that failed long enough ago."""
        self._sent.update(commits)
        due = self._failed if now >= self._again else self._failed & commits.keys()
        sending = {partition: self._sent[partition] for partition in due | commits.keys()}
        self._failed = self._failed - due
        return sending

    def on_failure(self, partitions: Collection[int], now: float) -> None:
        """Note that the broker did not take these partitions' last commit. Released partitions don't matter."""
        self._failed |= self._sent.keys() & set(partitions)
        self._again = now + _AGAIN

    def release(self, partitions: Collection[int]) -> dict[int, Commit]:
        """Release partitions that another member has now; return what is not committed of them, for a last try."""
        left = {partition: self._sent[partition] for partition in self._failed & set(partitions)}
        self._failed.difference_update(partitions)
        for partition in partitions:
            self._sent.pop(partition, None)
        return left
