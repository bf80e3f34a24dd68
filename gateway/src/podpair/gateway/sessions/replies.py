"""Events that did not come through Kafka, on their way to clients that may be gone.

Invariant: a terminal event that its client did not get is written to the results topic, so it is found wherever the session
resumes. What fails for one session keeps nothing back from the others.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.records import Event, Kind, accepted_event
from podpair.gateway.core.routing import Route
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.registry import Registry
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks
from podpair.gateway.worker.answers import AnswerWriter

_log = logging.getLogger(__name__)
_ANNOUNCE = 0.05  # seconds that the `accepted` of a direct request may wait for its answer

Accepted = tuple[Session, str, OpenRequest]
"""A request, by its session and id, whose `accepted` is due."""


class Replies:
    """Sends, and keeps in Kafka what can't be sent. tasks: where it writes."""

    def __init__(self, answers: AnswerWriter, registry: Registry, tasks: Tasks, metrics: Metrics) -> None:
        self._answers = answers
        self._registry = registry
        self._tasks = tasks
        self._requests = metrics.requests
        self._due: list[Accepted] = []  # direct requests
        registry.on_unsent = self._on_unsent

    def send(self, session: Session, events: Sequence[Event]) -> None:
        """Send them in one write."""
        try:
            sent = session.send_all(events)
        except Exception:
            # Whatever it is, it is this session's.
            _log.exception("sending failed", extra=ids(session=session.id))
            session.end(CloseCode.INTERNAL, "internal error: resume")
            sent = False
        if not sent:
            self._on_unsent(session, [event for event in events if event.kind is Kind.TERMINAL])
            self._registry.forget_if_done(session)

    def accept(self, accepted: Iterable[Accepted], route: Route) -> None:
        """Say that these requests are accepted: one write a session."""
        events: dict[Session, list[Event]] = {}
        for session, request_id, request in accepted:
            request.accepted = True
            events.setdefault(session, []).append(accepted_event(request_id, route))
        self._requests.labels(route).inc(sum(map(len, events.values())))
        for session, mine in events.items():
            self.send(session, mine)

    def accept_soon(self, session: Session, request_id: str, request: OpenRequest) -> None:
        """A direct request's `accepted` goes out with its answer where that comes at once: one write instead of two."""
        if not self._due:
            asyncio.get_running_loop().call_later(_ANNOUNCE, self._accept_due)
        self._due.append((session, request_id, request))

    def _accept_due(self) -> None:
        due, self._due = self._due, []
        open_still = [
            (session, request_id, request)
            for session, request_id, request in due
            if not request.accepted and session.ledger.get(request_id) is request and request.route == "direct"
        ]
        self.accept(open_still, "direct")

    def _on_unsent(self, session: Session, unsent: list[Event]) -> None:
        """The client is gone: its answers wait in Kafka."""
        for terminal in unsent:
            if terminal.id is not None:
                session.ledger.to_be_logged(terminal.id)
            self._tasks.begin(self._answers.event(session.id, terminal))
