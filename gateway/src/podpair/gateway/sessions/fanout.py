"""Delivers batches of the results topic to the sessions of this gateway.

Invariant: a batch is grouped once, and each session's frames are written once; nothing is done per record that can be
done per batch. Records are stored in their partition's tail before they are delivered, so that a session that joins between
two batches misses none.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from podpair.common.logs import ids
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.record_batch import PartitionRecords, Record
from podpair.gateway.core.records import Event
from podpair.gateway.core.tails import PartitionTail
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.log import Log
from podpair.gateway.sessions.misplaced_records import MisplacedRecords
from podpair.gateway.sessions.session import Session
from podpair.gateway.sessions.subscription import Channel, SharedFrames
from podpair.gateway.sessions.user_log import UserLog

_log = logging.getLogger(__name__)
_LARGEST_TAIL = 1 << 62


class Followers(Protocol):
    """Who is fed: sessions, the logs of users, and channels, by the key of their records. `Registry` has them."""

    sessions: dict[bytes, Session]
    user_logs: dict[bytes, set[UserLog]]
    channels: dict[bytes, Channel]

    def write_answers(self, session: Session, answers: list[Event]) -> None:
        """Write answers to the session's home, from where they are delivered."""
        ...


class FanOut:
    """Feeds sessions from the partitions that this gateway reads.

    on_lagging: called with a log whose client could not keep up; the log is not live until it has caught up.
    """

    def __init__(
        self,
        followers: Followers,
        tail_bytes: int,
        misplaced: MisplacedRecords,
        on_lagging: Callable[[Log], object],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._followers = followers
        self._sessions = followers.sessions
        self._user_logs = followers.user_logs
        self._channels = followers.channels
        self._tail_bytes = tail_bytes
        self._misplaced = misplaced
        self._metrics = metrics
        self._clock = clock
        self.tails: dict[int, PartitionTail] = {}
        self._watches: dict[bytes, set[asyncio.Event]] = {}  # by key: set when records of it were delivered
        self._on_lagging = on_lagging

    def watch(self, key: bytes, wake: asyncio.Event) -> None:
        """Set `wake` whenever records with this key, which is no session's, are in their partition's tail."""
        self._watches.setdefault(key, set()).add(wake)

    def unwatch(self, key: bytes, wake: asyncio.Event) -> None:
        """Undo `watch`."""
        watching = self._watches.get(key, set())
        watching.discard(wake)
        if not watching:
            self._watches.pop(key, None)

    def open(self, partition: int, end: int) -> PartitionTail:
        """Start delivering a partition; its next record has offset `end`."""
        tail = self.tails[partition] = PartitionTail(end, _LARGEST_TAIL)
        self._resize_tails()
        return tail

    def close(self, partition: int) -> None:
        """Stop delivering a partition."""
        if self.tails.pop(partition, None) is not None:
            self._resize_tails()

    def _resize_tails(self) -> None:
        for tail in self.tails.values():
            tail.shrink(self._tail_bytes // len(self.tails))

    def deliver(self, partition: int, batch: PartitionRecords) -> None:
        """Deliver one batch of a partition. Records that were read before (after a seek) are skipped."""
        tail = self.tails.get(partition)
        if tail is not None and (left := batch.since(tail.end)) is not None:
            self._deliver_partition(partition, tail, left)

    def _deliver_partition(self, partition: int, tail: PartitionTail, batch: PartitionRecords) -> None:
        expected, now = tail.end, self._clock()
        tail.append(batch)
        sessions, known = self._sessions, self._misplaced.known
        delivered = duplicates = 0
        for key, group in batch.groups.items():
            session = sessions.get(key) if key is not None else None
            if session is None:
                if key in self._watches:
                    self._wake(key)
                elif known.get(key) != partition or key in self._user_logs or key in self._channels:
                    delivered += self._deliver_unmatched(key, partition, group, expected)
                continue
            if session.home != partition:
                if answers := self._misplaced.handle(session, partition, group):
                    self._followers.write_answers(session, answers)
            elif not session.live:
                session.observe(group)
            else:
                if (user_log := session.user_log) is not None:
                    self._advance(user_log, partition, expected)
                    user_log.update_position_prefix(user_log.epoch)
                session.active = now
                try:
                    if (sent := session.push(group)) is not None:
                        delivered += sent
                        duplicates += len(group) - sent
                        continue
                    delivery = session.deliver(group)
                except Exception:
                    # Whatever failed concerns this session only: the others get their records.
                    _log.exception("delivering failed", extra=ids(session=session.id))
                    session.end(CloseCode.INTERNAL, "internal error: resume")
                    continue
                delivered += delivery.sent
                duplicates += delivery.duplicates
                if not delivery.complete:
                    session.live = False
                    self._on_lagging(session)
        self._metrics.fan_out(batch.count, batch.size, delivered, duplicates)

    def _wake(self, key: bytes | None) -> None:
        for wake in self._watches.get(key or b"", ()):
            wake.set()

    def _deliver_unmatched(self, key: bytes | None, partition: int, records: list[Record], before: int) -> int:
        """Deliver records whose key belongs to no session of this gateway. Return how many were sent."""
        if key is not None and (channel := self._channels.get(key)) is not None:
            return self._deliver_to_channel(channel, partition, records)
        logs = self._user_logs.get(key) if key is not None else None
        if logs is None:
            self._misplaced.handle_unclaimed(partition, key, records)
            return 0
        return self._deliver_to_user(logs, partition, records, before)

    def _advance(self, other: Log, partition: int, before: int) -> None:
        """Advance the other log of a client that is about to get records of one of its two logs.

        If the other log is live, the client has all of it that was read: its place in positions advances, so that retention
        does not overtake it. before: the end of the partition that is being delivered, without this batch.
        """
        tail = self.tails.get(other.home)
        if other.live and tail is not None:
            other.seen = max(other.seen, (before if other.home == partition else tail.end) - 1)

    def _deliver_to_user(self, logs: Iterable[UserLog], partition: int, records: list[Record], before: int) -> int:
        """Deliver records that are addressed to a user to the sessions of the user. Return how many were sent."""
        sent = 0
        followed = list(logs)
        if followed[0].home != partition:  # all have one home; some may have come after the topic was widened
            moved = [log for log in followed if log.previous_home == partition]
            for log in moved or followed[:1]:
                self._misplaced.handle(log, partition, records)
            return 0
        for log in followed:
            if log.live:
                self._advance(log.session, partition, before)
                try:
                    delivery = log.deliver(records)
                except Exception:
                    _log.exception("delivering failed", extra=ids(session=log.session.id))
                    log.end(CloseCode.INTERNAL, "internal error: resume")
                    continue
                sent += delivery.sent
                log.session.active = self._clock()
                if not delivery.complete:
                    log.live = False
                    self._on_lagging(log)
        return sent

    def _deliver_to_channel(self, channel: Channel, partition: int, records: list[Record]) -> int:
        """Deliver records of a channel to its subscribers: encoded once, the same bytes for all. Return how many were sent."""
        if channel.home != partition:
            moved = [one for one in channel.subscriptions if one.previous_home == partition]
            for log in moved or list(channel.subscriptions)[:1]:
                self._misplaced.handle(log, partition, records)
            return 0
        followed, now = channel.live(), self._clock()
        if not followed:
            return 0
        shared = SharedFrames(followed[0], records)
        first, last, events, known = records[0][0], shared.last, shared.events, shared.frames
        sent = 0
        for one in followed:
            session, connection = one.session, one.subscriber
            if session.connection is not connection:
                continue
            session.active = now
            try:
                wire = connection.wire
                frames = known.get(wire.encoding) or shared.for_wire(wire)
                if first > one.seen and connection.send_shared(frames):
                    one.seen = last
                    sent += len(events)
                    continue
                delivery = one.deliver_events(events, last)
            except Exception:
                # Whatever failed concerns this session only: the others get their records.
                _log.exception("delivering failed", extra=ids(session=one.session.id))
                one.end(CloseCode.INTERNAL, "internal error: resume")
                continue
            sent += delivery.sent
            if not delivery.complete:
                one.live = False
                self._on_lagging(one)
        return sent
