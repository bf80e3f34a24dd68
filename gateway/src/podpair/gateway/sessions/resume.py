"""Resuming: a client that connects, or comes back, catches up with its home partition and goes live.

Invariant: between the client's position and the first live record nothing is missed and nothing is delivered twice; the step
from catching up to live happens within one turn of the loop.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaException

from podpair.common.gateway_config.model import Config
from podpair.common.logs import ids
from podpair.gateway.auth.resume import Issuer
from podpair.gateway.core.positions import Gap, Position, Resumption, resume
from podpair.gateway.core.protocol import CloseCode, event
from podpair.gateway.core.record_batch import Record, value_size
from podpair.gateway.core.records import control_event
from podpair.gateway.kafka.log_reader import ResultsLog
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.fanout import FanOut
from podpair.gateway.sessions.log import Log
from podpair.gateway.sessions.requests_topic import RequestsTopic
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_RETRY = 0.5  # seconds before the new partitions are queried again
_DOUBTS = (0.2, 0.4, 0.8, 1.6)  # seconds between queries while a log seems to be shorter than what was read of it
_DOUBTED = 1_000_000  # records by which it may be shorter: what is written while a broker is suspended
_SLICE = 256 * 1024  # bytes of values written to a client before waiting until it has read them


class ResumeService:
    """Welcomes clients, and lets them catch up."""

    def __init__(
        self,
        config: Config,
        issuer: Issuer,
        log: ResultsLog,
        fanout: FanOut,
        requests_topic: RequestsTopic,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._homes = log.homes
        self._topic_limits = log.topic_limits
        self._issuer = issuer
        self._reader = log.reader
        self._log_reader = log.log_reader
        self._fanout = fanout
        self._requests_topic = requests_topic
        self._metrics = metrics
        self._tasks = Tasks()

    def welcome(self, session: Session, *, resumed: bool, position: Position | None = None) -> bytes:
        """Return the `welcome` event.

        position: that of the last record that the client has, or that a gap covers; None: of the last that it was given.
        """
        limits = {
            "in_flight": self._config.limits.in_flight,
            "message_bytes": self._config.limits.message_bytes,
            "queue_message_bytes": min(
                self._config.limits.message_bytes, self._topic_limits.value_bytes(self._config.requests.topic)
            ),
            "idle_seconds": self._config.sessions.idle_seconds,
            "resume_seconds": self._config.sessions.resume_seconds,
        }
        return event(
            "welcome",
            session=session.id,
            resume=self.resume_token(session),
            resumed=resumed,
            position=str(position or session.position(self._homes.epoch, session.seen)),
            gateway=self._issuer.gateway,
            expires_at=session.expires_at,
            limits=limits,
        )

    def resume_token(self, session: Session) -> str:
        """Return a token that resumes the session, with the epoch of the requests topic that its client knows."""
        return self._issuer.tokens.mint(session.id, session.subject, session.hold.stamp, session.requests_epoch)

    async def begin(
        self,
        session: Session,
        connection: Connection,
        *,
        resumed: bool,
        position: Position | None,
        foreign: bool = False,
    ) -> "ResumePoint":
        """Welcome the client and declare a gap, if there is one. Return where to catch up from.

        foreign: the client came with the position of another session, which it can't resume.
        The caller holds leases on the homes of the session and, with `results.users`, of its user. Raises KafkaException if a
        broker can't be queried.
        """
        await self._requests_topic.wait_known()
        begin = await self._start(session, position, foreign)
        while begin.moves != session.moves:  # the topic has changed
            begin = await self._start(session, position, foreign)
        if session.connection is not connection:
            return begin  # it was replaced: the other connection sets the session's place
        self._requests_topic.begin(session)
        session.seen = session.given_from = begin.own.start - 1
        if begin.user is not None and session.user_log is not None:
            session.user_log.epoch = self._homes.epoch
            session.user_log.seen = begin.user.start - 1
        session.update_position_prefix(self._homes.epoch)
        gap = begin.gap
        # The connection may break between the two: a client that did not get the gap resumes before it.
        known = None if gap is None else position
        connection.welcome((control_event("welcome", self.welcome(session, resumed=resumed, position=known)),))
        if gap is not None:
            self.send_gap(session, connection, position, self._position(session), gap.reason)
        self._requests_topic.send_gap_if_changed(session, connection)
        return begin

    async def _start(self, session: Session, position: Position | None, foreign: bool) -> "ResumePoint":
        moves, user_log = session.moves, session.user_log
        own = await self.plan(session, None if foreign else position)
        if foreign and position is not None:
            own = own._replace(gap=Gap(position, session.position(self._homes.epoch, own.start - 1), "session"))
        user = await self.plan(user_log, position and position.of_user) if user_log is not None else None
        return ResumePoint(own, user, moves)

    async def plan(self, log: Log, position: Position | None) -> Resumption:
        """Find where a log goes on whose home has a lease: at `position`, or now. Raises KafkaException."""
        await self._reader.reads(log.id)
        tail = self._fanout.tails[log.home]
        if position is None:
            return Resumption(tail.end, None)
        plan = self._resume(log, position, tail.start, tail.end)
        if plan.gap is not None:
            # The position is before the tail, or ahead of what this gateway has read: query the broker.
            seen = position.offset + 1 if plan.gap.reason == "ahead" else 0
            low, high = await self._watermarks(log.home, seen)
            if self._fanout.tails.get(log.home) is not tail:
                return await self.plan(log, position)  # the log was cut, or the topic has changed
            plan = self._resume(log, position, low, max(high, tail.end))
        return plan

    async def _watermarks(self, partition: int, seen: int) -> tuple[int, int]:
        """Return (low, high) of a partition that was read up to `seen`. Raises KafkaException.

        A broker that was suspended answers, until it learns better, as the leader that it was: with an end before what its
        successor has accepted. So an end before `seen` is doubted for a while, unless it is too far from what was written lately.
        """
        low, high = await self._reader.watermarks(partition)
        for delay in _DOUBTS:
            if not 0 < seen - high <= _DOUBTED:
                break
            await asyncio.sleep(delay)
            low, high = await self._reader.watermarks(partition)
        return low, high

    def _resume(self, log: Log, position: Position, low: int, high: int) -> Resumption:
        homes = self._homes
        return resume(position, epoch=homes.epoch, home=log.home, low=low, high=high, siblings=homes.siblings)

    def send_gap(self, log: Log, connection: Connection, start: Position | None, end: Position, reason: str) -> None:
        """Declare a gap in a log to its client."""
        self._metrics.gaps.labels(reason).inc()
        log.note_gap()
        place = {"from": None if start is None else str(start), "to": str(end)}
        payload = event("gap", **log.gap_members, **place, reason=reason)
        connection.send_unlogged((control_event("gap", payload),))

    def on_lagging(self, log: Log) -> None:
        """Let a client catch up from the tail, at its own pace, after a burst that it could not accept at once."""
        if log.connection is not None:
            self._metrics.slow_consumer.inc()
            self._tasks.spawn(self.catch_up(log, log.connection, log.seen + 1, from_log=False))

    async def catch_up_session(self, session: Session, connection: Connection, begin: "ResumePoint") -> None:
        """Catch up from where `begin` says. Raises KafkaException if records can't be read."""
        if begin.moves == session.moves:
            await self.catch_up(session, connection, begin.own.start)
        if begin.moves == session.moves and begin.user is not None and session.user_log is not None:
            await self.catch_up(session.user_log, connection, begin.user.start)

    async def catch_up(self, log: Log, connection: Connection, start: int, *, from_log: bool = True) -> None:
        """Send missed records from offset `start` on, then go live. Return early if the client leaves or the topic changes.

        If the client is behind the records in memory they are read from the broker if `from_log` is set, else it is closed with
        3008. Raises KafkaException if records can't be read.
        """
        source, moves = "tail", log.moves
        while log.connection is connection and connection.open and log.moves == moves:
            tail = self._fanout.tails[log.home]
            start = max(
                start, log.seen + 1
            )  # after a truncation, for which the client got a gap, lost records are skipped
            if start < tail.start:
                if not from_log:
                    connection.close(CloseCode.SLOW, "too slow: resume to go on")
                    return
                source = "history"
                start = await self._read_log(log, connection, start, tail.start)
                continue
            missed = tail.since(log.key, start)
            now, later = _slice(missed)
            if log.deliver(now, merge=True).complete and not later:
                log.seen = max(log.seen, start - 1)
                log.live = True
                self._metrics.resumes.labels(source).inc(bool(missed) or source == "history")
                return
            start = log.seen + 1
            await connection.drained()

    def topic_changed(self, sessions: Iterable[Session], *, widened: bool, before: str) -> asyncio.Future[Any]:
        """Move sessions to their homes in the results topic, which was replaced or `widened`. before: the former epoch.

        Connected clients get a gap, and continue in the new topic: all of it is new to them if the topic or their partition is
        another one. The returned future is done when they have got the gap.
        """
        lows: dict[int, asyncio.Task[int | None]] = {}
        work = []
        for session in sessions:
            session.note_gap()  # also where the client is elsewhere: it may get the gap there, and come back
            place = session.position(before, session.seen)
            logs = [log for log in (session, session.user_log) if log is not None]
            for log in logs:
                log.move(self._homes.of(log.id), log.home if widened else None)
            connection = session.connection
            if connection is not None and connection.welcomed:  # the others will be welcomed to the new topic
                for log in logs:
                    if log.home not in lows:
                        lows[log.home] = self._tasks.spawn(self.low(log.id, log.home, self._homes.epoch))
                moved = _MovedClient(session, connection, place, session.moves)
                work.append(self._tasks.spawn(self._follow_change(moved, lows)))
        return asyncio.gather(*work, return_exceptions=True)

    async def low(self, key: str, partition: int, epoch: str) -> int | None:
        """Return the first offset of a partition of the changed topic; None: the topic has changed again."""
        while self._homes.epoch == epoch:
            try:
                await self._reader.reads(key)
                low, _ = await self._reader.watermarks(partition)
                return low
            except KafkaException as error:
                _log.warning("the results can't be read yet: %s", error.args[0].str())
                await asyncio.sleep(_RETRY)
        return None

    async def _follow_change(self, moved: "_MovedClient", lows: Mapping[int, asyncio.Task[int | None]]) -> None:
        """Let a client catch up with its home partitions in the changed topic."""
        session, connection, before, moves = moved
        own = await self.resume_moved(session, before, lows)
        user = None
        if session.user_log is not None and before.of_user is not None:
            user = await self.resume_moved(session.user_log, before.of_user, lows)
        if own is None or session.connection is not connection or session.moves != moves:
            return  # there is a newer connection, or the topic has changed again
        session.seen = session.given_from = own.start - 1
        if user is not None and session.user_log is not None:
            session.user_log.epoch = self._homes.epoch
            session.user_log.seen = user.start - 1
        session.update_position_prefix(self._homes.epoch)
        self.send_gap(session, connection, before, self._position(session), "epoch")
        self._tasks.spawn(self._catch_up_moved(session, connection, ResumePoint(own, user, moves)))

    async def resume_moved(
        self, log: Log, before: Position, lows: Mapping[int, asyncio.Task[int | None]]
    ) -> Resumption | None:
        """Find where a log goes on in the changed topic. lows: queries for the first offsets, by partition."""
        found = lows.get(log.home)
        low = await asyncio.shield(found) if found is not None else None
        tail = self._fanout.tails.get(log.home)
        if low is None or tail is None:
            return None
        return self._resume(log, before, min(low, tail.start), tail.end)

    async def _catch_up_moved(self, session: Session, connection: Connection, begin: "ResumePoint") -> None:
        try:
            await self.catch_up_session(session, connection, begin)
        except KafkaException as error:
            _log.error("the results can't be read: %s", error, extra=ids(session=session.id))
            connection.close(CloseCode.TRY_AGAIN, "the results can't be read now: resume")

    async def record_at(self, session: Session, offset: int) -> Record | None:
        """Return the session's record at `offset`, if the log still has it. Raises KafkaException."""
        tail = self._fanout.tails.get(session.home)
        if tail is not None and tail.start <= offset < tail.end:
            found = tail.since(session.key, offset)
        else:
            low, _ = await self._reader.watermarks(session.home)
            if offset < low:
                return None
            found = (await self._log_reader.read(session.home, session.key, offset, offset + 1)).records
        return found[0] if found and found[0][0] == offset else None

    async def _read_log(self, log: Log, connection: Connection, start: int, end: int) -> int:
        """Deliver a slice of the records that are only in the log. Return where to continue."""
        moves = log.moves
        try:
            log_slice = await self._log_reader.read(log.home, log.key, start, end)
        except KafkaException:
            if log.moves != moves:
                return start
            low, _ = await self._reader.watermarks(log.home)
            if low <= start:
                raise
            # Retention deleted records during the read.
            self._skip(log, connection, start - 1, low, "retention")
            return low
        if log.connection is not connection or log.moves != moves:
            return log_slice.end
        if log.deliver(log_slice.records, merge=True).complete:
            log.seen = max(log.seen, log_slice.end - 1)
        start = log.seen + 1
        await connection.drained()
        return start

    def _position(self, session: Session) -> Position:
        return session.position(self._homes.epoch, session.seen)

    def _skip(self, log: Log, connection: Connection, last: int, next_offset: int, reason: str) -> None:
        """Continue at `next_offset` after `last`, and declare the gap to the client."""
        epoch = self._homes.epoch
        begin, end = log.position(epoch, last), log.position(epoch, next_offset - 1)
        self.send_gap(log, connection, begin, end, reason)
        log.skip_to(next_offset)
        log.update_position_prefix(epoch)

    async def on_log_truncated(self, partition: int, sessions: Collection[Session]) -> None:
        """Continue with what is left of a partition whose log was truncated, and declare a gap to the sessions that live there.

        That concerns all `sessions` that are there once the broker has answered: clients that connected until then were
        admitted at the end of the former log.
        """
        tail = self._fanout.tails.get(partition)
        if tail is None:
            return
        old_end = tail.end
        low, high = await self._watermarks(partition, old_end)
        if self._fanout.tails.get(partition) is not tail:
            return  # the topic has changed
        if low <= old_end <= high:
            self._reader.move(partition, old_end)  # a broker said so that is not the leader any more
            return
        next_offset = low if low > old_end else high
        reason = "retention" if low > old_end else "ahead"
        self._reader.move(partition, next_offset)
        for session in list(sessions):
            if session.home == partition:
                session.note_gap()
            for log in list(session.logs()):
                if log.home != partition or log.connection is None or not log.connection.welcomed:
                    continue  # the others will be welcomed to the truncated log
                _log.warning("a gap after %d", log.seen, extra=ids(session=session.id))
                # A client that was not live had not got all of the tail, which is gone with the log.
                self._skip(log, log.connection, old_end - 1 if log.live else log.seen, next_offset, reason)


class _MovedClient(NamedTuple):
    """A client that is connected while the topic changes."""

    session: Session
    connection: Connection
    before: Position  # where it was
    moves: int  # changes of the topic that the session has seen, with this one


class ResumePoint(NamedTuple):
    """Where a client starts to catch up."""

    own: Resumption
    user: Resumption | None  # None: the user's log isn't followed
    moves: int  # of the session, when this was computed

    @property
    def gap(self) -> Gap | None:
        """The gap to declare to the client, if there is one."""
        return self.own.gap or (self.user.gap if self.user is not None else None)


def _slice(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Split records into those that may be written at once, and the rest."""
    size = 0
    for index, record in enumerate(records):
        size += value_size(record)
        if size > _SLICE and index:
            return records[:index], records[index:]
    return records, []
