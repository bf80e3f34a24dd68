"""Queued requests that meet no trouble: they are asked, answered and finished with those beside them, without a task each.

Plain is a request that wants one answer, is not traced and not in hand already. As soon as anything goes wrong with one
(the model fails it, the broker refuses its answer) a task of the worker's takes over where it stands.

Invariant: a request's offset is finished after its answer is acknowledged, and once.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

from confluent_kafka import Message

from podpair.gateway.core.offsets import ContiguousOffsets
from podpair.gateway.core.pace import QUEUE, Paces
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.questions import question_of_body
from podpair.gateway.core.queue_time import AppendTimes, representative_wait
from podpair.gateway.core.records import Cancellation, Headers, Request, request_of_record
from podpair.gateway.core.remembered import Remembered
from podpair.gateway.kafka.producer import NotWritten, Outgoing, Written
from podpair.gateway.upstream.asking import Asking, with_queue_ms
from podpair.gateway.upstream.coalescing import Ask, Outcome
from podpair.gateway.worker.answers import AnswerWriter
from podpair.gateway.worker.ending import AtLeastOnce

Who = tuple[str, str]  # session, and id of the request


class Running:
    """A request that is being answered; one that repeats it waits for the answer."""

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        self._ended: asyncio.Event | None = None  # made for who waits

    async def wait(self) -> None:
        """Return when it has been answered."""
        if self._ended is None:
            self._ended = asyncio.Event()
        await self._ended.wait()

    def end(self) -> None:
        if self._ended is not None:
            self._ended.set()


class Work(Protocol):
    """A request partition."""

    offsets: ContiguousOffsets
    times: AppendTimes
    plain: "set[Hand]"


class Hand(Running):
    """A plain request in hand, until its offset is finished."""

    __slots__ = ("ask", "body", "done", "offset", "outcome", "queued", "record", "request", "who", "work", "written")

    ask: Ask

    def __init__(self, work: Work, record: Message, offset: int, request: Request) -> None:
        super().__init__()
        self.work = work
        self.record = record
        self.offset = offset
        self.request = request
        self.who: Who = (request.session, request.id)
        now = time.time()
        self.written = work.times.observe(record.timestamp(), request, now)  # Unix seconds; None: not known
        self.queued = 0.0 if self.written is None else now - self.written  # seconds on the topic
        self.outcome = "result"
        self.body: bytes = b""  # of its answer
        self.done: asyncio.Future[None] | None = None  # made for who waits until it is in hand no more

    def until_done(self) -> asyncio.Future[None]:
        """Ends when it is in hand no more."""
        if self.done is None:
            self.done = asyncio.get_running_loop().create_future()
        return self.done


class PlainRequests:
    """`failed(hand, error)` takes over one without an answer, `refused(hand, record)` one whose answer is not in Kafka.

    `ended(outcome, count)` is told how many are in hand no more.
    """

    def __init__(
        self,
        asking: Asking,
        answers: AnswerWriter,
        endings: AtLeastOnce,
        paces: Paces,
        answered: Remembered[Who, bytes],
        running: dict[Who, Running],
        *,
        traced: bool,
        failed: Callable[[Hand, Exception], object],
        refused: Callable[[Hand, Outgoing], object],
        ended: Callable[[str, int], object],
    ) -> None:
        self._asking = asking
        self._answers = answers
        self._endings = endings
        self._paces = paces
        self._answered = answered
        self._running = running
        self._traced = traced
        self._failed = failed
        self._refused = refused
        self._ended = ended

    def begin(self, work: Work, record: Message, offset: int, *, ready: bool) -> bool:
        """Begin with the request, if it is plain and the model is ready. A cancellation is left to its task as well."""
        try:
            request = request_of_record(record.value(), cast("Headers | None", record.headers()))
            if isinstance(request, Cancellation):
                self._take_back((request.session, request.id))
                return False
            if not ready or (self._traced and request.trace):
                return False
            question = question_of_body(request.body, request.id, request.model, request.deadline, request.session)
        except Exception:
            return False  # its task finds what is wrong with it, and says so
        who = (request.session, request.id)
        if question.stream or who in self._running or self._answered.get(who) is not None:
            return False
        hand = Hand(work, record, offset, request)
        hand.ask = self._asking.submit(question, self._on_outcomes, hand, retried=True)
        work.plain.add(hand)
        self._running[who] = hand
        return True

    def _on_outcomes(self, told: list[tuple[Ask, Outcome]]) -> None:
        now, slowest = time.time(), 0.0
        for ask, outcome in told:
            hand: Hand = ask.context
            self._leave(hand)
            if isinstance(outcome, Exception):
                self._gone(hand)
                self._failed(hand, outcome)
                continue
            if hand.written is not None:
                slowest = max(slowest, representative_wait(hand.request, hand.written, now))
                outcome = with_queue_ms(outcome, hand.queued * 1000)
            hand.body = b"{%b}" % outcome
            self._answered.keep(hand.who, hand.body, len(hand.body))
            self._endings.begin(self._answers.plain_result(*hand.who, hand.body, now), self._on_written, hand)
        if slowest > 0.0:
            self._paces.saw(QUEUE, slowest, time.monotonic())

    def _take_back(self, who: Who) -> None:
        """Nobody wants it any more: it ends here and now, unless it is answered already."""
        hand = self._running.get(who)
        if isinstance(hand, Hand):
            hand.ask.cancel()
            self._leave(hand)
            hand.outcome = Code.CANCELLED
            self._endings.begin(self._error(hand), self._on_written, hand)

    def drop(self, hand: Hand) -> None:
        """Its partition is another member's: what becomes of it here counts for nothing."""
        if self._running.get(hand.who) is hand:
            hand.ask.cancel()
            self._leave(hand)
        self._gone(hand)

    def _on_written(self, told: list[tuple[Hand, Written | NotWritten]]) -> None:
        ended: dict[str, int] = {}
        for hand, outcome in told:
            if hand not in hand.work.plain:
                continue  # dropped meanwhile
            self._gone(hand)
            if isinstance(outcome, NotWritten):
                record = self._answers.result(*hand.who, hand.body) if hand.body else self._error(hand)
                self._refused(hand, record)
                continue
            hand.work.offsets.finish(hand.offset)
            ended[hand.outcome] = ended.get(hand.outcome, 0) + 1
        for name, count in ended.items():
            self._ended(name, count)

    def _error(self, hand: Hand) -> Outgoing:
        return self._answers.error(*hand.who, Fault(Code.CANCELLED, "cancelled by its client"))

    def _leave(self, hand: Hand) -> None:
        """It is answered, or will not be."""
        del self._running[hand.who]
        hand.end()

    def _gone(self, hand: Hand) -> None:
        hand.work.plain.discard(hand)
        if hand.done is not None and not hand.done.done():
            hand.done.set_result(None)
