"""Ends queued requests that nobody will answer any more: their record, or their answer, is gone from Kafka.

A topic may be deleted and made again, or cut, while requests are open: then a request's record is not there any more, or its
answer was there and nobody has read it. Whoever waits for such a request would wait for ever.

Invariant: a request is ended here only where its record is in no log, or where the group has committed it, so that its answer
is acknowledged, and all that can be read of its session's results holds no answer.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from confluent_kafka import KafkaException

from podpair.gateway.config.model import Config
from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import ERROR, RESULT
from podpair.gateway.kafka.group_progress import GroupProgress
from podpair.gateway.kafka.history import History
from podpair.gateway.kafka.requests_log import places_of
from podpair.gateway.logs import Throttle, ids
from podpair.gateway.sessions.fanout import FanOut
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_EVERY = 5.0  # seconds between looks, and the age at which an open request is looked after
_UNSETTLED = 30.0  # seconds after a change of the requests topic in which old commits may be about
_RETRY = 1.0  # seconds before the requests topic is read again

_RECORD = Fault(Code.LOST, "the request's record was deleted from Kafka before it was answered: ask again")
_ANSWER = Fault(Code.LOST, "the request was answered, but its answer is gone from Kafka: ask again")


class _Open(NamedTuple):
    session: Session
    id: str
    request: OpenRequest

    @property
    def still(self) -> bool:
        return self.session.ledger.get(self.id) is self.request and self.request.route == "queue"


class LostRequests:
    """Looks after queued requests that are open for a while. `fail(session, id, fault)` ends one.

    width: how many partitions the requests topic has; 0 where there is none.
    """

    def __init__(
        self,
        config: Config,
        sessions: dict[bytes, Session],
        fanout: FanOut,
        history: History,
        progress: GroupProgress,
        width: Callable[[], int],
        fail: Callable[[Session, str, Fault], object],
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._fanout = fanout
        self._history = history
        self._progress = progress
        self._width = width
        self._fail = fail
        self._old: set[int] = set()  # open requests that were so at the last look, by identity
        self._missing: dict[int, float] = {}  # those whose record is gone, by identity: since when
        self._unsettled_until = 0.0
        self._told = Throttle()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self._look()
            except KafkaException as error:
                _log.info("open requests can't be looked after: %s", error.args[0].str())
            except Exception:
                _log.exception("looking after open requests failed")

    def _queued(self) -> Iterator[_Open]:
        """Open requests of sessions that are here whose record's place is known."""
        for session in self._sessions.values():
            if session.ledger.opened:
                for request_id, request in session.ledger.opened.items():
                    if request.partition is not None and request.route == "queue":
                        yield _Open(session, request_id, request)

    async def _look(self) -> None:
        found = list(self._queued())
        before, self._old = self._old, {id(one.request) for one in found}
        old = [one for one in found if id(one.request) in before]
        if not old or time.monotonic() < self._unsettled_until:
            return
        width = self._width()  # one that was made again may have fewer partitions
        progress = await self._progress.progress({one.request.partition or 0 for one in old})
        now, missing, answered = time.monotonic(), {}, []
        for one in old:
            partition = one.request.partition or 0
            place = progress.get(partition)
            if not one.still or (place is None and (partition < width or not width)):
                continue
            if place is not None and place.has_finished(one.request.offset):
                answered.append(one)
            elif place is None or not place.holds(one.request.offset):
                # A worker may have it in hand, for as long as the model may take.
                since = missing[id(one.request)] = self._missing.get(id(one.request), now)
                if now - since >= self._config.inference.timeout_seconds:
                    self._end(one, _RECORD)
        self._missing = missing
        await self._end_unanswered(answered, _ANSWER)

    async def requests_changed(self) -> None:
        """The requests topic is another one: end what is not in it, and learn where the others are."""
        self._unsettled_until = time.monotonic() + _UNSETTLED
        found = {(one.session.id, one.id): one for one in self._queued()}
        placed = False
        while found:
            try:
                if not placed:
                    for name, place in (await places_of(self._config, found)).items():
                        one = found.pop(name)
                        one.request.partition, one.request.offset = place
                    placed = True
                await self._end_unanswered(found.values(), _RECORD)
            except KafkaException as error:
                _log.warning("what is lost with the requests topic can't be told yet: %s", error.args[0].str())
                await asyncio.sleep(_RETRY)
            else:
                return

    async def _end_unanswered(self, requests: Iterable[_Open], fault: Fault) -> None:
        """End those that have no answer in all that there is of their session's results."""
        by_home: dict[int, list[_Open]] = defaultdict(list)
        for one in requests:
            by_home[one.session.home].append(one)
        failed: KafkaException | None = None
        for home, mine in by_home.items():
            try:
                end = await self._progress.readable_end(home)
                if end is not None:
                    await asyncio.gather(*(self._end_if_unanswered(one, home, end, fault) for one in mine))
            except KafkaException as error:  # one that can't be read holds up no other
                failed = error
        if failed is not None:
            raise failed

    async def _end_if_unanswered(self, one: _Open, home: int, end: int, fault: Fault) -> None:
        session, moves = one.session, one.session.moves
        tail = self._fanout.tails.get(home)
        # A client that has to catch up has records before that to come.
        if tail is None or session.home != home or (session.connection is not None and not session.live):
            return
        # One that has left may not have been up to date.
        start = tail.end if session.live or session.seen < 0 else min(tail.end, session.seen + 1)
        while start < end:
            chunk = await self._history.read(home, session.key, start, end)
            for record in chunk.records:
                headers = dict(record.headers() or ())
                if headers.get("ce_id") == one.id.encode() and headers.get("ce_type") in (RESULT, ERROR):
                    return  # it is on its way
            start = chunk.end
        if one.still and session.moves == moves:
            self._end(one, fault)

    def _end(self, one: _Open, fault: Fault) -> None:
        self._told.log(_log, logging.WARNING, "%s", fault.message, extra=ids(session=one.session.id, request=one.id))
        self._fail(one.session, one.id, fault)

    async def close(self) -> None:
        """Stop looking."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
