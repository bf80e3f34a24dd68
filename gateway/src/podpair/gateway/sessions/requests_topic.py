"""Tells clients when queued requests may be lost that only a gateway knows of which is not there any more.

The gateway that accepted a request looks after it (`lost_requests`) for as long as it lives. Where it is gone, and the record
went with a topic that was deleted, or with a cut of its log, nobody else knows that there was a request: only its client.

Invariant: the epoch of the requests topic is another one once records are lost that nobody had read. Each gateway learns it
from Kafka alone (the topic's id, and what the group's commits tell of cuts), each resume token has the one that its client
was told of last, and no client goes on under another one without a `gap`. The token of the new epoch comes with the gap itself:
who does not get the one has not got the other.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping

from confluent_kafka import KafkaException

from podpair.gateway.core.protocol import event
from podpair.gateway.core.records import control_event
from podpair.gateway.kafka.group_progress import GroupProgress, Progress
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session
from podpair.gateway.worker.worker import Worker

_log = logging.getLogger(__name__)
_EVERY = 5.0  # seconds between looks at the logs' starts and the group's commits
_SPACING = 1.0  # seconds between looks, at least
_PATIENCE = 5.0  # seconds that a client waits for the first one
REASON = "requests"


class RequestsTopic:
    """Follows the requests topic. `width` says how many partitions it has, 0 where there is none.

    incarnation: names the topic that there is; empty where brokers have no topic ids. progress: None where there are no cuts
    (the embedded broker). mint: makes a session's resume token.
    """

    def __init__(
        self,
        sessions: Mapping[bytes, Session],
        worker: Worker,
        progress: GroupProgress | None,
        width: Callable[[], int],
        incarnation: str,
        mint: Callable[[Session], str],
        metrics: Metrics,
    ) -> None:
        self._sessions = sessions
        self._worker = worker
        self._progress = progress
        self._width = width
        self._incarnation = incarnation
        self._mint = mint
        self._metrics = metrics
        self._cuts: dict[int, int] = {}  # by partition: where its log began when it was last cut over unread records
        self._known = asyncio.Event()  # what was lost before this gateway began
        self._now = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def epoch(self) -> str | None:
        """Names the topic, as far as nothing is lost in it; None until it is known."""
        return f"{self._incarnation}.{sum(self._cuts.values())}" if self._known.is_set() else None

    async def known(self) -> None:
        """Return when the epoch is known, or can't be learnt for now."""
        if not self._known.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._known.wait()

    def changed(self, incarnation: str) -> None:
        """The topic is another one."""
        self._incarnation = incarnation
        self._cuts = {}
        self._known.set()
        if self._incarnation:
            self._tell_all()
            return
        for session, connection in self._there():  # nothing tells one incarnation from another
            self._tell(session, connection)

    def look_soon(self) -> None:
        """Something was not there to be read."""
        self._now.set()

    def begin(self, session: Session) -> None:
        """A session is about to be welcomed: one that has not been told of an epoch begins with the present one."""
        if session.requests_epoch is None:
            session.requests_epoch = self.epoch

    def bring_up_to_date(self, session: Session, connection: Connection) -> bool:
        """Declare a gap to a client that was welcomed where the epoch is not what it was told of; whether it was not."""
        told, now = session.requests_epoch, self.epoch
        if now is None or told == now:
            return False  # or it is told when that is known
        session.requests_epoch = now
        if told is not None:
            self._tell(session, connection)
        return told is not None

    def _tell(self, session: Session, connection: Connection) -> None:
        self._metrics.gaps.labels(REASON).inc()
        payload = event("gap", reason=REASON, resume=self._mint(session))
        connection.send_unlogged((control_event("gap", payload),))

    def _there(self) -> Iterator[tuple[Session, Connection]]:
        """Those that were welcomed; the others are told then."""
        for session in self._sessions.values():
            connection = session.connection
            if connection is not None and connection.welcomed and connection.open:
                yield session, connection

    def _tell_all(self) -> None:
        count = sum(self.bring_up_to_date(session, connection) for session, connection in self._there())
        if count:
            _log.warning("queued requests may be lost: %d clients are told", count)

    async def _run(self) -> None:
        skips: dict[int, int] = {}
        while True:
            self._now.clear()
            skips = self._worker.skips() | skips  # those of a look that failed are older
            complete = False
            try:
                complete = await self._look(skips)
                skips = {}
            except KafkaException as error:
                _log.info("the requests topic can't be looked at: %s", error.args[0].str())
            except Exception:
                _log.exception("looking at the requests topic failed")
            await asyncio.sleep(_SPACING)
            if complete:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY - _SPACING):
                        await self._now.wait()

    async def _look(self, skips: Mapping[int, int]) -> bool:
        """Learn what is lost; returns whether that is all, for some seconds."""
        incarnation, width = self._incarnation, self._width()
        if self._progress is None or not width:
            self._known.set()
            return True
        found = await self._progress.progress(range(width))
        if self._incarnation != incarnation:
            return False  # it was another topic's
        news = self._worker.cut({partition: place.low for partition, place in found.items()}, skips)
        before, complete = self.epoch, len(found) == width
        self._cuts |= {partition: _lost_before(place, incarnation) for partition, place in found.items()}
        if complete:
            self._known.set()
        if self.epoch != before:
            self._tell_all()
        return complete and not news

    async def close(self) -> None:
        """Stop looking."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _lost_before(place: Progress, incarnation: str) -> int:
    """What the group's commit tells of a cut of this topic."""
    return place.lost_before if place.incarnation in ("", incarnation) else 0
