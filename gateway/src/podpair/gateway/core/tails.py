"""The newest records of a partition, kept so that a reconnect rarely has to ask the broker.

Invariant: every record with start ≤ offset < end is here. Records are grouped by session as the fan-out grouped them
anyway, so that keeping them costs nothing per record and finding a session's costs one look-up per chunk.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol


class Record(Protocol):
    """A record as it was read, without error; confluent_kafka.Message is one. Its length is that of its value."""

    def partition(self) -> int: ...
    def key(self) -> bytes | None: ...
    def offset(self) -> int: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> Sequence[tuple[str, bytes | None]] | None: ...
    def __len__(self) -> int: ...


_CHUNK = 256  # records; smaller batches are merged up to this, so that a look-up passes few chunks
# Bytes that a kept record costs besides its value, and each of its headers once they were read: a confluent_kafka.Message with
# the Python objects that it makes of them, as resident memory tells (60,000 records of 120 bytes: 570 bytes each without headers,
# 2,340 with seven).
_OVERHEAD, _HEADER = 450, 250


Groups = dict[bytes | None, list[Record]]  # records without a key are under None, and nobody's


class _Chunk:
    __slots__ = ("end", "groups", "records", "size", "start")

    def __init__(self, start: int, end: int, groups: Groups, records: int, size: int) -> None:
        self.start = start
        self.end = end
        self.groups = groups
        self.records = records
        self.size = size


class PartitionTail:
    """The records start ≤ offset < end of one partition, about `limit` bytes of them."""

    def __init__(self, start: int, limit: int) -> None:
        self.start = start  # the first offset that is here
        self.end = start  # the offset that is expected next
        self.size = 0  # bytes kept, about
        self._limit = limit
        self._chunks: deque[_Chunk] = deque()

    def append(self, end: int, groups: Groups) -> int:
        """Keep a batch: all records from the tail's end up to `end` (excluded), by session, ascending in each group.

        Returns the bytes of their values. The lists become the tail's own: a later batch may be added to them.
        """
        records = size = 0
        for group in groups.values():
            records += len(group)
            size += sum(map(len, group))
        value_bytes = size
        size += records * (_OVERHEAD + _HEADER * _headers(groups))
        last = self._chunks[-1] if self._chunks else None
        if last is not None and last.records + records <= _CHUNK:
            for key, group in groups.items():
                last.groups.setdefault(key, []).extend(group)
            last.end = end
            last.records += records
            last.size += size
        else:
            self._chunks.append(_Chunk(self.end, end, groups, records, size))
        self.end = end
        self.size += size
        while self.size > self._limit and len(self._chunks) > 1:
            self._forget_oldest()
        return value_bytes

    def shrink(self, limit: int) -> None:
        """Keep at most `limit` bytes from now on."""
        self._limit = limit
        while self.size > limit and self._chunks:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = self._chunks.popleft()
        self.size -= oldest.size
        self.start = oldest.end

    def since(self, session: bytes, offset: int) -> list[Record]:
        """Return the session's records from `offset` (included) on, ascending. Needs start ≤ offset."""
        found: list[Record] = []
        for chunk in self._chunks:
            if chunk.end <= offset:
                continue
            group = chunk.groups.get(session)
            if not group:
                continue
            if chunk.start >= offset:
                found += group
            else:
                found += (record for record in group if record.offset() >= offset)
        return found


def _headers(groups: Groups) -> int:
    """Return how many headers a record of a batch has: as many as the first, because those of a batch are much alike."""
    first = next((group[0] for group in groups.values() if group), None)
    return len(first.headers() or ()) if first is not None else 0
