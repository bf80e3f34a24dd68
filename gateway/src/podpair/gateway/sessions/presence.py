"""Presence: tells of this gateway's sessions, and of those of the fleet to those who may know (`presence.enabled`).

Invariant: the record of a session says, at the latest a moment after the broker answers, whether it is connected here, whatever
was lost or removed before; what comes and goes within `presence.coalesce_seconds` is not written at all. A gateway that
dies takes all of its sessions along, for its heartbeats end.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from podpair.common.gateway_config.model import Config
from podpair.common.logs import Throttle
from podpair.gateway.core.presence import (
    Entry,
    PresenceChange,
    PresenceTable,
    Record,
    encode_entry,
    gateway_key,
    session_key,
)
from podpair.gateway.core.presence_access import visible_subjects
from podpair.gateway.core.protocol import event
from podpair.gateway.core.records import control_event
from podpair.gateway.kafka.presence_log import PresenceLog
from podpair.gateway.kafka.producer import DeliveryError, RecordMetadata, RecordProducer
from podpair.gateway.kafka.supervisor import Supervisor
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_CHECK = 0.5  # seconds between two looks for gateways that are silent
_UNKNOWN = "\0"  # no subject: it is not known what a record says
_RETRY = 1.0  # seconds until what was not written is written again


class PresenceContext(NamedTuple):
    """What presence needs of the gateway. sessions: by key, those of this gateway."""

    config: Config
    name: str
    producer: RecordProducer
    supervisor: Supervisor
    sessions: dict[bytes, Session]
    metrics: Metrics


class PresenceService:
    """Writes and reads the presence topic. Starts at once."""

    def __init__(self, context: PresenceContext) -> None:
        self._config = context.config.presence
        self._gateway = (
            f"{context.name}.{secrets.token_hex(4)}"  # a name may come again, as after a container's restart
        )
        self._producer = context.producer
        self._sessions = context.sessions
        self._table = PresenceTable(self._config.lease_seconds)
        self._newer: PresenceTable | None = None  # what is being read, until it is complete
        self._written: dict[str, str] = {}  # sessions whose record is, or is being, written: id → subject
        self._dirty: set[str] = set()  # ids of sessions that have come or gone since
        self._timer: asyncio.TimerHandle | None = None
        self._watchers: dict[str, dict[Session, Connection]] = {}  # by subject
        self._watched: dict[Session, set[str]] = {}  # the same by session: a disconnection costs what it watched
        self._throttle = Throttle()
        self._clock: Callable[[], float] = time.monotonic
        self._records = context.metrics.presence_records
        self.rules = self._config.rules
        self._closing = False
        self.complete = False  # all is read that was there at the start
        self._tasks = Tasks()
        self._log_reader = PresenceLog(context.config, context.supervisor, self._on_read)
        self._tasks.spawn(self._beat())
        self._tasks.spawn(self._look())
        context.metrics.presence_sessions.set_function(lambda: len(self._table))
        context.metrics.presence_gateways.set_function(lambda: self._table.gateways)
        context.metrics.presence_ready.set_function(lambda: self.trouble is None)

    @property
    def trouble(self) -> str | None:
        """Why presence is not known, for operators; None: it is."""
        if not self.complete:
            return f"topic {self._config.topic} has not been read yet"
        if self._table.dropped:
            return f"not all sessions are known: there are too many ({len(self._table)} are)"
        return None

    # --- this gateway's sessions ---------------------------------------------------------------------------------

    def changed(self, session: Session) -> None:
        """Hear that a session has connected here, or its client has gone."""
        self._stop_watching(
            session, frozenset(self._watched.get(session, ()))
        )  # what watched was the former connection
        self._dirty.add(session.id)
        self._write_soon(self._config.coalesce_seconds)

    def _write_soon(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._write)

    def _write(self) -> None:
        """Write what is another than the records say."""
        self._timer = None
        dirty, self._dirty = self._dirty, set()
        for name in dirty:
            session = self._sessions.get(name.encode())
            here = session is not None and session.connection is not None and not self._closing
            subject = session.subject if here and session is not None else None
            if self._written.get(name) == subject:
                continue
            if subject is None:
                del self._written[name]
                value = None
            else:
                self._written[name] = subject
                value = encode_entry(Entry(subject, name, self._gateway, round(time.time(), 3)))
            self._records.inc()
            key = session_key(self._gateway, name)
            self._producer.send(
                self._config.topic, value, key=key, headers=[], callback=self._on_delivery, context=name
            )

    def _on_delivery(self, outcomes: list[tuple[str, RecordMetadata | DeliveryError]]) -> None:
        for name, outcome in outcomes:
            if isinstance(outcome, DeliveryError):
                self._throttle.log(_log, logging.WARNING, f"presence is written again: {outcome}")
                self._write_again(name, _RETRY)

    def _write_again(self, name: str, seconds: float) -> None:
        """Write a session's record, or its tombstone, soon: what the topic says of it is not known."""
        self._written[name] = _UNKNOWN
        self._dirty.add(name)
        self._write_soon(seconds)

    async def _beat(self) -> None:
        """Say that this gateway lives."""
        key = gateway_key(self._gateway)
        while True:
            await self._put(key, b"{}")
            await asyncio.sleep(self._config.heartbeat_seconds)

    async def _put(self, key: bytes, value: bytes | None) -> None:
        try:
            await self._producer.write(self._config.topic, value, key=key, headers=[])
        except DeliveryError as error:
            self._throttle.log(_log, logging.WARNING, f"the heartbeat of presence was not written: {error}")

    # --- the fleet's ---------------------------------------------------------------------------------------------

    def _on_read(self, records: list[Record], anew: bool, complete: bool) -> None:
        now = self._clock()
        changes: list[PresenceChange] = []
        if anew:  # until all is read nobody hears of anything: most sessions are where they were
            self._newer = PresenceTable(self._config.lease_seconds)
            for name in self._written:  # the topic may be another one
                self._write_again(name, self._config.coalesce_seconds)
        own = session_key(self._gateway, "")
        table = self._table if self._newer is None else self._newer
        for record in records:
            try:
                changes += table.apply(record, now)
            except (ValueError, msgspec.DecodeError, RecursionError) as error:
                self._throttle.log(_log, logging.WARNING, f"a record of presence can't be read: {error}")
            if record.value is None and record.key is not None and record.key.startswith(own):
                name = record.key.removeprefix(own).decode()
                if name in self._written:  # this gateway was taken for dead
                    self._write_again(name, self._config.coalesce_seconds)
        self.complete = complete
        if self._newer is None:
            self._tell(changes)
        elif complete:
            former, self._table, self._newer = self._table, self._newer, None
            self._tell(former.changes_to(self._table))

    async def _look(self) -> None:
        """Notice gateways that died, and remove what they left."""
        while True:
            await asyncio.sleep(_CHECK)
            if not self.complete:
                continue
            now = self._clock()
            self._tell(self._table.expire(now))
            if self._table.has_room_again:
                self.topic_replaced()
                continue
            if self._table.first_gateway != self._gateway:
                continue  # one is enough
            for key in self._table.forgotten(now):
                self._producer.send(self._config.topic, None, key=key, headers=[], callback=_ignore)

    def sessions(self, subject: str) -> list[Entry]:
        """Return the sessions of a subject that are connected, wherever."""
        return self._table.sessions(subject)

    def watch(self, session: Session, connection: Connection, subject: str) -> bool:
        """Send a connection what changes about a subject from now on. Return False if it watches as many as it may."""
        watched = self._watched.get(session, set())
        if len(watched) >= self._config.watches and subject not in watched:
            return False
        self._watched.setdefault(session, watched).add(subject)
        self._watchers.setdefault(subject, {})[session] = connection
        return True

    def unwatch(self, session: Session, subject: str) -> None:
        """Send no more changes about a subject."""
        watchers = self._watchers.get(subject)
        if watchers is not None:
            watchers.pop(session, None)
            if not watchers:
                del self._watchers[subject]
        watched = self._watched.get(session, set())
        watched.discard(subject)
        if not watched:
            self._watched.pop(session, None)

    def _stop_watching(self, session: Session, subjects: Iterable[str]) -> None:
        for subject in subjects:
            self.unwatch(session, subject)

    def set_access(self, session: Session, claims: Mapping[str, Any]) -> None:
        """Set whom the session's token, or a newer one, may see; it watches no other any more."""
        seen = session.sees = visible_subjects(self._config.rules, claims)
        watched = self._watched.get(session, ())
        self._stop_watching(session, [one for one in watched if seen is None or seen.match(one) is None])

    def _tell(self, changes: list[PresenceChange]) -> None:
        for kind, subject, name in changes:
            watchers = self._watchers.get(subject)
            if not watchers:
                continue
            notice = control_event(kind, event(kind, subject=subject, session=name))
            for session, connection in list(watchers.items()):
                if session.connection is connection:
                    session.send(notice)
                else:
                    self.unwatch(session, subject)

    def topic_replaced(self) -> None:
        """Read anew: the topic was deleted and made again, or has room for what was dropped."""
        self.complete = False
        self._log_reader.restart()

    async def close(self) -> None:
        """Say that this gateway and its sessions are gone, also those whose clients did not answer, and stop."""
        self._closing = True
        self._dirty |= self._written.keys()
        await self._tasks.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._write()
        await self._put(gateway_key(self._gateway), None)
        await self._log_reader.close()


def _ignore(_: object) -> None:
    """Take the outcome of a tombstone that is written again if it is still needed."""
