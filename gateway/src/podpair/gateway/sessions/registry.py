"""The sessions of this gateway, from their first connection until this gateway has nothing of them any more.

Invariant: a request counts, in its session and under its token's rules, until it ends, whether or not its client is connected:
a session stays while it has open requests, and its home is read for the results of the queued ones.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from podpair.common.gateway_config.model import Config
from podpair.common.logs import ids
from podpair.gateway.core.ledger import Ledger
from podpair.gateway.core.partitions import HomePartitions, mint_session_id
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.records import Event
from podpair.gateway.core.session_ids import user_key
from podpair.gateway.core.takeovers import Hold
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session
from podpair.gateway.sessions.subscription import Channel
from podpair.gateway.sessions.user_log import UserLog
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_SWEEP = 1.0  # seconds between checks for idle and expired connections


class NotOwner(Exception):
    """The session belongs to another user."""


Release = Callable[[], object]


@dataclass(frozen=True, slots=True)
class RegistryHooks:
    """What a registry calls."""

    retain: Callable[[str], Release | None]
    """Keeps the home of a session, by its id, read until the returned function is called; None if it isn't read."""
    on_undelivered: Callable[[Session, list[Event]], object]
    """Takes the terminal events that a client did not get."""
    on_disconnect: Callable[[Session], object]
    """Hears that a client has disconnected."""
    on_leave: Callable[[Session], object]
    """Hears that a session's connection has ended, or is replaced, while there are subscriptions to channels."""
    on_presence: Callable[[Session], object]
    """Hears that a session has connected, or disconnected."""


class Registry:
    """Sessions by the key of their records (their id in bytes)."""

    def __init__(
        self,
        config: Config,
        homes: HomePartitions,
        owned: Callable[[], frozenset[int]],
        hooks: RegistryHooks,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._homes = homes
        self._owned = owned
        self._hooks = hooks
        self._metrics = metrics
        self.sessions: dict[bytes, Session] = {}
        # The users' logs that connected clients follow, by the key of their records.
        self.user_logs: dict[bytes, set[UserLog]] = {}
        # The channels that connected clients subscribe to, by the key of their records.
        self.channels: dict[bytes, Channel] = {}
        # Sessions without a client that have open requests, and what releases their homes; oldest first.
        self._waiting: dict[bytes, Release | None] = {}
        # Ledgers of sessions that have left, kept for a while: (subject, ledger, when it left), oldest first.
        self._retained: dict[bytes, tuple[str, Ledger, float]] = {}
        self.connected = 0
        self._empty = asyncio.Event()
        self._sweeper = asyncio.create_task(self._sweep())

    def mint(self) -> str:
        """Return a new session id whose home, if possible, is one of the request partitions that this gateway owns."""
        return mint_session_id(self._owned(), self._homes.partitions)

    def session(self, session_id: str, subject: str) -> Session:
        """Return the session with this id; create it if it isn't here. Raises NotOwner if it is another user's."""
        key = session_id.encode()
        session = self.sessions.get(key)
        if session is None:
            home = self._homes.of(session_id)
            ledger = self._ledger_of(key, subject)
            session = self.sessions[key] = Session(session_id, subject, home, ledger)
        if session.subject != subject:
            raise NotOwner("the session is another user's")
        return session

    def _ledger_of(self, key: bytes, subject: str) -> Ledger:
        """Return the ledger that the session had when it left, or a new one."""
        retained = self._retained.pop(key, None)
        if retained is not None and retained[0] == subject:
            return retained[1]
        return Ledger(self._config.limits.in_flight, self._config.sessions.idempotency_bytes)

    def attach(
        self, session_id: str, subject: str, connection: Connection, expires_at: float | None, hold: Hold
    ) -> Session:
        """Make `connection` the session's; the former one is closed as replaced. Raises NotOwner."""
        session = self.session(session_id, subject)
        before = session.connection
        if before is not None:
            session.on_replaced()
            self._leave_channels(session)
            self._hooks.on_undelivered(session, before.undelivered())
        else:
            self._count(1)
        self._release(session)
        session.ledger.on_reconnect()
        session.connection = connection
        session.hold = hold
        session.live = False
        self._follow_user(session)
        session.active = time.monotonic()
        self.set_expiry(session, expires_at)
        self._hooks.on_presence(session)
        return session

    def detach(self, session: Session, connection: Connection) -> None:
        """Remove a client that has disconnected. Undelivered events go to Kafka; the session is evicted when it is idle."""
        undelivered = connection.undelivered()
        if session.connection is not connection:
            return  # already replaced
        session.connection = None
        session.live = False
        self._leave_user(session)
        self._leave_channels(session)
        self._hooks.on_presence(session)
        self._count(-1)
        if session.grant is not None:
            session.grant.leave(session.id)
        self._hooks.on_undelivered(session, undelivered)
        self._hooks.on_disconnect(session)
        self.evict_if_idle(session)

    def _follow_user(self, session: Session) -> None:
        self._leave_user(session)
        if self._config.results.users:
            key = user_key(session.subject)
            log = session.user_log = UserLog(key, self._homes.of(key), session)
            self.user_logs.setdefault(log.key, set()).add(log)

    def _leave_user(self, session: Session) -> None:
        log, session.user_log = session.user_log, None
        if log is not None:
            logs = self.user_logs[log.key]
            logs.discard(log)
            if not logs:
                del self.user_logs[log.key]

    def _leave_channels(self, session: Session) -> None:
        if session.subscriptions:
            self._hooks.on_leave(session)

    async def wait_empty(self, timeout: float) -> None:
        """Wait until no client is connected any more, or for `timeout` seconds."""
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

    def evict_if_idle(self, session: Session) -> None:
        """Evict a session that has neither a client nor open requests: it exists only in Kafka then."""
        if session.connection is not None or self.sessions.get(session.key) is not session:
            return
        if not session.ledger.opened:
            self._evict(session)
        elif session.key not in self._waiting:
            for request in session.ledger.opened.values():
                if request.route == "queue" and request.span is not None:
                    request.span.end()  # the worker's span continues
                    request.span = None
            self._waiting[session.key] = self._hooks.retain(session.id)
            if len(self._waiting) > self._config.limits.sessions:
                self._evict_oldest()

    def _evict_oldest(self) -> None:
        """Evict the session that has waited longest, unless it has direct requests, which are never abandoned."""
        for key in self._waiting:
            session = self.sessions[key]
            if all(request.route == "queue" for request in session.ledger.opened.values()):
                self._evict(session)
                return

    def _evict(self, session: Session) -> None:
        del self.sessions[session.key]
        self._release(session)
        for request_id in list(session.ledger.opened):
            session.ledger.discard(request_id)
        if session.ledger.remembers:
            self._retained[session.key] = (session.subject, session.ledger, time.monotonic())
            if len(self._retained) > self._config.limits.sessions:
                del self._retained[next(iter(self._retained))]

    def _release(self, session: Session) -> None:
        release = self._waiting.pop(session.key, None)
        if release is not None:
            release()

    def has_room(self, session_id: str) -> bool:
        """Return whether a request can be accepted for a session whose client is not connected."""
        return session_id.encode() in self.sessions or len(self._waiting) < self._config.limits.sessions

    def write_answers(self, session: Session, answers: list[Event]) -> None:
        """Write answers to the session's home, from where they are delivered."""
        self._hooks.on_undelivered(session, answers)

    def connected_to(self, session_id: str) -> bool:
        """Return whether a client of the session is connected here."""
        session = self.sessions.get(session_id.encode())
        return session is not None and session.connection is not None

    def received(self, session_id: str) -> tuple[int, int, int] | None:
        """Return what the client of a session is known to have received (`Session.received`)."""
        session = self.sessions.get(session_id.encode())
        return session.received() if session is not None else None

    def _check_waiting(self) -> None:
        # Results that are older than the retention can not arrive any more: their requests are not counted.
        oldest = time.perf_counter() - self._config.results.retention_seconds
        for key in list(self._waiting):
            session = self.sessions[key]
            session.ledger.discard_older(oldest)
            self.evict_if_idle(session)

    @property
    def retained_ledgers(self) -> list[Ledger]:
        """The ledgers of sessions that have left."""
        return [ledger for _, ledger, _ in self._retained.values()]

    def _drop_retained(self, before: float) -> None:
        while self._retained:
            key, (_, _, since) = next(iter(self._retained.items()))
            if since >= before:
                return
            del self._retained[key]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            now, monotonic = time.time(), time.monotonic()
            idle = self._config.sessions.idle_seconds
            self._check_waiting()
            self._drop_retained(monotonic - self._config.sessions.idempotency_ttl_seconds)
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

    def set_grant(self, session: Session, grant: Grant | None) -> None:
        """Set what the session's token, or a newer one, allows."""
        if session.grant is not None:
            session.grant.leave(session.id)
        session.grant = grant
        if grant is not None:
            grant.enter(session.id)

    def set_expiry(self, session: Session, expires_at: float | None) -> None:
        """Set when the token of the session's connection expires (Unix seconds); None: never."""
        session.expires_at = session.ends_at = expires_at
        if expires_at is not None:
            # A token that was accepted within the leeway lasts as long. Tokens that were minted together expire together:
            # the jitter keeps their clients from reconnecting all at once.
            jitter = random.uniform(0, self._config.sessions.expiry_jitter_seconds)  # noqa: S311
            session.ends_at = expires_at + self._config.auth.leeway_seconds + jitter

    async def close(self) -> None:
        """Stop checking sessions."""
        await cancel_task(self._sweeper)
