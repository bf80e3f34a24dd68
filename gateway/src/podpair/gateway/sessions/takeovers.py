"""Announces connections that take over a session, so that the gateway that had it before closes its connection.

Invariant: an announcement is in the session's home partition, behind the offset from which the gateway of its connection reads:
whichever gateway holds the session reads it.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from podpair.common.logs import ids
from podpair.gateway.core.record_headers import takeover_headers
from podpair.gateway.core.takeovers import Hold, Stamp, Stamps
from podpair.gateway.kafka.producer import DeliveryError, RecordMetadata, RecordProducer
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_BACKOFF = 0.5  # seconds before an announcement that was not acknowledged is written again

_Context = tuple[Session, Connection]


class Takeovers:
    """Writes announcements to the results topic. `source`: this gateway's name."""

    def __init__(self, producer: RecordProducer, topic: str, source: str) -> None:
        self._producer = producer
        self._topic = topic
        self._source = source
        self._stamps = Stamps(time.time)

    def hold(self, after: Stamp = Stamp(), *, shared: bool) -> Hold:  # noqa: B008 - it is immutable
        """Return the hold of a new connection. after: the stamp of the connection whose resume token the client brings.

        To be called before the client is answered: if it connects elsewhere after the answer, it gets a later stamp there.
        """
        return Hold(self._stamps.next(after), shared)

    def announce(self, session: Session, connection: Connection) -> None:
        """Announce that the connection, which was welcomed, has the session, if other gateways may have it too."""
        if session.connection is connection and session.hold.shared:
            session.hold.announced = True
            self._write((session, connection))

    def announce_again(self, sessions: Iterable[Session]) -> None:
        """Repeat announcements after a change of the results topic: they may be lost, or in a partition that is not read."""
        for session in sessions:
            if session.connection is not None and session.hold.announced:
                self._write((session, session.connection))

    def _write(self, context: _Context) -> None:
        session, connection = context
        if session.connection is not connection or not connection.open:
            return
        headers = takeover_headers(
            connection=str(session.hold.stamp), session=session.id, source=self._source, now=time.time()
        )
        self._producer.send(
            self._topic,
            b"",
            key=session.key,
            headers=headers,
            partition=session.home,
            callback=self._on_delivery,
            context=context,
        )

    def _on_delivery(self, outcomes: list[tuple[_Context, RecordMetadata | DeliveryError]]) -> None:
        for context, outcome in outcomes:
            session, connection = context
            if isinstance(outcome, DeliveryError) and session.connection is connection:
                _log.warning("announcing a takeover again: %s", outcome, extra=ids(session=session.id))
                asyncio.get_running_loop().call_later(_BACKOFF, self._write, context)
