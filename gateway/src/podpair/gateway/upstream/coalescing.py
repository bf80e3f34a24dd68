"""Requests that arrive while a call is in flight go to the model together, and come apart by row.

Invariants: nothing waits while the model is idle; no request is in two calls at a time; a request that fails a call does
not fail the others in it: they are asked again in halves, at most 2n - 1 calls for n requests. Nothing is done per request
that can be done per call: no task, no timer (but for a deadline), no write of its own.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from podpair.gateway.config.model import Coalescing
from podpair.gateway.core.attempts import Busy, Failed, Late, ServiceUnavailable, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.packing import Packed
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.questions import Question
from podpair.gateway.core.tensors import Columns
from podpair.gateway.metrics import Metrics
from podpair.gateway.tasks import Tasks
from podpair.gateway.upstream.calls import Call, CallAnswer, Upstream

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

Outcome = bytes | Exception  # the members of a `result`, without its braces; or why there is none
Sink = Callable[[list[tuple["Ask", Outcome]]], object]


class Ask(msgspec.Struct, eq=False):
    """A question on its way to the model, until `sink` has got its outcome, or it was cancelled."""

    question: Question
    sink: Sink
    context: Any  # the sink's own
    packed: Packed | None = None
    run: "Run | None" = None  # the call that it is in
    timer: asyncio.TimerHandle | None = None
    settled: bool = False  # nobody waits for it any more
    retried: bool = False  # who asks makes further attempts himself, and counts those that the model died of

    def cancel(self) -> None:
        """Nobody waits for it any more: the sink hears nothing, and a call that was only for it is given up."""
        if not self.settled:
            self._leave()

    def _leave(self) -> None:
        self.settled = True
        if self.timer is not None:
            self.timer.cancel()
        if self.run is not None:
            self.run.left()

    def expire(self) -> None:
        """Its deadline has passed."""
        if not self.settled:
            self._leave()
            self.sink([(self, Fault(Code.DEADLINE_EXCEEDED, "the deadline passed while the model was at work"))])

    def settle(self) -> bool:
        """Its outcome is there; False: nobody waits for it."""
        if self.settled:
            return False
        self.settled = True
        if self.timer is not None:
            self.timer.cancel()
        return True


class Run:
    """A call in flight, and how many wait for it."""

    __slots__ = ("_task", "_waiting")

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._waiting = len(asks)
        self._task: asyncio.Task[None] | None = None
        for ask in asks:
            ask.run = self

    def begin(self, task: "asyncio.Task[None]") -> None:
        """The task that makes the call."""
        self._task = task

    def left(self) -> None:
        """One waits no longer; without any the call is given up, which the model is told."""
        self._waiting -= 1
        if self._waiting == 0 and self._task is not None:
            self._task.cancel()


class _Lane:
    """Requests that may share a call."""

    __slots__ = ("calls", "due", "key", "model", "waiting")

    def __init__(self, key: Hashable, model: Model) -> None:
        self.key = key
        self.model = model
        self.waiting: deque[Ask] = deque()
        self.calls = 0  # in flight
        self.due = False  # a look at what waits is scheduled


class Coalescer:
    """Lanes of requests, and the calls that they make.

    on_odd: takes a request whose model does not answer row by row. on_changed: takes one whose model is not what it was when it
    was packed. is_another: whether a version that the model was not described with shows that.
    """

    def __init__(
        self,
        config: Coalescing,
        upstream: Upstream,
        metrics: Metrics,
        on_odd: Callable[[Ask], object],
        on_changed: Callable[[Ask], object],
        is_another: Callable[[Model, str | None], Awaitable[bool]],
    ) -> None:
        self._config = config
        self._upstream = upstream
        self._on_odd = on_odd
        self._on_changed = on_changed
        self._is_another = is_another
        self._calls = metrics.upstream_calls.labels("coalesced")
        self._rows = metrics.upstream_rows
        self._again = metrics.upstream_asked_again
        self._lanes: dict[Hashable, _Lane] = {}
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()

    def room(self, model: Model) -> int:
        """How many rows a call to the model may have."""
        rows = self._config.rows
        return rows if model.max_rows is None else min(rows, model.max_rows)

    def add(self, ask: Ask, packed: Packed, model: Model) -> None:
        """Take a request into its lane."""
        ask.packed = packed
        key = packed.form.key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key, model)
        lane.model = model
        lane.waiting.append(ask)
        if not lane.due and lane.calls < max(self._config.calls, model.runs):
            # Not at once: what this turn of the loop still reads belongs to the same call.
            lane.due = True
            self._loop.call_soon(self._look, lane)

    def _look(self, lane: _Lane) -> None:
        lane.due = False
        limit = max(self._config.calls, lane.model.runs)
        while lane.waiting and lane.calls < limit:
            asks = self._take(lane)
            if not asks:
                break
            lane.calls += 1
            run = Run(asks)
            task = self._tasks.begin(self._make(lane.model, asks))
            # Not at the end of the task's work: one that is given up before its first step does nothing at all.
            task.add_done_callback(partial(self._made, lane))
            run.begin(task)
        if not lane.calls and not lane.waiting and self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]  # or a client that varies its shapes would fill the memory with them

    def _take(self, lane: _Lane) -> list[Ask]:
        """What goes into the next call."""
        rows, size = self.room(lane.model), self._config.bytes
        taken: list[Ask] = []
        waiting = lane.waiting
        while waiting:
            ask = waiting[0]
            if not ask.settled:
                packed = ask.packed
                assert packed is not None  # noqa: S101 - it is in a lane
                rows -= packed.form.rows
                size -= packed.size
                if taken and (rows < 0 or size < 0):
                    break
                taken.append(ask)
            waiting.popleft()
        return taken

    async def _make(self, model: Model, asks: list[Ask]) -> None:
        try:
            await self._answer(model, asks)
        except Exception as error:
            _log.exception("a call failed")
            _tell((ask, error) for ask in asks)

    def _made(self, lane: _Lane, _: "asyncio.Task[None]") -> None:
        lane.calls -= 1
        self._look(lane)

    async def _answer(self, model: Model, asks: list[Ask], refused: "_Refused | None" = None) -> None:
        """Make the call, and tell each its outcome. `refused`: it is one of several that a call was taken apart into."""
        asks = [ask for ask in asks if not ask.settled]
        if not asks:
            return
        outcome: CallAnswer | Exception = (refused and refused.busy) or await self._ask(model, asks)
        if isinstance(outcome, CallAnswer):
            if refused is not None:
                refused.heard(outcome)
            try:
                _hand_out(asks, outcome)
            except Exception as error:
                _log.exception("an answer could not be taken apart")
                _tell((ask, Failed(f"its answer can't be taken apart: {error}")) for ask in asks)
            return
        refused = refused or _Refused(len(asks))
        refused.heard(outcome)
        if isinstance(outcome, _Changed) or (isinstance(outcome, _Odd) and len(asks) > 1):
            take = self._on_changed if isinstance(outcome, _Changed) else self._on_odd
            for ask in asks:
                if not ask.settled:
                    take(ask)
        elif len(asks) > 1 and _may_be_one(outcome, refused):
            await self._ask_in_halves(model, asks, refused)
        elif len(asks) > 1 and isinstance(outcome, Unavailable) and outcome.midway:
            # It may be gone for good, which the next call would show at once; or it closes on one of them each time.
            _tell((ask, outcome) for ask in asks if ask.retried)
            await self._ask_in_halves(model, [ask for ask in asks if not ask.retried], refused)
        else:
            _tell((ask, outcome) for ask in asks)

    async def _ask_in_halves(self, model: Model, asks: list[Ask], refused: "_Refused") -> None:
        self._again.inc()
        middle = len(asks) // 2
        await self._answer(model, asks[:middle], refused)
        await self._answer(model, asks[middle:], refused)

    async def _ask(self, model: Model, asks: list[Ask]) -> CallAnswer | Exception:
        call, rows = _call(model, asks)
        self._calls.inc()
        self._rows.inc(rows)
        try:
            answer = await self._upstream.call(call)
            if not model.lists(answer.model_version) and await self._is_another(model, answer.model_version):
                return _Changed("another model has answered than was described")
        except Exception as error:
            return error
        for output in answer.outputs:
            if output.shape[:1] != (rows,):
                return _Odd(f"it answered {rows} rows with another number of them")
        return answer

    async def close(self) -> None:
        """Give up what is in flight."""
        await self._tasks.cancel()


class _Odd(Failed):
    """The model does not answer row by row."""


class _Changed(Failed):
    """Another model has answered: whether its rows may share a call is not known."""


class _Refused:
    """How often the calls that one was taken apart into were refused as busy, one after the other.

    One request that is refused each time is found with as many refusals as its call can be halved; a model that refuses more is
    too busy for all of them, and is left alone.
    """

    __slots__ = ("_left", "_most", "busy")

    def __init__(self, asks: int) -> None:
        self._left = self._most = asks.bit_length() + 1
        self.busy: Exception | None = None  # what the rest are told

    def heard(self, outcome: CallAnswer | Exception) -> None:
        """What came of a call."""
        if not isinstance(outcome, Busy | ServiceUnavailable):
            self._left = self._most
            return
        self._left -= 1
        if not self._left:
            self.busy = outcome


def _may_be_one(error: Exception, refused: _Refused) -> bool:
    """Whether what failed the call may be one request of it."""
    if isinstance(error, Busy | ServiceUnavailable):
        return refused.busy is None
    if isinstance(error, Fault):
        return error.code is Code.INVALID
    return isinstance(error, Failed) and not isinstance(error, Late)


def _call(model: Model, asks: list[Ask]) -> tuple[Call, int]:
    question = asks[0].question
    key = question.key if len(model.versions) > 1 else ""
    packs = [ask.packed for ask in asks if ask.packed is not None]
    form = packs[0].form
    if len(packs) == 1:
        shapes = tuple([(form.rows, *tail) for tail in form.tails])
        call = Call(
            model, shapes, packs[0].raw, question.parameters, question.deadline, key, question.id, question.trace
        )
        return call, form.rows
    rows = sum([packed.form.rows for packed in packs])
    shapes = tuple([(rows, *tail) for tail in form.tails])
    raw = tuple([b"".join(parts) for parts in zip(*[packed.raw for packed in packs], strict=True)])
    deadlines = [ask.question.deadline for ask in asks]
    # The container may drop the call when nobody of it has time left.
    deadline = max([d for d in deadlines if d is not None]) if None not in deadlines else None
    trace = next((ask.question.trace for ask in asks if ask.question.trace), "")
    return Call(model, shapes, raw, question.parameters, deadline, key, "", trace), rows


def _hand_out(asks: list[Ask], answer: CallAnswer) -> None:
    """Give each its rows."""
    columns, spent = Columns(answer.outputs), answer.inference_ms
    behind = b',"model":%b,"model_version":%b,"timing":{%b}' % (
        _encode(asks[0].question.model), _encode(answer.model_version),
        b"" if spent is None else b'"inference_ms":%.3f' % spent,
    )  # fmt: skip
    told: list[tuple[Ask, Outcome]] = []
    start = 0
    for ask in asks:
        packed = ask.packed
        assert packed is not None  # noqa: S101 - it is in a call
        _, _, rows, member, share = packed.form
        if not ask.settled:
            told.append((ask, b'"%b":%b%b' % (member, share(columns, start, rows), behind)))
        start += rows
    _tell(told)


def _tell(outcomes: Iterable[tuple[Ask, Outcome]]) -> None:
    """Tell each sink what became of its requests, all at once."""
    by_sink: dict[Sink, list[tuple[Ask, Outcome]]] = {}
    for told in outcomes:
        ask = told[0]
        if ask.settle():
            mine = by_sink.get(ask.sink)
            if mine is None:
                mine = by_sink[ask.sink] = []
            mine.append(told)
    for sink, mine in by_sink.items():
        sink(mine)


def seconds_left(deadline: float | None) -> float | None:
    """Until a deadline in Unix seconds. Raises Fault where it has passed."""
    if deadline is None:
        return None
    left = deadline - time.time()
    if left <= 0:
        raise Fault(Code.DEADLINE_EXCEEDED, "the deadline had passed before the model was asked")
    return left
