"""Announces connections that take over a session, so that the gateway that had it before lets go of it.

Invariant: an announcement stands in the session's home partition, behind the offset from which the gateway of its connection
reads: whoever holds the session reads it, wherever that is.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from podpair.gateway.core import records
from podpair.gateway.core.takeovers import Hold, Stamp, Stamps
from podpair.gateway.kafka.producer import NotWritten, RecordProducer, Written
from podpair.gateway.logs import ids
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_BACKOFF = 0.5  # seconds before an announcement that was not acknowledged is written again

_About = tuple[Session, Connection]


class Takeovers:
    """Writes announcements to the results topic. `source`: this gateway's name."""

    def __init__(self, producer: RecordProducer, topic: str, source: str) -> None:
        self._producer = producer
        self._topic = topic
        self._source = source
        self._stamps = Stamps(time.time)

    def hold(self, after: Stamp = Stamp(), *, shared: bool) -> Hold:  # noqa: B008 - it is immutable
        """That of a connection which a client asks for now; `after`: the one whose resume token it brings.

        To be taken before the client is answered: one that goes elsewhere after the answer has a later stamp there.
        """
        return Hold(self._stamps.next(after), shared)

    def announce(self, session: Session, connection: Connection) -> None:
        """Tell that the connection, which has been welcomed, has the session, if others may think that they do."""
        if session.connection is connection and session.hold.shared:
            session.hold.announced = True
            self._write((session, connection))

    def announce_again(self, sessions: Iterable[Session]) -> None:
        """The results topic has changed: what stands in it may have been lost, or be in another partition than is read."""
        for session in sessions:
            if session.connection is not None and session.hold.announced:
                self._write((session, session.connection))

    def _write(self, about: _About) -> None:
        session, connection = about
        if session.connection is not connection or not connection.open:
            return
        headers = records.takeover_headers(
            connection=str(session.hold.stamp), session=session.id, source=self._source, now=time.time()
        )
        self._producer.send(
            self._topic, b"", key=session.key, headers=headers, partition=session.home, told=self._told, context=about
        )

    def _told(self, told: list[tuple[_About, Written | NotWritten]]) -> None:
        for about, outcome in told:
            session, connection = about
            if isinstance(outcome, NotWritten) and session.connection is connection:
                _log.warning("a takeover is announced again: %s", outcome, extra=ids(session=session.id))
                asyncio.get_running_loop().call_later(_BACKOFF, self._write, about)
