"""How a client that connects, or comes back, catches up with its home partition and goes live.

Invariant: between the position that the client named and the first live record nothing is missed and nothing comes twice;
the step from catching up to live happens within one turn of the loop.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from confluent_kafka import KafkaException

from podpair.gateway.auth.resume import ResumeTokens
from podpair.gateway.config.model import Config
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.positions import Gap, Position, Resumption, resume
from podpair.gateway.core.protocol import CloseCode, event
from podpair.gateway.core.records import control_event
from podpair.gateway.core.tails import Record
from podpair.gateway.kafka.history import History
from podpair.gateway.kafka.results import ResultsReader
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.fanout import FanOut
from podpair.gateway.sessions.requests_topic import RequestsTopic
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_RETRY = 0.5  # seconds before what is read now is asked for again
_SLICE = 256 * 1024  # bytes of values written to a client before it is asked whether it can take more


class Joining:
    """Welcomes clients and brings them up to date."""

    def __init__(
        self,
        config: Config,
        homes: HomePartitions,
        topic_limits: TopicLimits,
        gateway: str,
        reader: ResultsReader,
        history: History,
        fanout: FanOut,
        tokens: ResumeTokens,
        requests_topic: RequestsTopic,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._homes = homes
        self._topic_limits = topic_limits
        self._gateway = gateway
        self._reader = reader
        self._history = history
        self._fanout = fanout
        self._tokens = tokens
        self._requests_topic = requests_topic
        self._metrics = metrics
        self._following = Tasks()
        fanout.on_behind = self._on_behind

    def prefix(self, partition: int) -> bytes:
        """The position up to the offset."""
        return f"{self._homes.epoch}.{partition}.".encode()

    def welcome(self, session: Session, *, resumed: bool, position: Position | None = None) -> bytes:
        """The `welcome` event; `position` is that of the last record that the client has, or was told that it won't get.

        None: of the last that it was given.
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
            position=str(position or self._position(session, session.seen)),
            gateway=self._gateway,
            expires_at=session.expires_at,
            limits=limits,
        )

    def resume_token(self, session: Session) -> str:
        """What continues the session, as far as its client has been told of what is lost."""
        return self._tokens.mint(session.id, session.subject, session.hold.stamp, session.requests_epoch)

    async def begin(
        self, session: Session, connection: Connection, *, resumed: bool, position: Position | None
    ) -> "Start":
        """Welcome the client and tell it of a gap; returns where to catch up from.

        The home partition is held by the caller. Raises KafkaException where the broker does not tell what is needed.
        """
        await self._requests_topic.known()
        plan = await self._plan(session, position)
        while plan.moves != session.moves:  # the topic has changed meanwhile
            plan = await self._plan(session, position)
        if session.connection is not connection:
            return plan  # it was replaced meanwhile: what the session has seen is the other connection's to say
        self._requests_topic.begin(session)
        connection.wire.moved(self.prefix(session.home))
        # A connection may break between the two: who was not told of the gap goes on before it.
        known = self._position(session, plan.start - 1) if plan.gap is None or position is None else position
        connection.welcome((control_event("welcome", self.welcome(session, resumed=resumed, position=known)),))
        self._tell_gap(connection, plan.gap)
        self._requests_topic.bring_up_to_date(session, connection)
        session.seen = plan.start - 1
        return plan

    async def _plan(self, session: Session, position: Position | None) -> "Start":
        moves = session.moves
        await self._reader.reads(session.id)
        tail = self._fanout.tails[session.home]
        plan = Resumption(tail.end, None)
        if position is not None:
            plan = self._resume(session, position, tail.start, tail.end)
            if plan.gap is not None:
                # Before the tail, or ahead of what this gateway has read so far: the broker knows.
                low, high = await self._reader.watermarks(session.home)
                plan = self._resume(session, position, low, max(high, tail.end))
        return Start(plan.start, plan.gap, moves)

    def _resume(self, session: Session, position: Position, low: int, high: int) -> Resumption:
        homes = self._homes
        return resume(position, epoch=homes.epoch, home=session.home, low=low, high=high, siblings=homes.siblings)

    def _tell_gap(self, connection: Connection, gap: Gap | None) -> None:
        if gap is None:
            return
        self._metrics.gaps.labels(gap.reason).inc()
        start, end = (None if p is None else str(p) for p in (gap.start, gap.end))
        payload = event("gap", **{"from": start, "to": end, "reason": gap.reason})
        connection.send_unlogged((control_event("gap", payload),))

    def _on_behind(self, session: Session) -> None:
        """A burst was more than the client takes at once: what is left comes from the tail, at the client's own pace."""
        if session.connection is not None:
            self._metrics.behind.inc()
            self._following.begin(self.catch_up(session, session.connection, session.seen + 1, from_log=False))

    async def begun(self, session: Session, connection: Connection, begin: "Start") -> None:
        """Catch up after `begin`. Raises KafkaException where the broker does not give its records."""
        if begin.moves == session.moves:
            await self.catch_up(session, connection, begin.start)

    async def catch_up(self, session: Session, connection: Connection, start: int, *, from_log: bool = True) -> None:
        """Send what was missed from offset `start` on, then go live. Returns early where the client leaves or the topic changes.

        A client that is behind what is in memory is closed with 3008, unless `from_log`: then the broker is asked. Raises
        KafkaException where it does not give its records.
        """
        source, moves = "tail", session.moves
        while session.connection is connection and connection.open and session.moves == moves:
            tail = self._fanout.tails[session.home]
            start = max(start, session.seen + 1)  # a cut of the log, which the client was told of, skips what is gone
            if start < tail.start:
                if not from_log:
                    connection.close(CloseCode.SLOW, "too slow: resume to go on")
                    return
                source = "history"
                start = await self._read_history(session, connection, start, tail.start)
                continue
            missed = tail.since(session.key, start)
            now, later = _slice(missed)
            if session.deliver(now, merge=True).complete and not later:
                session.seen = max(session.seen, start - 1)
                session.live = True
                self._metrics.resumed.labels(source).inc(bool(missed) or source == "history")
                return
            start = session.seen + 1
            await connection.drained()

    def topic_changed(self, sessions: Iterable[Session], *, widened: bool, before: str) -> asyncio.Future[Any]:
        """The results topic is another one, or was `widened`; homes have moved. `before` is the epoch until now.

        Clients that are there are told of a gap, and go on in what is the topic now: all of it, where it is another one or
        another partition, is new to them. What is returned is done when they have been told.
        """
        moved: dict[int, list[_Moved]] = {}
        for session in sessions:
            place = Position(before, session.home, session.seen)
            home = self._homes.of(session.id)
            session.move(home, session.home if widened else None)
            connection = session.connection
            if connection is not None and connection.welcomed:  # others are welcomed to the new topic
                moved.setdefault(home, []).append(_Moved(session, connection, place, session.moves))
        work = [self._following.begin(self._go_on(partition, mine)) for partition, mine in moved.items()]
        return asyncio.gather(*work, return_exceptions=True)

    async def _go_on(self, partition: int, moved: list["_Moved"]) -> None:
        """Bring clients up to date with a partition that is theirs since the topic has changed."""
        while True:
            try:
                await self._reader.reads(moved[0].session.id)
                low, _ = await self._reader.watermarks(partition)
                break
            except KafkaException as error:
                _log.warning("the results can't be read yet: %s", error.args[0].str())
                await asyncio.sleep(_RETRY)
                if moved[0].session.moves != moved[0].moves:
                    return
        tail = self._fanout.tails.get(partition)
        for session, connection, before, moves in moved:
            if session.connection is not connection or session.moves != moves or tail is None:
                continue  # it has a newer connection, or the topic has changed again
            plan = self._resume(session, before, min(low, tail.start), tail.end)
            connection.wire.moved(self.prefix(session.home))
            self._tell_gap(connection, Gap(before, self._position(session, plan.start - 1), "epoch"))
            session.seen = plan.start - 1
            self._following.begin(self._caught_up(session, connection, Start(plan.start, None, moves)))

    async def _caught_up(self, session: Session, connection: Connection, begin: "Start") -> None:
        try:
            await self.begun(session, connection, begin)
        except KafkaException as error:
            _log.error("the results can't be read: %s", error, extra=ids(session=session.id))
            connection.close(CloseCode.TRY_AGAIN, "the results can't be read now: resume")

    async def logged(self, session: Session, offset: int) -> Record | None:
        """The session's record at `offset`, if the log still has it. Raises KafkaException."""
        tail = self._fanout.tails.get(session.home)
        if tail is not None and tail.start <= offset < tail.end:
            found = tail.since(session.key, offset)
        else:
            low, _ = await self._reader.watermarks(session.home)
            if offset < low:
                return None
            found = (await self._history.read(session.home, session.key, offset, offset + 1)).records
        return found[0] if found and found[0].offset() == offset else None

    async def _read_history(self, session: Session, connection: Connection, start: int, end: int) -> int:
        """Deliver a part of what is only in the log; returns where to go on."""
        moves = session.moves
        try:
            chunk = await self._history.read(session.home, session.key, start, end)
        except KafkaException:
            if session.moves != moves:
                return start
            low, _ = await self._reader.watermarks(session.home)
            if low <= start:
                raise
            # Retention passed while we read.
            gap = Gap(self._position(session, start - 1), self._position(session, low - 1), "retention")
            self._tell_gap(connection, gap)
            session.seen = low - 1
            return low
        if session.connection is not connection or session.moves != moves:
            return chunk.end
        if session.deliver(chunk.records, merge=True).complete:
            session.seen = max(session.seen, chunk.end - 1)
        start = session.seen + 1
        await connection.drained()
        return start

    def _position(self, session: Session, offset: int) -> Position:
        return Position(self._homes.epoch, session.home, offset)

    async def cut(self, partition: int, sessions: Collection[Session]) -> None:
        """The log of a partition was cut under its reader: go on with what there is, and tell those `sessions` whose home it is.

        All that are there once the broker has answered: who came meanwhile was let in where the log before had ended.
        """
        tail = self._fanout.tails.get(partition)
        if tail is None:
            return
        old_end = tail.end
        low, high = await self._reader.watermarks(partition)
        if self._fanout.tails.get(partition) is not tail:
            return  # the topic has changed meanwhile
        go_on = low if low > old_end else high
        reason = "retention" if low > old_end else "ahead"
        self._reader.move(partition, go_on)
        for session in list(sessions):
            if session.home != partition or session.connection is None or not session.connection.welcomed:
                continue  # others are welcomed to what there is then
            _log.warning("a gap after %d", session.seen, extra=ids(session=session.id))
            # One that was not live had not been given all of the tail, which is gone with the log.
            last = old_end - 1 if session.live else session.seen
            gap = Gap(self._position(session, last), self._position(session, go_on - 1), reason)
            self._tell_gap(session.connection, gap)
            session.seen = go_on - 1


class _Moved(NamedTuple):
    """A client that is there while the topic changes."""

    session: Session
    connection: Connection
    before: Position  # where it was
    moves: int  # of the session, with this change: each counts those since it came


class Start(NamedTuple):
    """Where a client begins to catch up."""

    start: int
    gap: Gap | None
    moves: int  # of the session, when it was made


def _slice(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """What may be written at once, and the rest."""
    size = 0
    for index, record in enumerate(records):
        size += len(record)
        if size > _SLICE and index:
            return records[:index], records[index:]
    return records, []
