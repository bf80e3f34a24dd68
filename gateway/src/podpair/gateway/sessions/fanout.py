"""From batches of the results topic to the sessions that live here.

Invariant: a batch is grouped once, and each session's frames are written once; nothing is done per record that can be
done per batch. Records are kept in their partition's tail before they are delivered, so that a session that joins between
two batches misses none.
"""

import logging
from collections.abc import Callable, Sequence

from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.tails import Groups, PartitionTail, Record
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.misplaced import Misplaced
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_LARGEST_TAIL = 1 << 62


class FanOut:
    """The partitions that are read here, and the sessions that they feed."""

    def __init__(
        self,
        sessions: dict[bytes, Session],
        tail_bytes: int,
        misplaced: Misplaced,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._tail_bytes = tail_bytes
        self._misplaced = misplaced
        self._metrics = metrics
        self._clock = clock
        self.tails: dict[int, PartitionTail] = {}
        # Who brings a session up to date that could not take its records as they came; it is not live until then.
        self.on_behind: Callable[[Session], object] = lambda _: None

    def open(self, partition: int, end: int) -> PartitionTail:
        """From now on records from offset `end` on are expected for this partition."""
        tail = self.tails[partition] = PartitionTail(end, _LARGEST_TAIL)
        self._share()
        return tail

    def close(self, partition: int) -> None:
        """The partition is no longer read."""
        if self.tails.pop(partition, None) is not None:
            self._share()

    def _share(self) -> None:
        for tail in self.tails.values():
            tail.shrink(self._tail_bytes // len(self.tails))

    def deliver(self, batch: Sequence[Record]) -> None:
        """Deliver one batch. Records of a partition come in order; those read before (after a seek) are left out."""
        by_partition: dict[int, list[Record]] = {}
        for record in batch:
            found = by_partition.get(record.partition())
            if found is None:
                by_partition[record.partition()] = [record]
            else:
                found.append(record)
        now = self._clock()
        for partition, records in by_partition.items():
            tail = self.tails.get(partition)
            if tail is not None:
                self._deliver_partition(partition, tail, records, now)

    def _deliver_partition(self, partition: int, tail: PartitionTail, records: list[Record], now: float) -> None:
        expected = tail.end
        if records[0].offset() < expected:
            records = [m for m in records if m.offset() >= expected]
            if not records:
                return
        groups: Groups = {}
        for record in records:
            key = record.key()
            group = groups.get(key)
            if group is None:
                groups[key] = [record]
            else:
                group.append(record)
        sessions = self._sessions
        delivered = duplicates = 0
        size = tail.append(records[-1].offset() + 1, groups)
        for key, mine in groups.items():
            session = sessions.get(key) if key is not None else None
            if session is None:
                continue
            if session.home != partition:
                self._misplaced.found(session, partition, mine)
            elif not session.live:
                session.notice(mine)
            else:
                try:
                    delivery = session.deliver(mine)
                except Exception:
                    # Whatever it is, it is this session's: the others get their records.
                    _log.exception("delivering failed", extra=ids(session=session.id))
                    session.end(CloseCode.INTERNAL, "internal error: resume")
                    continue
                delivered += delivery.sent
                duplicates += delivery.duplicates
                session.active = now
                if not delivery.complete:
                    session.live = False
                    self.on_behind(session)
        self._metrics.fan_out(len(records), size, delivered, duplicates)
