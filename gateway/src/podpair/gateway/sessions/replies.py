"""Sends events that did not come through Kafka to clients that may be gone.

Invariant: a terminal event that its client did not get is written to the results topic, so it is found wherever the session
resumes. A failure of one session does not affect the others.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from podpair.common.logs import ids
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.records import Event, Kind, accepted_event
from podpair.gateway.core.routing import Route
from podpair.gateway.metrics import Metrics
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.sessions.registry import Registry
from podpair.gateway.sessions.row_request import RowRequest
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_ANNOUNCE = 0.05  # seconds that the `accepted` of a direct request may wait for its result

Accepted = tuple[Session, str, OpenRequest]
"""A request, by its session and id, whose `accepted` is due."""


class Replies:
    """Sends events, and writes those to Kafka that can't be sent. tasks: run the writes."""

    def __init__(self, results: ResultWriter, registry: Registry, tasks: Tasks, metrics: Metrics) -> None:
        self._results = results
        self._registry = registry
        self._tasks = tasks
        self._requests = metrics.requests
        self._due: list[Accepted] = []  # direct requests
        self._due_rows: list[Sequence[RowRequest]] = []  # … as they were begun together

    def send(self, session: Session, events: Sequence[Event]) -> None:
        """Send events in one write."""
        try:
            sent = session.send_all(events)
        except Exception:
            # Whatever failed concerns this session only.
            _log.exception("sending failed", extra=ids(session=session.id))
            session.end(CloseCode.INTERNAL, "internal error: resume")
            sent = False
        if not sent:
            self.on_undelivered(session, [event for event in events if event.kind is Kind.TERMINAL])
            self._registry.evict_if_idle(session)

    def send_frames(self, session: Session, frames: bytes) -> bool:
        """Write text frames at once. Return False if that can't be: `send` has to be called with their events."""
        try:
            return session.send_frames(frames)
        except Exception:
            _log.exception("sending failed", extra=ids(session=session.id))
            session.end(CloseCode.INTERNAL, "internal error: resume")
            return False

    def accept(self, accepted: Iterable[Accepted], route: Route) -> None:
        """Send `accepted` for these requests: one write per session."""
        events: dict[Session, list[Event]] = {}
        for session, request_id, request in accepted:
            request.accepted = True
            events.setdefault(session, []).append(accepted_event(request_id, route))
        self._requests.labels(route).inc(sum(map(len, events.values())))
        for session, due_events in events.items():
            self.send(session, due_events)

    def accept_soon(self, session: Session, request_id: str, request: OpenRequest) -> None:
        """Send a direct request's `accepted` together with its result if that comes soon: one write instead of two."""
        self._schedule()
        self._due.append((session, request_id, request))

    def accept_rows_soon(self, requests: Sequence[RowRequest]) -> None:
        """Send what `accept_soon` sends, for requests that were begun together."""
        self._schedule()
        self._due_rows.append(requests)

    def _schedule(self) -> None:
        if not self._due and not self._due_rows:
            asyncio.get_running_loop().call_later(_ANNOUNCE, self._accept_due)

    def _accept_due(self) -> None:
        due, self._due = self._due, []
        rows, self._due_rows = self._due_rows, []
        for requests in rows:
            due += [(request.session, request.id, request) for request in requests if not request.done]
        open_still = [
            (session, request_id, request)
            for session, request_id, request in due
            if not request.accepted and session.ledger.get(request_id) is request and request.route == "direct"
        ]
        self.accept(open_still, "direct")

    def on_undelivered(self, session: Session, undelivered: list[Event]) -> None:
        """Write the results of a client that is gone to Kafka."""
        for terminal in undelivered:
            if terminal.id is not None:
                session.ledger.on_answer_logged(terminal.id)
            self._tasks.spawn(self._results.write_event(session.id, terminal))
