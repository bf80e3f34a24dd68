"""The sessions of this gateway, from their first connection until nothing here belongs to them any more.

Invariant: a request counts, in its session and under its token's rules, until it ends, whether or not its client is connected:
a session stays while requests of it are open, and its home is read for the answers of those that were queued.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from podpair.gateway.config.model import Config
from podpair.gateway.core.ledger import Ledger
from podpair.gateway.core.partitions import HomePartitions, mint_session_id
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.records import Event
from podpair.gateway.core.takeovers import Hold
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_SWEEP = 1.0  # seconds between looks at idle and expired connections


class NotYours(Exception):
    """The session is another user's."""


Release = Callable[[], object]


class Registry:
    """Sessions by key (their id in bytes), as Kafka's records name them.

    `retain(session id)` has the session's home be read on, until what it returns is called; None where it isn't read.
    """

    def __init__(
        self,
        config: Config,
        homes: HomePartitions,
        owned: Callable[[], frozenset[int]],
        retain: Callable[[str], Release | None],
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._homes = homes
        self._owned = owned
        self._retain = retain
        self._metrics = metrics
        self.sessions: dict[bytes, Session] = {}
        # Those without a client that have requests open, and what lets go of their homes; oldest first.
        self._waiting: dict[bytes, Release | None] = {}
        # What is remembered of sessions that have left, for a while: (subject, ledger, when it left), oldest first.
        self._left: dict[bytes, tuple[str, Ledger, float]] = {}
        self.connected = 0
        self._empty = asyncio.Event()
        # Who takes the terminal events that a client did not get, and who cares that it is gone.
        self.on_unsent: Callable[[Session, list[Event]], object] = lambda *_: None
        self.on_gone: Callable[[Session], object] = lambda _: None
        self._sweeper = asyncio.create_task(self._sweep())

    def mint(self) -> str:
        """A new session id, with its home among the partitions whose requests are ours, where that can be had."""
        return mint_session_id(self._owned(), self._homes.partitions)

    def session(self, session_id: str, subject: str) -> Session:
        """The session with this id, new if it isn't here. Raises NotYours where it is another user's."""
        key = session_id.encode()
        session = self.sessions.get(key)
        if session is None:
            home = self._homes.of(session_id)
            ledger = self._remembered(key, subject)
            session = self.sessions[key] = Session(session_id, subject, home, ledger)
        if session.subject != subject:
            raise NotYours("the session is another user's")
        return session

    def _remembered(self, key: bytes, subject: str) -> Ledger:
        """The ledger that the session had when it left, or a new one."""
        left = self._left.pop(key, None)
        if left is not None and left[0] == subject:
            return left[1]
        return Ledger(self._config.limits.in_flight, self._config.sessions.remembered_bytes)

    def attach(
        self, session_id: str, subject: str, connection: Connection, expires_at: float | None, hold: Hold
    ) -> Session:
        """A client is there; one that was there before is told that it was replaced. Raises NotYours."""
        session = self.session(session_id, subject)
        before = session.connection
        if before is not None:
            session.replaced()
            self.on_unsent(session, before.unsent())
        else:
            self._count(1)
        self._release(session)
        session.ledger.reconnected()
        session.connection = connection
        session.hold = hold
        session.live = False
        session.active = time.monotonic()
        self.refreshed(session, expires_at)
        return session

    def detach(self, session: Session, connection: Connection) -> None:
        """The client is gone: what it did not get goes to Kafka, and the session goes when nothing of it runs here."""
        unsent = connection.unsent()
        if session.connection is not connection:
            return  # already replaced
        session.connection = None
        session.live = False
        self._count(-1)
        if session.grant is not None:
            session.grant.leave(session.id)
        self.on_unsent(session, unsent)
        self.on_gone(session)
        self.forget_if_done(session)

    async def emptied(self, timeout: float) -> None:
        """Return when no client is connected any more, or after `timeout` seconds."""
        if self.connected:
            self._empty.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._empty.wait()
            except TimeoutError:
                _log.warning("%d clients did not answer their close frames", self.connected)

    def _count(self, change: int) -> None:
        self.connected += change
        if not self.connected:
            self._empty.set()
        self._metrics.sessions.set(self.connected)

    def forget_if_done(self, session: Session) -> None:
        """Without a client and without open requests a session is only in Kafka."""
        if session.connection is not None or self.sessions.get(session.key) is not session:
            return
        if not session.ledger.opened:
            self._forget(session)
        elif session.key not in self._waiting:
            for request in session.ledger.opened.values():
                if request.route == "queue" and request.span is not None:
                    request.span.end()  # its worker's goes on
                    request.span = None
            self._waiting[session.key] = self._retain(session.id)
            if len(self._waiting) > self._config.limits.sessions:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        """The session that has waited longest is no longer counted; direct requests are never given up so."""
        for key in self._waiting:
            session = self.sessions[key]
            if all(request.route == "queue" for request in session.ledger.opened.values()):
                self._forget(session)
                return

    def _forget(self, session: Session) -> None:
        del self.sessions[session.key]
        self._release(session)
        for request_id in list(session.ledger.opened):
            session.ledger.forget(request_id)
        if session.ledger.remembers:
            self._left[session.key] = (session.subject, session.ledger, time.monotonic())
            if len(self._left) > self._config.limits.sessions:
                del self._left[next(iter(self._left))]

    def _release(self, session: Session) -> None:
        release = self._waiting.pop(session.key, None)
        if release is not None:
            release()

    def room(self, session_id: str) -> bool:
        """Whether a request may be taken for a session whose client is not connected."""
        return session_id.encode() in self.sessions or len(self._waiting) < self._config.limits.sessions

    def connected_to(self, session_id: str) -> bool:
        """Whether a client of the session is connected here."""
        session = self.sessions.get(session_id.encode())
        return session is not None and session.connection is not None

    def _look_after_waiting(self) -> None:
        # An answer that retention has taken will not be seen; nor need what is so old be counted.
        oldest = time.perf_counter() - self._config.results.retention_seconds
        for key in list(self._waiting):
            session = self.sessions[key]
            session.ledger.forget_older(oldest)
            self.forget_if_done(session)

    @property
    def ledgers_of_left(self) -> list[Ledger]:
        """What is remembered of sessions that have left."""
        return [ledger for _, ledger, _ in self._left.values()]

    def _forget_left(self, before: float) -> None:
        while self._left:
            key, (_, _, left_at) = next(iter(self._left.items()))
            if left_at >= before:
                return
            del self._left[key]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            now, monotonic = time.time(), time.monotonic()
            idle = self._config.sessions.idle_seconds
            self._look_after_waiting()
            self._forget_left(monotonic - self._config.sessions.remembered_seconds)
            for session in list(self.sessions.values()):
                connection = session.connection
                if connection is None:
                    continue
                if session.ends_at is not None and now >= session.ends_at:
                    _log.info("token expired", extra=ids(session=session.id))
                    connection.close(CloseCode.EXPIRED, "the token has expired")
                elif idle and monotonic - session.active > idle:
                    _log.info("session idle", extra=ids(session=session.id))
                    connection.close(CloseCode.IDLE, f"idle for {idle:.0f} s")

    def granted(self, session: Session, grant: Grant | None) -> None:
        """Its token, or a newer one, allows this from now on."""
        if session.grant is not None:
            session.grant.leave(session.id)
        session.grant = grant
        if grant is not None:
            grant.enter(session.id)

    def refreshed(self, session: Session, expires_at: float | None) -> None:
        """The session's connection has a token that expires then (Unix seconds), or never."""
        session.expires_at = session.ends_at = expires_at
        if expires_at is not None:
            # What was let in within the leeway stays as long. Tokens minted together end together; spread over the
            # jitter their clients don't come back all at once.
            jitter = random.uniform(0, self._config.sessions.expiry_jitter_seconds)  # noqa: S311
            session.ends_at = expires_at + self._config.auth.leeway_seconds + jitter

    async def close(self) -> None:
        """Stop looking after sessions."""
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
