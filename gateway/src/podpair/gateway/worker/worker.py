"""Takes requests from Kafka, asks the model next door, and writes the answers to the results topic.

Invariant: a request's offset is committed only after its terminal record is acknowledged, or together with it (`ending`).
A request that was answered lately, and is read once more, is given the same answer: it does not run twice.
With `requests.ordering: session` the requests of a session are worked on one after the other, in the order of their partition.
A model that is not there costs no attempt: its partitions are paused, and what was in hand waits.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, cast

from confluent_kafka import Message

from podpair.gateway.config.model import Config
from podpair.gateway.core.dead_letters import dead_letter_of
from podpair.gateway.core.offsets import Commit, Committed, ContiguousOffsets
from podpair.gateway.core.pace import QUEUE, Paces
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.questions import question_of_body
from podpair.gateway.core.queue_time import AppendTimes, representative_wait
from podpair.gateway.core.records import Cancellation, Headers, InvalidRecord, Request, request_of_record
from podpair.gateway.core.remembered import Remembered
from podpair.gateway.kafka.member import GroupMember
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.kafka.supervisor import Supervisor
from podpair.gateway.logs import Throttle, ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.tracing import Tracer
from podpair.gateway.upstream.asking import Asking
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.worker.answers import AnswerWriter
from podpair.gateway.worker.attempting import Attempting
from podpair.gateway.worker.dead_letters import DeadLetters
from podpair.gateway.worker.ending import AtLeastOnce, ExactlyOnce
from podpair.gateway.worker.plain import Hand, PlainRequests, Running
from podpair.gateway.worker.taking_back import InHand, TakenBack

_log = logging.getLogger(__name__)
_COMMIT = 0.2  # seconds between commits
_GRACE = 3.0  # seconds that requests in hand may take to end when their partition goes away


class _Partition:
    """The requests of one partition that are worked on, for as long as it is this member's."""

    __slots__ = (
        "first", "gone", "last", "lost_before", "newest", "offsets", "plain", "served", "skipped", "tasks", "times",
    )  # fmt: skip

    def __init__(
        self,
        committed: Committed,
        incarnation: str,
        served: Callable[[set[asyncio.Task[None]], asyncio.Task[None]], None],
    ) -> None:
        self.offsets = ContiguousOffsets(committed.finished, incarnation, committed.lost_before)
        self.times = AppendTimes()
        self.tasks: set[asyncio.Task[None]] = set()
        self.plain: set[Hand] = set()  # those that have no task
        self.served = partial(served, self.tasks)
        self.newest: dict[bytes, asyncio.Task[None]] = {}  # by session, where their order is kept
        self.first = committed.offset  # where reading begins
        self.last = -1  # the offset that was received last
        self.lost_before = committed.lost_before
        self.skipped: int | None = None  # the first offset that should have come, and did not; it may be a marker's
        self.gone = False  # it is another member's: nothing of it may be committed here

    def in_hand(self) -> set[asyncio.Future[None]]:
        """What ends when nothing is in hand any more."""
        return {*self.tasks, *(hand.until_done() for hand in self.plain)}


class Worker:
    """The group member's mind; `kafka.requests` is its hands."""

    def __init__(
        self,
        config: Config,
        asking: Asking,
        readiness: Readiness,
        answers: AnswerWriter,
        dead_letters: DeadLetters,
        endings: AtLeastOnce | ExactlyOnce,
        paces: Paces,
        tracer: Tracer | None,
        metrics: Metrics,
        supervisor: Supervisor,
        incarnation: Callable[[], str] = str,
        skipped: Callable[[], object] = lambda: None,
    ) -> None:
        self._readiness = readiness
        self._answers = answers
        self._dead_letters = dead_letters
        self._endings = endings
        self._paces = paces
        self._tracer = tracer
        self._topic = config.requests.topic
        self._ordered = config.requests.ordering == "session"
        self._metrics = metrics
        self._told = Throttle()
        self._partitions: dict[int, _Partition] = {}
        self._leaving: dict[int, _Partition] = {}  # taken away, and not let go yet
        self._answered: Remembered[tuple[str, str], bytes] = Remembered(config.requests.remembered_bytes)
        self._running: dict[tuple[str, str], Running] = {}  # by session and id
        self._in_hand = InHand()
        # Who is told, besides, of each request (session, id) that its client takes back.
        self.on_taken_back: Callable[[str, str], object] = lambda *_: None
        self._loop = asyncio.get_running_loop()
        self._room = 0  # requests that have ended, of which the consumer has not been told
        metrics.working.set_function(
            lambda: sum(len(work.tasks) + len(work.plain) for work in self._partitions.values())
        )
        self._attempting = Attempting(config.requests, asking, readiness, metrics)
        self._plain: PlainRequests | None = None  # None: each has a task
        if isinstance(endings, AtLeastOnce) and not self._ordered:
            self._plain = PlainRequests(
                asking, answers, endings, paces, self._answered, self._running,
                traced=tracer is not None, failed=self._failed, refused=self._refused, ended=self._ended,
            )  # fmt: skip
        self._on_skipped = skipped
        self._member = GroupMember(config, self, lambda: self.owned, supervisor, incarnation)
        self._gate = self._member.gate
        if isinstance(endings, ExactlyOnce):
            endings.member = self._member
        self._committer = asyncio.create_task(self._commit_regularly())
        self._on_ready(readiness.ready)
        readiness.on_change(self._on_ready)
        self._member.start()

    @property
    def owned(self) -> frozenset[int]:
        """The request partitions that the group has given this gateway."""
        return frozenset(self._partitions)

    @property
    def reached(self) -> dict[int, int]:
        """The offset that comes next in each partition that is read; none while there is no room for more."""
        if self._gate.wants_pause or self._gate.room <= 0:
            return {}
        return {partition: max(work.last + 1, work.first) for partition, work in self._partitions.items()}

    @property
    def held(self) -> int:
        """How often there was no room, or the model was not ready."""
        return self._gate.held

    def stalled(self, text: str) -> None:
        """Nothing comes, although there are requests: go on with another consumer."""
        self._member.stalled(text)

    def restart(self) -> None:
        """The requests topic is another one: begin with it from its start, and let go of what is in hand of the old one."""
        self._member.restart()

    def _on_ready(self, ready: bool) -> None:
        self._gate.set_paused(not ready)
        self._metrics.paused.set(not ready)

    def assigned(self, partitions: dict[int, Committed]) -> None:
        """The group gave us partitions, each with what is committed of it."""
        for partition, committed in partitions.items():
            self._partitions[partition] = _Partition(committed, self._member.incarnation(), self._served)
        self._rebalanced("assigned", list(partitions))

    def taken(self, partitions: list[int]) -> None:
        """The group takes partitions away: nothing more of them is begun with. `revoked` follows."""
        for partition in partitions:
            if (work := self._partitions.pop(partition, None)) is not None:
                self._leaving[partition] = work

    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, Commit]:
        """Let go of what was taken away; returns what to commit. Work in hand gets a moment to end."""
        gone = {partition: work for partition in partitions if (work := self._leaving.pop(partition, None))}
        for work in gone.values():
            self._attempting.let_go(work.tasks)
        in_hand = {one for work in gone.values() for one in work.in_hand()}
        if in_hand and not lost and self._readiness.ready:
            await asyncio.wait(in_hand, timeout=_GRACE)
        for work in gone.values():
            work.gone = True
            for task in list(work.tasks):
                task.cancel()  # another member does it now
            for hand in list(work.plain):
                cast("PlainRequests", self._plain).drop(hand)
                self._gate.give_room(1)
        await self._endings.settled()
        self._rebalanced("lost" if lost else "revoked", partitions)
        if lost:
            return {}
        return {p: commit for p, work in gone.items() if (commit := self._endings.take(work)) is not None}

    def _rebalanced(self, kind: str, partitions: list[int]) -> None:
        self._metrics.owned.set(len(self._partitions))
        self._metrics.rebalances.labels(kind).inc()
        _log.info("request partitions %s", kind, extra={"partitions": partitions, "owned": sorted(self._partitions)})

    def received(self, records: list[Message]) -> None:
        """Begin to work on records."""
        plain, ready = self._plain, self._readiness.ready
        for record in records:
            work = self._partitions.get(record.partition() or 0)
            offset = record.offset() or 0
            if work is None or offset <= work.last:
                self._gate.give_room(1)
                continue
            if offset > work.last + 1:
                self._skip(work, offset)
            work.last = offset
            if not work.offsets.start(offset):
                self._gate.give_room(1)
                continue
            if plain is not None and plain.begin(work, record, offset, ready=ready):
                continue
            key = record.key() if self._ordered else None
            before = work.newest.get(key) if key is not None else None
            task = self._begin(work, self._serve(work, record, offset, before))
            if key is not None:
                work.newest[key] = task
                task.add_done_callback(partial(_forget, work.newest, key))

    def _skip(self, work: _Partition, offset: int) -> None:
        """The record at `offset` does not follow the last one: a transaction's marker stands between, or the log was cut."""
        expected = max(work.last + 1, work.first)
        if offset > expected and work.skipped is None:
            work.skipped = expected
            self._on_skipped()

    def skips(self) -> dict[int, int]:
        """Hand out what was skipped since the last time: by partition the first offset that did not come. For `cut`."""
        found = {}
        for partition, work in self._partitions.items():
            if work.skipped is not None:
                found[partition], work.skipped = work.skipped, None
        return found

    def cut(self, log_starts: Mapping[int, int], skips: Mapping[int, int]) -> bool:
        """Where the partitions' logs begin, asked after `skips` was: what was cut before it was read is lost for good.

        Returns whether there is any of that which was not known; commits tell of it then.
        """
        news = False
        for partition, work in self._partitions.items():
            start = log_starts.get(partition, 0)
            unread = max(work.last + 1, work.first)
            first = min(skips.get(partition, unread), unread if work.skipped is None else work.skipped)
            if start <= first or start <= work.lost_before:
                continue
            news = True
            work.lost_before = work.first = start
            about = {"partition": partition, "first_unread": first, "log_start": start}
            _log.warning("the requests topic was cut over records that nobody had read", extra=about)
            self._metrics.topic_changes.labels(self._topic, "cut").inc()
            self._endings.lose(work, partition, start)
        return news

    def _begin(self, work: _Partition, serving: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(serving)
        work.tasks.add(task)
        task.add_done_callback(work.served)
        return task

    def _failed(self, hand: Hand, error: Exception) -> None:
        """A plain request has no answer yet."""
        work = cast("_Partition", hand.work)
        self._begin(work, self._serve(work, hand.record, hand.offset, None, error, hand.written))

    def _refused(self, hand: Hand, record: Outgoing) -> None:
        """The answer to a plain request is not in Kafka yet."""
        work = cast("_Partition", hand.work)
        self._begin(work, self._end(work, hand.record, hand.offset, hand.outcome, [record]))

    def _ended(self, outcome: str, count: int) -> None:
        """So many plain requests are in hand no more."""
        self._count(outcome, count)
        self._gate.give_room(count)

    def _served(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not self._room:
            self._loop.call_soon(self._give_room)  # for all that end in this turn: the consumer's thread is told once
        self._room += 1
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a queued request was left behind, it is done again after a restart", exc_info=error)

    def _give_room(self) -> None:
        room, self._room = self._room, 0
        self._gate.give_room(room)

    async def _serve(
        self,
        work: _Partition,
        record: Message,
        offset: int,
        before: asyncio.Task[None] | None,
        failed: Exception | None = None,
        written: float | None = None,
    ) -> None:
        """`failed`: the model was asked already, and that is what came of it; `written` is known by then."""
        try:
            request = request_of_record(record.value(), cast("Headers | None", record.headers()))
        except InvalidRecord as error:
            if before is not None:
                await asyncio.wait((before,))
            outcome, records = "invalid_record", self._bury_invalid(record, error)
        except Exception as error:
            # A fault of the reader's. Unless it ends here the partition is never committed beyond it, after any restart.
            _log.exception("a record of the requests topic could not be read")
            invalid = InvalidRecord(f"internal error: {type(error).__name__}")
            outcome, records = Code.INTERNAL, self._bury_invalid(record, invalid)
        else:
            if isinstance(request, Cancellation):
                self._in_hand.take_back((request.session, request.id))
                self.on_taken_back(request.session, request.id)
                outcome, records = "cancellation", []
            else:
                if failed is None:
                    written = work.times.observe(record.timestamp(), request, time.time())
                request = request._replace(written=written)
                outcome, records = await self._unless_taken_back(record, request, before, failed)
        await self._end(work, record, offset, outcome, records)

    async def _end(self, work: _Partition, record: Message, offset: int, outcome: str, records: list[Outgoing]) -> None:
        await self._endings.end(work, record.partition() or 0, offset, records)
        self._count(outcome, 1)

    def _count(self, outcome: str, count: int) -> None:
        self._metrics.worked.labels(outcome).inc(count)

    async def _unless_taken_back(
        self, record: Message, request: Request, before: asyncio.Task[None] | None, failed: Exception | None
    ) -> tuple[str, list[Outgoing]]:
        who = (request.session, request.id)
        try:
            with self._in_hand.holding(who):
                if before is not None:
                    await asyncio.wait((before,))
                return await self._finish(record, request, failed)
        except TakenBack:
            return Code.CANCELLED, [self._answers.error(*who, Fault(Code.CANCELLED, "cancelled by its client"))]

    def _bury_invalid(self, record: Message, error: InvalidRecord) -> list[Outgoing]:
        records = self._dead_letters.bury(record, str(error), 0)
        letter = dead_letter_of(cast("Headers | None", record.headers()))
        if letter.id and letter.session:  # as far as it can be told, someone waits for it
            records.append(self._answers.error(letter.session, letter.id, Fault(Code.INVALID, str(error))))
        return records

    async def _finish(self, record: Message, request: Request, failed: Exception | None) -> tuple[str, list[Outgoing]]:
        """The outcome of a request, and the records that tell of it, whatever becomes of it."""
        who = (request.session, request.id)
        while (running := self._running.get(who)) is not None:
            await running.wait()
        body = self._answered.get(who)
        if body is not None:
            return "repeated", [self._answers.result(*who, body)]
        running = self._running[who] = Running()
        try:
            return await self._traced(record, request, failed)
        finally:
            del self._running[who]
            running.end()

    async def _traced(self, record: Message, request: Request, failed: Exception | None) -> tuple[str, list[Outgoing]]:
        """`_run`, as a span of its own where the request is traced; the records tell which."""
        span = None
        if self._tracer is not None and request.trace:
            about = {"podpair.session": request.session, "podpair.request": request.id, "podpair.model": request.model}
            span = self._tracer.begin("work", "consumer", request.trace, about)
        if span is None:
            return await self._run(record, request, failed)
        try:
            outcome, records = await self._run(record, request._replace(trace=span.traceparent), failed)
            if outcome != "result":
                span.failed(outcome)
        finally:
            span.end()
        trace = ("traceparent", span.traceparent.encode())
        return outcome, [r._replace(headers=[*(h for h in r.headers if h[0] != trace[0]), trace]) for r in records]

    async def _run(self, record: Message, request: Request, failed: Exception | None) -> tuple[str, list[Outgoing]]:
        attempts = self._attempting.begin()
        try:
            question = question_of_body(request.body, request.id, request.model, request.deadline, request.session)
            question.trace = request.trace
            parts = self._answers.parts(request) if question.stream else None
            body = await self._attempting.answer(request, question, parts, attempts, failed)
        except Fault as error:
            fault = error
            self._told.log(_log, logging.INFO, "queued request failed: %s", fault.message, extra=_about(request))
        except Exception as error:
            # Not the model's fault, nor the request's: but whoever waits for it has to know, and the partition to go on.
            _log.exception("queued request failed", extra=_about(request))
            fault = Fault(Code.INTERNAL, f"internal error: {type(error).__name__}")
        else:
            waited = representative_wait(request, request.written, time.time())
            if waited > 0.0:
                self._paces.saw(QUEUE, waited, time.monotonic())
            self._answered.keep((request.session, request.id), body, len(body))
            return "result", [self._answers.result(request.session, request.id, body)]
        records = []
        if fault.code in (Code.UPSTREAM, Code.INTERNAL):
            records = self._dead_letters.bury(record, fault.message, attempts.tries)
        return fault.code, [*records, self._answers.error(request.session, request.id, fault)]

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT)
            commits = {p: c for p, work in self._partitions.items() if (c := self._endings.take(work)) is not None}
            if commits:
                self._gate.commit(commits)

    async def close(self, timeout: float) -> None:
        """Take no more, end what is in hand (up to `timeout` seconds), commit, leave the group."""
        self._gate.set_paused(True)
        self._attempting.close()
        in_hand = {one for work in self._partitions.values() for one in work.in_hand()}
        if in_hand and self._readiness.ready:
            await asyncio.wait(in_hand, timeout=timeout)
        self._committer.cancel()
        await self._member.close()
        await self._endings.close()


def _about(request: Request) -> dict[str, str]:
    return ids(session=request.session, request=request.id)


def _forget(newest: dict[bytes, asyncio.Task[None]], key: bytes, task: asyncio.Task[None]) -> None:
    if newest.get(key) is task:
        del newest[key]
