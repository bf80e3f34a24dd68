"""Commits that failed are sent again, for with no requests that follow no later commit would tell the same.

Invariant: of a partition only the newest commit is ever sent again, so that a committed offset never goes back.
"""

from collections.abc import Collection, Mapping

from podpair.gateway.core.offsets import Commit

_AGAIN = 0.2  # seconds before a commit that failed is sent again


class UnsettledCommits:
    """The last commit of each partition that is this member's, and which of them failed. Times are in seconds of one clock."""

    __slots__ = ("_again", "_failed", "_sent")

    def __init__(self) -> None:
        self._sent: dict[int, Commit] = {}
        self._failed: set[int] = set()
        self._again = 0.0

    def send(self, commits: Mapping[int, Commit], now: float) -> dict[int, Commit]:
        """What to send now: these, and those that failed long enough ago."""
        self._sent.update(commits)
        due = self._failed if now >= self._again else self._failed & commits.keys()
        sending = {partition: self._sent[partition] for partition in due | commits.keys()}
        self._failed = self._failed - due
        return sending

    def failed(self, partitions: Collection[int], now: float) -> None:
        """The broker did not take their last commit. Those that were given back meanwhile don't matter."""
        self._failed |= self._sent.keys() & set(partitions)
        self._again = now + _AGAIN

    def give_back(self, partitions: Collection[int]) -> dict[int, Commit]:
        """They are another member's now; returns what is not committed of them, for a last try."""
        left = {partition: self._sent[partition] for partition in self._failed & set(partitions)}
        self._failed.difference_update(partitions)
        for partition in partitions:
            self._sent.pop(partition, None)
        return left
