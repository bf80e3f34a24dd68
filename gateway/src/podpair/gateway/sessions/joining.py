"""How a client that connects, or comes back, catches up with its home partition and goes live.

Invariant: between the position that the client named and the first live record nothing is missed and nothing comes twice;
the step from catching up to live happens within one turn of the loop.
"""

import logging

from confluent_kafka import KafkaException

from podpair.gateway.auth.resume import ResumeTokens
from podpair.gateway.config.model import Config
from podpair.gateway.core.positions import Gap, Position, Resumption, resume
from podpair.gateway.core.protocol import CloseCode, event
from podpair.gateway.core.records import control_event
from podpair.gateway.core.tails import Record
from podpair.gateway.kafka.history import History
from podpair.gateway.kafka.results import ResultsReader
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.fanout import FanOut
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_SLICE = 256 * 1024  # bytes of values written to a client before it is asked whether it can take more


class Joining:
    """Welcomes clients and brings them up to date."""

    def __init__(
        self,
        config: Config,
        epoch: str,
        gateway: str,
        reader: ResultsReader,
        history: History,
        fanout: FanOut,
        tokens: ResumeTokens,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._epoch = epoch
        self._gateway = gateway
        self._reader = reader
        self._history = history
        self._fanout = fanout
        self._tokens = tokens
        self._metrics = metrics
        self._following = Tasks()
        fanout.on_behind = self._on_behind

    def prefix(self, partition: int) -> bytes:
        """The position up to the offset."""
        return f"{self._epoch}.{partition}.".encode()

    def welcome(self, session: Session, *, resumed: bool, offset: int) -> bytes:
        """The `welcome` event; `offset` is that of the last record that the client has, or won't get."""
        limits = {
            "in_flight": self._config.limits.in_flight,
            "message_bytes": self._config.limits.message_bytes,
            "idle_seconds": self._config.sessions.idle_seconds,
            "resume_seconds": self._config.sessions.resume_seconds,
        }
        return event(
            "welcome",
            session=session.id,
            resume=self._tokens.mint(session.id, session.subject, session.hold.lineage),
            resumed=resumed,
            position=str(Position(self._epoch, session.home, offset)),
            gateway=self._gateway,
            expires_at=session.expires_at,
            limits=limits,
        )

    async def begin(self, session: Session, connection: Connection, *, resumed: bool, position: Position | None) -> int:
        """Welcome the client and tell it of a gap; returns the offset to catch up from.

        The home partition is held by the caller. Raises KafkaException where the broker does not tell what is needed.
        """
        plan = await self._plan(session, position)
        if session.connection is not connection:
            return plan.start  # it was replaced meanwhile: what the session has seen is the other connection's to say
        connection.welcome((control_event("welcome", self.welcome(session, resumed=resumed, offset=plan.start - 1)),))
        self._tell_gap(connection, plan.gap)
        session.seen = plan.start - 1
        return plan.start

    async def _plan(self, session: Session, position: Position | None) -> Resumption:
        tail = self._fanout.tails[session.home]
        if position is None:
            return Resumption(tail.end, None)
        plan = resume(position, epoch=self._epoch, home=session.home, low=tail.start, high=tail.end)
        if plan.gap is None or plan.gap.reason == "epoch":
            return plan
        # Before the tail, or ahead of what this gateway has read so far: the broker knows.
        low, high = await self._reader.watermarks(session.home)
        return resume(position, epoch=self._epoch, home=session.home, low=low, high=max(high, tail.end))

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

    async def catch_up(self, session: Session, connection: Connection, start: int, *, from_log: bool = True) -> None:
        """Send what was missed from offset `start` on, then go live. Returns early where the client leaves.

        A client that is behind what is in memory is closed with 3008, unless `from_log`: then the broker is asked. Raises
        KafkaException where it does not give its records.
        """
        source = "tail"
        while session.connection is connection and connection.open:
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
        try:
            chunk = await self._history.read(session.home, session.key, start, end)
        except KafkaException:
            low, _ = await self._reader.watermarks(session.home)
            if low <= start:
                raise
            # Retention passed while we read.
            gap = Gap(self._position(session, start - 1), self._position(session, low - 1), "retention")
            self._tell_gap(connection, gap)
            session.seen = low - 1
            return low
        if session.connection is not connection:
            return chunk.end
        if session.deliver(chunk.records, merge=True).complete:
            session.seen = max(session.seen, chunk.end - 1)
        start = session.seen + 1
        await connection.drained()
        return start

    def _position(self, session: Session, offset: int) -> Position:
        return Position(self._epoch, session.home, offset)

    async def cut(self, partition: int, sessions: list[Session]) -> None:
        """The log of a partition was cut under its reader: go on with what there is, and tell its sessions."""
        old_end = self._fanout.tails[partition].end
        low, high = await self._reader.watermarks(partition)
        go_on = low if low > old_end else high
        reason = "retention" if low > old_end else "ahead"
        self._reader.move(partition, go_on)
        for session in sessions:
            if session.home != partition or session.connection is None:
                continue
            _log.warning("a gap after %d", session.seen, extra=ids(session=session.id))
            # One that was not live had not been given all of the tail, which is gone with the log.
            last = old_end - 1 if session.live else session.seen
            gap = Gap(self._position(session, last), self._position(session, go_on - 1), reason)
            self._tell_gap(session.connection, gap)
            session.seen = go_on - 1
            session.hold.log_restarted(go_on)


def _slice(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """What may be written at once, and the rest."""
    size = 0
    for index, record in enumerate(records):
        size += len(record)
        if size > _SLICE and index:
            return records[:index], records[index:]
    return records, []
