"""Finished requests of a partition, as a commit records them: a contiguous prefix, and single ones beyond it.

Invariant: what a commit says is finished is finished. So a crash repeats work and never skips it; and where a commit and the
answers are one transaction, it does not even repeat any, however far requests have overtaken each other.

The offset of a commit is that of the first record that is not finished; its metadata holds the finished ones behind it, as a
bitmap. Kafka keeps 4096 bytes of it (offset.metadata.max.bytes), which bounds how far ahead a finished one can be named. Before
the bitmap is the incarnation of the topic the commit is of: a topic that is made again keeps the group's offsets. If
the log was cut over records that nobody had read, the offset at which it then began follows, for as long as the topic lives.
"""

import base64
import binascii
import hashlib
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

REACH = 16_000  # offsets beyond the prefix that the metadata can name
_MARK = "podpair:"


class Commit(NamedTuple):
    """What is committed for one partition."""

    offset: int  # of the first record that is not finished
    metadata: str  # names the finished ones behind it


class Committed(NamedTuple):
    """The last commit of a partition, as its next owner reads it."""

    offset: int = 0  # of the first record that is not finished; 0 if nothing was committed
    finished: frozenset[int] = frozenset()  # those that are finished behind it
    lost_before: int = 0  # where the log began when it was last cut over records that nobody had read; 0: it never was


class ContiguousOffsets:
    """The offsets of one partition that were started; `before` are those behind the committed one that ended earlier.

    incarnation: names the topic that they are of, if the broker tells its id. lost_before: as in `Committed`.
    """

    __slots__ = ("_before", "_changed", "_finished", "_incarnation", "_lost_before", "_started", "_upto")

    def __init__(self, before: Collection[int] = (), incarnation: str = "", lost_before: int = 0) -> None:
        self._incarnation = incarnation
        self._lost_before = lost_before
        self._started: deque[int] = deque()  # ascending, as they were read; the first is not finished
        self._finished: set[int] = set()  # those of _started that are done but wait for one before them
        self._before = set(before)  # finished by an earlier owner of the partition, and not read again yet
        self._upto: int | None = None  # the next offset to read after a restart
        self._changed = False  # since the last `take`

    def start(self, offset: int) -> bool:
        """Start a record; return False if an earlier owner has finished it already.

        Offsets come in ascending order; raises ValueError otherwise.
        """
        started = self._started
        if started and offset <= started[-1]:
            raise ValueError(f"offset {offset} after {started[-1]}")
        started.append(offset)
        if not self._before or offset not in self._before:
            return True
        self._before.discard(offset)
        self.finish(offset)
        return False

    def finish(self, offset: int) -> None:
        """Finish a record: its terminal record is acknowledged, or is to be in the transaction that commits `next_commit`."""
        self._changed = True
        started, finished = self._started, self._finished
        if not started or started[0] != offset:
            finished.add(offset)
            return
        started.popleft()
        while finished and started and started[0] in finished:
            offset = started.popleft()
            finished.remove(offset)
        self._upto = offset + 1

    def hold(self, offset: int) -> None:
        """Keep commits at an offset whose record did not come, behind all that were started, until it is finished."""
        self._before.discard(offset)
        self._started.append(offset)

    def on_log_truncated(self, log_start: int) -> None:
        """Move past unread records that were deleted: the log begins at `log_start` now. Commits say so."""
        self._lost_before = max(log_start, self._lost_before)
        self._upto = max(log_start, self._upto or 0)
        self._changed = True

    def with_finished(self, offsets: Collection[int]) -> Commit:
        """Return the commit that names these started offsets as finished too."""
        finished = self._finished | set(offsets)
        upto = self._upto or 0
        for offset in self._started:
            if offset not in finished:
                return self._commit(offset, finished | self._before)
            upto = offset + 1
        return self._commit(upto, self._before)

    @property
    def unfinished(self) -> int:
        """How many that were started are not finished; less those that an earlier owner has finished, and that are still to be
        read.
        """
        return len(self._started) - len(self._finished) - len(self._before)

    def reaches(self, offset: int) -> bool:
        """Return whether a commit can say that a started record is finished."""
        return offset - self._started[0] < REACH

    def next_commit(self) -> Commit | None:
        """Return what to commit now, or None if nothing is new."""
        if not self._changed:
            return None
        self._changed = False
        offset = self._started[0] if self._started else self._upto
        if offset is None:
            return None
        return self._commit(offset, self._finished | self._before)

    def _commit(self, offset: int, finished: Collection[int]) -> Commit:
        while offset in self._before:  # the bitmap begins behind it
            offset += 1
        return Commit(offset, encode_finished(finished, offset, self._incarnation, self._lost_before))


def encode_finished(finished: Collection[int], offset: int, incarnation: str = "", lost_before: int = 0) -> str:
    """Encode the metadata of a commit at `offset`; offsets out of its reach are left out."""
    bitmap = bytearray()
    for one in finished:
        index = one - offset
        if 0 < index < REACH:
            byte, bit = divmod(index, 8)
            if byte >= len(bitmap):
                bitmap.extend(bytes(byte + 1 - len(bitmap)))
            bitmap[byte] |= 1 << bit
    text = base64.b64encode(bitmap).decode()
    if lost_before:
        return f"{_MARK}{incarnation}:{lost_before}:{text}"
    if incarnation:
        return f"{_MARK}{incarnation}:{text}"
    return _MARK + text if text else ""


def incarnation_tag(topic_id: str | None) -> str:
    """Return how commits name a topic with this id; empty if the broker has no ids."""
    return hashlib.sha256(topic_id.encode()).hexdigest()[:8] if topic_id else ""


def incarnation_of(metadata: str | None) -> str:
    """Return which incarnation of the topic a commit is of; empty if it doesn't say."""
    if not metadata or not metadata.startswith(_MARK):
        return ""
    incarnation, colon, _ = metadata.removeprefix(_MARK).partition(":")
    return incarnation if colon else ""


def lost_before_of(metadata: str | None) -> int:
    """Return where the log began when it was last cut over unread records, as a commit says; 0: never."""
    if not metadata or not metadata.startswith(_MARK):
        return 0
    members = metadata.removeprefix(_MARK).split(":")
    text = members[1] if len(members) == 3 else ""
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 20 else 0


def committed_of(offset: int, metadata: str | None) -> Committed:
    """Parse a commit; librdkafka's special offsets, all negative, are none."""
    return Committed(max(offset, 0), decode_finished(metadata, offset), lost_before_of(metadata))


def decode_finished(metadata: str | None, offset: int) -> frozenset[int]:
    """Return the offsets beyond `offset` that a commit names as finished; none for anybody else's metadata."""
    if not metadata or not metadata.startswith(_MARK):
        return frozenset()
    try:
        bitmap = base64.b64decode(metadata.removeprefix(_MARK).rpartition(":")[2], validate=True)
    except binascii.Error:
        return frozenset()
    return frozenset(
        offset + 8 * index + bit for index, byte in enumerate(bitmap) if byte for bit in range(8) if byte >> bit & 1
    )
