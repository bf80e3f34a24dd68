"""Detects partitions in which a reader stands still although their logs go on."""

from collections.abc import Mapping

_LOOKS = 2  # at which a reader may be found in one place while the log goes on, before that counts


class StallDetector:
    """Compares a reader's offsets with those at earlier looks."""

    def __init__(self) -> None:
        # Partition → (where the reader was, the log's end, at how many looks it had stood there).
        self._before: dict[int, tuple[int, int, int]] = {}
        self._held = 0
        self._cleared: dict[int, int] = {}  # partition → the end up to which there is nothing to be read

    def observe(self, reached: Mapping[int, int], ends: Mapping[int, int], held: int = 0) -> dict[int, int]:
        """Return partitions whose reader has stood still for two looks while the log went on, each with the offset read next.

        `reached`: that offset, by partition, of those that are read now. `ends`: where the logs end. `held`: how often the
        reader was kept from reading; if that number has changed since the last look, this one counts as the first, because
        what it has fetched of one partition stands before what it fetches of the others.
        """
        before = self._before if held == self._held else {}
        self._before, self._held = {}, held
        found = {}
        for partition, at in reached.items():
            if partition not in ends:
                continue
            was, end, looks = before.get(partition, (-1, 0, 0))
            looks = looks + 1 if was == at < end and self._cleared.get(partition) != end else 0
            self._before[partition] = (at, ends[partition], looks)
            if looks >= _LOOKS:
                found[partition] = at
        self._cleared = {p: end for p, end in self._cleared.items() if p in self._before}
        return found

    def clear(self, partition: int, end: int) -> None:
        """Clear suspicion up to `end`, because only a transaction's marks are left before it."""
        self._cleared[partition] = end

    def reset(self) -> None:
        """Start over with another reader."""
        self._before.clear()
        self._cleared.clear()
