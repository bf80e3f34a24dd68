"""Announces connections that take over a session, so that the gateway that had it before lets go of it.

Invariant: an announcement stands in the session's home partition, behind the offset from which the gateway of its connection
reads: whoever holds the session reads it, wherever that is.
"""

import asyncio
import logging
import time

from podpair.gateway.core import records
from podpair.gateway.kafka.producer import NotWritten, RecordProducer, Written
from podpair.gateway.logs import ids
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_BACKOFF = 0.5  # seconds before an announcement that was not acknowledged is written again

_About = tuple[Session, Connection, str]


class Takeovers:
    """Writes announcements to the results topic. `source`: this gateway's name."""

    def __init__(self, producer: RecordProducer, topic: str, source: str) -> None:
        self._producer = producer
        self._topic = topic
        self._source = source

    def announce(self, session: Session, connection: Connection) -> None:
        """The connection, with the session's `hold`, has the session from now on."""
        self._write((session, connection, session.hold.id))

    def _write(self, about: _About) -> None:
        session, connection, announcement = about
        if session.connection is not connection or not connection.open:
            return
        headers = records.takeover_headers(
            connection=announcement, session=session.id, source=self._source, now=time.time()
        )
        self._producer.send(
            self._topic, b"", key=session.key, headers=headers, partition=session.home, told=self._told, context=about
        )

    def _told(self, told: list[tuple[_About, Written | NotWritten]]) -> None:
        for about, outcome in told:
            session, connection, announcement = about
            if session.connection is not connection or session.hold.id != announcement:
                continue
            if isinstance(outcome, Written):
                if session.hold.saw(announcement, outcome.offset):
                    session.replaced()
            else:
                _log.warning("a takeover is announced again: %s", outcome, extra=ids(session=session.id))
                asyncio.get_running_loop().call_later(_BACKOFF, self._write, about)
