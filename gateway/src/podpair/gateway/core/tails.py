"""The newest records of a partition, kept so that a reconnect rarely has to ask the broker.

Invariant: every record with start ≤ offset < end is here. Records are grouped by session as the fan-out grouped them
anyway, so that keeping them costs nothing per record and finding a session's costs one look-up per chunk.
"""

from collections import deque

from podpair.gateway.core.record_batch import Groups, PartitionRecords, Record

_CHUNK = 256  # records; smaller batches are merged up to this, so that a look-up passes few chunks
# Bytes that a kept record costs besides its value, and each of its headers, as resident memory tells (60,000 records of 120
# bytes, each alone in its group: 422 bytes each without headers, 1,790 with seven).
_OVERHEAD, _HEADER = 300, 200


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

    def append(self, batch: PartitionRecords) -> None:
        """Keep all records from the tail's end on. Its lists become the tail's own: a later batch may be added to them."""
        groups, end, records = batch.groups, batch.end, batch.count
        size = batch.size + records * (_OVERHEAD + _HEADER * batch.headers)
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
                found += (record for record in group if record[0] >= offset)
        return found
