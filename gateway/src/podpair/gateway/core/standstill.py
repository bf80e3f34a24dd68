"""Which partitions a reader does not get on with, although their logs do."""

from collections.abc import Mapping


class Standstill:
    """Compares where a reader is with what it had before it at the look before."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[int, int]] = {}  # partition → (where the reader was, the log's end)
        self._cleared: dict[int, int] = {}  # partition → the end up to which there is nothing to be read

    def look(self, reached: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, int]:
        """Partitions whose reader was there at the look before, and the log went on; each with the offset that it reads next.

        `reached`: that offset, by partition, of those that are read now. `ends`: where the logs end.
        """
        before, self._before = self._before, {p: (at, ends[p]) for p, at in reached.items() if p in ends}
        self._cleared = {p: end for p, end in self._cleared.items() if p in self._before}
        found = {}
        for partition, (at, _) in self._before.items():
            was, end = before.get(partition, (-1, 0))
            if was == at < end and self._cleared.get(partition) != end:
                found[partition] = at
        return found

    def clear(self, partition: int, end: int) -> None:
        """There is nothing to be read before that end, but a transaction's marks."""
        self._cleared[partition] = end

    def forget(self) -> None:
        """Another reader begins."""
        self._before.clear()
        self._cleared.clear()
