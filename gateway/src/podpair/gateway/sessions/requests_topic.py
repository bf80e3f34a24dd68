"""Reports to clients that queued requests may be lost of which only a gateway knew that is gone.

The gateway that accepted a request checks it (`lost_requests`) for as long as it lives. If that gateway is gone, and the record
was lost with a deleted topic or a truncated log, only the client knows of the request.

Invariant: the epoch of the requests topic changes once records are lost that nobody had read. Each gateway derives it from Kafka
alone (the topic's id, and truncations recorded in the group's commits), each resume token holds the last epoch that its client
knows, and no client continues under another one without a `gap`. The token of the new epoch comes with the gap itself: a client
gets both or neither.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from podpair.gateway.core.protocol import event
from podpair.gateway.core.records import control_event
from podpair.gateway.kafka.checks import Check
from podpair.gateway.kafka.group_progress import Progress
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.lost_requests import RequestsLookup
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_EVERY = 5.0  # seconds between checks of the logs' starts and the group's commits
_SPACING = 1.0  # seconds between checks, at least
_PATIENCE = 5.0  # seconds that a client waits for the first check
REASON = "requests"


class RequestsReader(Protocol):
    """The worker, as far as it knows what was read of the requests topic."""

    @property
    def skips(self) -> Mapping[int, Collection[int]]:
        """By partition, the offsets that should have come and did not, if why is not known yet."""
        ...

    def on_log_truncated(self, log_starts: Mapping[int, int], skips: Mapping[int, Collection[int]]) -> bool:
        """Take note of where logs begin, which explains the skips. Returns whether that is a loss which was not known."""
        ...


class RequestsTopic:
    """Follows the requests topic.

    incarnation: identifies the present topic; empty if brokers have no topic ids. lookup: None if logs are never truncated
    (the embedded broker). mint: returns a session's resume token.
    """

    def __init__(
        self,
        sessions: Mapping[bytes, Session],
        worker: RequestsReader,
        lookup: RequestsLookup | None,
        incarnation: str,
        mint: Callable[[Session], str],
        metrics: Metrics,
    ) -> None:
        self._sessions = sessions
        self._worker = worker
        self._lookup = lookup
        self._incarnation = incarnation
        self._mint = mint
        self._metrics = metrics
        self._cuts: dict[int, int] = {}  # by partition: where its log began when unread records were last truncated
        self._known = asyncio.Event()  # losses from before this gateway started are known
        self._check_now = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def epoch(self) -> str | None:
        """Identifies the topic and the losses in it; None until they are known."""
        return f"{self._incarnation}.{sum(self._cuts.values())}" if self._known.is_set() else None

    async def wait_known(self) -> None:
        """Wait until the epoch is known, but not for longer than some seconds."""
        if not self._known.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._known.wait()

    def changed(self, incarnation: str) -> None:
        """Declare a gap to all clients: the topic was replaced."""
        self._incarnation = incarnation
        self._cuts = {}
        self._known.set()
        self._note_gaps()
        if self._incarnation:
            self._send_gaps()
            return
        for session, connection in self._welcomed():  # without topic ids incarnations can not be distinguished
            self._send_gap(session, connection)

    def check_soon(self) -> None:
        """Check without delay: records were missing."""
        self._check_now.set()

    def begin(self, session: Session) -> None:
        """Give a session that is about to be welcomed the present epoch, if it has none."""
        if session.requests_epoch is None:
            session.requests_epoch = self.epoch

    def send_gap_if_changed(self, session: Session, connection: Connection) -> bool:
        """Declare a gap to a welcomed client whose epoch is outdated. Return whether it was."""
        known, now = session.requests_epoch, self.epoch
        if now is None or known == now:
            return False  # once the epoch is known, this is called again
        session.requests_epoch = now
        if known is not None:
            self._send_gap(session, connection)
        return known is not None

    def _send_gap(self, session: Session, connection: Connection) -> None:
        self._metrics.gaps.labels(REASON).inc()
        session.note_gap()
        payload = event("gap", reason=REASON, resume=self._mint(session))
        connection.send_unlogged((control_event("gap", payload),))

    def _welcomed(self) -> Iterator[tuple[Session, Connection]]:
        """Yield the sessions whose clients were welcomed; the others get the gap with their welcome."""
        for session in self._sessions.values():
            connection = session.connection
            if connection is not None and connection.welcomed and connection.open:
                yield session, connection

    def _note_gaps(self) -> None:
        """Note a gap in every session: a client that is elsewhere may get it there, and come back."""
        for session in self._sessions.values():
            session.note_gap()

    def _send_gaps(self) -> None:
        count = sum(self.send_gap_if_changed(session, connection) for session, connection in self._welcomed())
        if count:
            _log.warning("queued requests may be lost: %d clients get a gap", count)

    async def _run(self) -> None:
        topic = Check("the requests topic", _log)
        while True:
            self._check_now.clear()
            complete = await topic.attempt(self._check)
            await asyncio.sleep(_SPACING)
            if complete:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY - _SPACING):
                        await self._check_now.wait()

    async def _check(self) -> bool:
        """Find out what is lost. Return whether everything is known for now."""
        incarnation, lookup, skips = self._incarnation, self._lookup, self._worker.skips
        width = 0 if lookup is None else lookup.width()
        if lookup is None:
            self._worker.on_log_truncated(dict.fromkeys(skips, 0), skips)
        if lookup is None or not width:
            self._known.set()
            return True
        found = await lookup.progress.progress(range(width))
        if self._incarnation != incarnation:
            return False  # the progress was that of another topic
        more = self._worker.on_log_truncated({partition: place.low for partition, place in found.items()}, skips)
        before, complete = self.epoch, len(found) == width
        self._cuts |= {partition: _lost_before(place, incarnation) for partition, place in found.items()}
        if complete:
            self._known.set()
        if self.epoch != before:
            self._note_gaps()
            self._send_gaps()
        return complete and not more

    async def close(self) -> None:
        """Stop checking."""
        await cancel_task(self._task)


def _lost_before(place: Progress, incarnation: str) -> int:
    """Return the truncation of this topic that the group's commit records; 0: none."""
    return place.lost_before if place.incarnation in ("", incarnation) else 0
