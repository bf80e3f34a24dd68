"""Records of a topic as they were read together, by partition and key.

Invariant: what is done with each record is done once for a column of them, and a session's records are one list.
"""

from collections.abc import Sequence
from itertools import groupby

from podpair.gateway.core.cloud_events import Headers

Record = tuple[int, bytes | None, Headers | None]
"""The offset of a record in its partition, its value and its headers."""

Groups = dict[bytes | None, list[Record]]
"""Records by key, ascending in each; those without a key are under None, and nobody's."""


def value_size(record: Record) -> int:
    """Return the bytes of a record's value."""
    return len(record[1] or b"")


class PartitionRecords:
    """Records of one partition: all from `start` up to `end` (excluded) that its log has."""

    __slots__ = ("count", "end", "groups", "headers", "size", "start")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.groups: Groups = {}
        self.count = 0  # records
        self.size = 0  # bytes of their values
        self.headers = 0  # of the first of them: those of a batch are much alike

    def add(self, keys: Sequence[bytes | None], records: Sequence[Record], size: int) -> None:
        """Add the next records, whose values have `size` bytes, with their keys."""
        groups = self.groups
        if not self.count:
            self.headers = len(records[0][2] or ())
        for key, record in zip(keys, records, strict=True):
            group = groups.get(key)
            if group is None:
                groups[key] = [record]
            else:
                group.append(record)
        self.end = records[-1][0] + 1
        self.count += len(records)
        self.size += size

    def since(self, offset: int) -> "PartitionRecords | None":
        """Return the records from `offset` (included) on; None: there are none."""
        if offset <= self.start:
            return self
        left = PartitionRecords(offset)
        for key, group in self.groups.items():
            if kept := [record for record in group if record[0] >= offset]:
                left.add([key] * len(kept), kept, sum(map(value_size, kept)))
        left.end = self.end
        return left if left.count else None


class RecordBatch:
    """Records of all partitions, in the order of each."""

    __slots__ = ("partitions",)

    def __init__(self) -> None:
        self.partitions: dict[int, PartitionRecords] = {}

    def add(
        self,
        partitions: Sequence[int],
        keys: Sequence[bytes | None],
        records: Sequence[Record],
        sizes: Sequence[int],
    ) -> None:
        """Add records by columns: partition, key, the record itself, and the bytes of its value."""
        start = 0
        for partition, run in groupby(partitions):  # a client gives many of one partition, then many of the next
            end = start + len(list(run))
            found = self.partitions.get(partition)
            if found is None:
                found = self.partitions[partition] = PartitionRecords(records[start][0])
            found.add(keys[start:end], records[start:end], sum(sizes[start:end]))
            start = end
