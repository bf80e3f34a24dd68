"""Ends queued requests that will never be answered: their record, or their result, is gone from Kafka.

A topic may be deleted and created again, or truncated, while requests are open: then a request's record is gone, or its result
was deleted before it was read. The client would wait forever.

Invariant: a request is ended here only if its record is in no log, or if the group has committed it (so that its result was
acknowledged) and nothing that can be read of its session's results contains the result. A workflow is committed when it begins,
and a request that is to begin later when it is kept, and their state is on a topic of its own: such a one is ended here only if
its record is gone, and nothing there says that it goes on.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from confluent_kafka import KafkaException

from podpair.common.gateway_config.model import Config
from podpair.common.logs import Throttle, ids
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import ended_by
from podpair.gateway.kafka.checks import Check
from podpair.gateway.kafka.group_progress import GroupProgress
from podpair.gateway.kafka.log_reader import LogReader
from podpair.gateway.kafka.requests_log import places_of
from podpair.gateway.sessions.fanout import FanOut
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_EVERY = 5.0  # seconds between checks, and the age from which an open request is checked
_UNSETTLED = 30.0  # seconds after a change of the requests topic in which old commits may still arrive
_RETRY = 1.0  # seconds before the requests topic is read again

_RECORD = Fault(Code.LOST, "the request's record was deleted from Kafka before it was answered: ask again")
_ANSWER = Fault(Code.LOST, "the request was answered, but its result is gone from Kafka: ask again")


class _Open(NamedTuple):
    session: Session
    id: str
    request: OpenRequest

    @property
    def still_open(self) -> bool:
        return self.session.ledger.get(self.id) is self.request and self.request.route == "queue"


@dataclass(frozen=True, slots=True)
class RequestsLookup:
    """How a request's record is looked for."""

    log_reader: LogReader
    progress: GroupProgress
    width: Callable[[], int]
    """Returns the number of partitions of the requests topic; 0 if there is none."""
    runs_on: Callable[[str], Awaitable[bool]] | None = None
    """Returns whether a model is, or may be, a workflow: its requests are committed when they begin. None: none is."""
    going_on: Callable[[Collection[tuple[str, str]]], Awaitable[set[tuple[str, str]]]] | None = None
    """Returns those of requests (session, id) that are workflows which have begun and go on. None: there are none."""


class LostRequests:
    """Checks queued requests that have been open for a while. fail: called with session, id and fault to end one."""

    def __init__(
        self,
        config: Config,
        sessions: dict[bytes, Session],
        fanout: FanOut,
        kafka: RequestsLookup,
        fail: Callable[[Session, str, Fault], object],
    ) -> None:
        self._config = config
        # How long the slowest model may take, in seconds.
        self._longest = max(config.inference.timeout_seconds, *config.inference.timeouts().values(), 0.0)
        self._sessions = sessions
        self._fanout = fanout
        self._log_reader = kafka.log_reader
        self._progress = kafka.progress
        self._width = kafka.width
        self._runs_on = kafka.runs_on
        self._going_on = kafka.going_on
        self._fail = fail
        self._old: set[int] = set()  # open requests at the last check, by identity
        self._missing: dict[int, float] = {}  # those whose record is gone, by identity, and since when
        self._unplaced: set[int] = set()  # those that are not in a topic that was made anew, by identity
        self._unsettled_until = 0.0
        self._log_throttle = Throttle()
        self._task = asyncio.create_task(Check("open requests", _log).every(_EVERY, self._check, first=_EVERY))

    def _queued(self) -> Iterator[_Open]:
        """Yield the open requests of sessions that are here whose record's place is known."""
        for session in self._sessions.values():
            if session.ledger.opened:
                for request_id, request in session.ledger.opened.items():
                    if request.partition is not None and request.route == "queue":
                        yield _Open(session, request_id, request)

    async def _check(self) -> None:
        found = list(self._queued())
        before, self._old = self._old, {id(lost.request) for lost in found}
        old = [lost for lost in found if id(lost.request) in before]
        if not old or time.monotonic() < self._unsettled_until:
            return
        width = self._width()  # a topic that was created again may have fewer partitions
        progress = await self._progress.progress({lost.request.partition or 0 for lost in old})
        now, missing, answered, gone = time.monotonic(), {}, [], []
        for lost in old:
            partition = lost.request.partition or 0
            place = progress.get(partition)
            if not lost.still_open or (place is None and (partition < width or not width)):
                continue
            unplaced = id(lost.request) in self._unplaced
            if place is not None and not unplaced and place.has_finished(lost.request.offset):
                answered.append(lost)
            elif place is None or unplaced or not place.holds(lost.request.offset):
                # A worker may be processing it, for as long as the model may take.
                since = missing[id(lost.request)] = self._missing.get(id(lost.request), now)
                if now - since >= self._longest:
                    gone.append(lost)
        self._missing = missing
        self._unplaced &= self._old
        await self._end_unanswered(answered, _ANSWER)
        await self._end_gone(gone, now)

    async def _end_gone(self, requests: Sequence[_Open], now: float) -> None:
        """End requests whose record no worker can have any more, but for workflows that go on: those are looked at later."""
        if self._going_on is None or not requests:
            for lost in requests:
                self._end(lost, _RECORD)
            return
        going_on = await self._going_on([(lost.session.id, lost.id) for lost in requests])
        for lost in requests:
            if (lost.session.id, lost.id) in going_on:
                self._missing[id(lost.request)] = now
        rest = [lost for lost in requests if (lost.session.id, lost.id) not in going_on]
        await self._end_unanswered(rest, _RECORD, workflows=True)  # one that has ended may have its result there

    async def requests_changed(self) -> None:
        """End requests that are not in the new requests topic, and find out where the others are."""
        self._unsettled_until = time.monotonic() + _UNSETTLED
        found = {(lost.session.id, lost.id): lost for lost in self._queued()}
        placed = False
        while found:
            try:
                if not placed:
                    for name, place in (await places_of(self._config, found)).items():
                        lost = found.pop(name)
                        lost.request.partition, lost.request.offset = place
                    placed = True
                    self._unplaced = {id(lost.request) for lost in found.values()}
                await self._end_unanswered(found.values(), _RECORD)
            except KafkaException as error:
                _log.warning("lost requests can't be determined yet: %s", error.args[0].str())
                await asyncio.sleep(_RETRY)
            else:
                return

    async def _end_unanswered(self, requests: Iterable[_Open], fault: Fault, *, workflows: bool = False) -> None:
        """End those of the requests that have no result in their session's readable results. workflows: those, too."""
        by_home: dict[int, list[_Open]] = defaultdict(list)
        for lost in requests:
            if workflows or not await self._is_committed_early(lost.request):
                by_home[lost.session.home].append(lost)
        failed: KafkaException | None = None
        for home, requests_there in by_home.items():
            try:
                end = await self._progress.readable_end(home)
                if end is not None:
                    await asyncio.gather(*(self._end_if_unanswered(lost, home, end, fault) for lost in requests_there))
            except KafkaException as error:  # the other partitions are checked all the same
                failed = error
        if failed is not None:
            raise failed

    async def _is_committed_early(self, request: OpenRequest) -> bool:
        """Return whether its record is done with before it is answered: that of a workflow, or of one that is to begin later."""
        return request.later or (self._runs_on is not None and await self._runs_on(request.model))

    async def _end_if_unanswered(self, lost: _Open, home: int, end: int, fault: Fault) -> None:
        session, moves = lost.session, lost.session.moves
        tail = self._fanout.tails.get(home)
        # A client that has to catch up may still get the result.
        if tail is None or session.home != home or (session.connection is not None and not session.live):
            return
        # A client that has left may not have been up to date.
        start = tail.end if session.live or session.seen < 0 else min(tail.end, session.seen + 1)
        while start < end:
            log_slice = await self._log_reader.read(home, session.key, start, end)
            for _, value, headers in log_slice.records:
                if ended_by(value, headers) == lost.id:
                    return  # it will be delivered
            start = log_slice.end
        if lost.still_open and session.moves == moves:
            self._end(lost, fault)

    def _end(self, lost: _Open, fault: Fault) -> None:
        self._log_throttle.log(
            _log, logging.WARNING, "%s", fault.message, extra=ids(session=lost.session.id, request=lost.id)
        )
        self._fail(lost.session, lost.id, fault)

    async def close(self) -> None:
        """Stop checking."""
        await cancel_task(self._task)
