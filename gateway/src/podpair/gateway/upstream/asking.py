"""Questions to the model, however they came: in shared calls where that is safe, else alone; answered as they were asked."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Container
from contextlib import aclosing
from typing import Any

import msgspec

from podpair.gateway.config.model import Config
from podpair.gateway.core.attempts import Busy, Failed, Unavailable
from podpair.gateway.core.chat import Completion, is_chat
from podpair.gateway.core.generate import StreamFailed
from podpair.gateway.core.models import Model
from podpair.gateway.core.packing import Packer
from podpair.gateway.core.partials import Whole
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.questions import Question, data_of
from podpair.gateway.core.records import is_json
from podpair.gateway.core.shorthand import collapse, expand
from podpair.gateway.metrics import Metrics
from podpair.gateway.tasks import Tasks
from podpair.gateway.upstream.calls import Upstream
from podpair.gateway.upstream.catalog import Catalog
from podpair.gateway.upstream.coalescing import Ask, Coalescer, Outcome, Run, Sink, seconds_left
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.upstream.row_trials import RowTrials

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_NONE: tuple[Packer | None, int] = (None, 0)
_TIMING = b'"timing":{'  # the last member of an outcome
_DOUBT = 1.0  # seconds: so often a refused request may have its model described anew
_UNLISTED = 8  # versions of a model, by which its server shows that what answers name says nothing

OnPart = Callable[[int, bytes], Awaitable[None]]  # gets each part's number, from 0, and its data


class Asking:
    """Asks the model next door."""

    def __init__(self, config: Config, upstream: Upstream, readiness: Readiness, metrics: Metrics) -> None:
        self._timeout = config.inference.timeout_seconds
        self._upstream = upstream
        self._alone = frozenset(config.coalescing.alone)
        self._odd: set[str] = set()  # models that did not answer row by row
        # Versions that answer and aren't listed, by model.
        self._unlisted: defaultdict[str, set[str | None]] = defaultdict(set)
        self._packers: dict[str, tuple[Packer, int]] = {}  # and how many rows a call may have
        self._coalesces = config.coalescing.enabled
        self._together = frozenset(config.coalescing.together)
        self._trials: RowTrials | None = None
        if config.coalescing.enabled and config.coalescing.probe:
            self._trials = RowTrials(upstream, config.coalescing.bytes)
        self._samplers: dict[str, Packer] = {}  # of models whose server does not say whether requests may share a call
        self._catalog = Catalog(upstream, readiness)
        self._coalescer = Coalescer(
            config.coalescing, upstream, metrics, self._on_odd, self._on_changed, self._is_another
        )
        self._calls = metrics.upstream_calls.labels("alone")
        self._streams = metrics.upstream_calls.labels("stream")
        self._whole = config.sessions.buffer_bytes
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()
        readiness.on_change(self._on_ready)

    def _on_ready(self, _: bool) -> None:
        """Another model may stand there now."""
        self._odd.clear()
        self._unlisted.clear()
        self._packers.clear()
        self._samplers.clear()
        if self._trials is not None:
            self._trials.forget()

    @property
    def models(self) -> Container[str]:
        """The names of the models that are known here."""
        return self._catalog.names

    async def describe(self, name: str) -> Model:
        """The model. Raises Fault where there is none, Unavailable, Busy or Failed where the container does not say."""
        return self._catalog.get(name) or await self._catalog.load(name)

    def submit(
        self, question: Question, sink: Sink, context: Any = None, *, alone: bool = False, retried: bool = False
    ) -> Ask:
        """Ask; `sink` is told the outcome later, with those of other questions that were answered at the same time.

        `alone`: in a call of its own. `retried`: the caller asks again himself where the model dies with it in hand; else it is
        asked again here if others were in the call that the model died of.

        An outcome is the members of the `result`, or Fault where the question is at fault or its deadline has passed,
        Unavailable, Busy or Failed where the container is.
        """
        ask = Ask(question, sink, context, retried=retried)
        if question.deadline is not None:
            try:
                left = seconds_left(question.deadline) or 0.0
            except Fault as fault:
                self._loop.call_soon(_tell, ask, fault)
                return ask
            ask.timer = self._loop.call_later(left, ask.expire)
        if is_chat(question):
            self._spawn(ask, self._ask_alone(ask, None))
            return ask
        model = self._catalog.get(question.model)
        if alone or (model is not None and not self._shares(ask, model)):
            self._spawn(ask, self._ask_alone(ask, model))
        elif model is None:
            self._spawn(ask, self._find(ask))
        return ask

    async def ask(
        self,
        question: Question,
        *,
        queue_ms: float | None = None,
        alone: bool = False,
        retried: bool = False,
        on_part: OnPart | None = None,
    ) -> bytes:
        """The body of the `result` event, as a JSON object; `on_part` gets the parts before it, where they are asked for.

        `alone`, `retried`: as for `submit`. Raises what `submit` tells.
        """
        if question.stream and on_part is not None:
            members = await self.stream(question, on_part)
        else:
            members = await self._ask(question, alone, retried)
        return b"{%b}" % (members if queue_ms is None else with_queue_ms(members, queue_ms))

    async def _ask(self, question: Question, alone: bool, retried: bool) -> bytes:
        answered: asyncio.Future[bytes] = self._loop.create_future()
        ask = self.submit(question, _settle, answered, alone=alone, retried=retried)
        try:
            return await answered
        finally:
            ask.cancel()

    async def stream(self, question: Question, on_part: OnPart) -> bytes:
        """Ask for the answer in parts; returns the members of the `result`, with the whole of it where that is not too large.

        Raises Fault, Unavailable, Busy or Failed, also after parts.
        """
        try:
            async with asyncio.timeout(seconds_left(question.deadline)):
                return await self._stream(question, on_part)
        except TimeoutError:
            message = "the deadline passed while the model was at work"
            raise Fault(Code.DEADLINE_EXCEEDED, message) from None

    async def _stream(self, question: Question, on_part: OnPart) -> bytes:
        if is_chat(question):
            return await self._chat_stream(question, on_part)
        return await self._stream_of(
            question, self._catalog.get(question.model) or await self._catalog.load(question.model), on_part
        )

    async def _stream_of(self, question: Question, model: Model, on_part: OnPart) -> bytes:
        whole = Whole(self._whole)
        version: str | None = None
        self._streams.inc()
        try:
            async with aclosing(self._upstream.stream(question, model)) as parts:
                async for part in parts:
                    await on_part(whole.parts, part.data)
                    whole.add(part.data)
                    version = part.model_version or version
        except Fault as fault:
            if whole.parts:
                raise
            if fault.code is Code.NOT_FOUND:
                return await self._alone_answer(question, model)  # a server without streams has an answer all the same
            return await self._stream_of(question, await self._renewed(fault, question, model), on_part)
        data = whole.data([spec.name for spec in model.outputs])
        return b'%b"model":%b,"model_version":%b,"parts":%d,"timing":{}' % (
            b"" if data is None else b'"data":%b,' % data, _encode(model.name), _encode(version), whole.parts,
        )  # fmt: skip

    def _shares(self, ask: Ask, model: Model) -> bool:
        """Whether the request went into a call with others."""
        packer, room = self._packers.get(model.name, _NONE)
        if packer is None or packer.model is not model:
            if not self._may_share(ask, model):
                return False
            packer, room = self._packers[model.name] = Packer(model), self._coalescer.room(model)
        packed = packer.pack(ask.question)
        if packed is None or packed.form.rows > room:
            return False
        self._coalescer.add(ask, packed, model)
        return True

    def _may_share(self, ask: Ask, model: Model) -> bool:
        """Whether a row of the model is answered alike alone and in company, as far as is known; else all go alone."""
        name = model.name
        if not self._coalesces or not model.batchable or name in self._alone or name in self._odd:
            return False
        if model.shares or name in self._together:
            return True
        if self._trials is None or model.shares is False:
            return False
        passed = self._trials.passed(model)
        if passed is None:
            sampler = self._samplers.get(name)
            if sampler is None or sampler.model is not model:
                sampler = self._samplers[name] = Packer(model)
            packed = sampler.pack(ask.question)
            if packed is not None:
                self._trials.sample(model, packed, ask.question)
        elif name in self._samplers:
            del self._samplers[name]
        return passed is True

    def _on_odd(self, ask: Ask) -> None:
        model = self._catalog.get(ask.question.model)
        if ask.question.model not in self._odd:
            self._odd.add(ask.question.model)
            self._packers.pop(ask.question.model, None)
            _log.warning("model %s does not answer row by row: its requests go alone", ask.question.model)
        self._spawn(ask, self._ask_alone(ask, model))

    def _on_changed(self, ask: Ask) -> None:
        self._spawn(ask, self._ask_alone(ask, self._catalog.get(ask.question.model)))

    async def _is_another(self, model: Model, version: str | None) -> bool:
        """Whether a version that isn't among the model's shows that another stands there now.

        A server that names its versions otherwise in answers is told from that by asking it once.
        """
        unlisted = self._unlisted[model.name]
        if version in unlisted or len(unlisted) >= _UNLISTED:
            return False
        try:
            now = await self._catalog.renew(model)
        except (Fault, Unavailable, Busy, Failed):
            return True
        if not (now or model).lists(version):
            unlisted.add(version)
        if now is not None:
            self._odd.discard(model.name)
        return now is not None

    async def _renewed(self, fault: Fault, question: Question, model: Model | None) -> Model:
        """Another description of the model than the one by which a request was refused. Raises the fault where there is none.

        What clients write as V2's tensors means the same under any description.
        """
        if fault.code not in (Code.INVALID, Code.NOT_FOUND) or model is None:
            raise fault
        try:
            now = await self._catalog.renew(model, unless_within=_DOUBT)
        except (Fault, Unavailable, Busy, Failed):
            raise fault from None
        if now is None or question.inputs:
            raise fault
        return now

    async def _find(self, ask: Ask) -> None:
        """The first questions to a model wait until it is described."""
        try:
            model: Model | None = await self._catalog.load(ask.question.model)
        except (Fault, Unavailable, Busy, Failed) as error:
            if not ask.question.inputs:  # shorthand means nothing without it
                _tell(ask, error)
                return
            model = None
        if ask.settled:
            return
        if model is not None and self._shares(ask, model):
            return
        await self._ask_alone(ask, model)

    async def _ask_alone(self, ask: Ask, model: Model | None) -> None:
        try:
            outcome: Outcome = await self._alone_answer(ask.question, model)
        except (Fault, Unavailable, Busy, Failed) as error:
            outcome = error
        except Exception as error:
            _log.exception("a call failed")
            outcome = error
        _tell(ask, outcome)

    async def _chat_stream(self, question: Question, on_part: OnPart) -> bytes:
        completion = Completion(self._whole)
        self._streams.inc()
        async with aclosing(self._upstream.chat_stream(question)) as events:
            async for event in events:
                number = completion.parts
                try:
                    parts = completion.feed(event)
                except StreamFailed as error:
                    raise Failed(str(error)) from None
                except ValueError as error:
                    raise Failed(f"its stream is not OpenAI's: {error}") from None
                for part in parts:
                    await on_part(number, part)
                    number += 1
        if not completion.complete:
            raise Failed("its stream ended before it was complete")
        return _members(question, completion.whole(), completion.parts)

    async def _alone_answer(self, question: Question, model: Model | None) -> bytes:
        if is_chat(question):
            self._calls.inc()
            answered = await self._upstream.chat(question, self._timeout)
            if not is_json(answered):
                raise Failed("its answer is not JSON")
            return _members(question, answered, None)
        try:
            return await self._tensors_answer(question, model)
        except Fault as fault:
            model = await self._renewed(fault, question, model)
        return await self._tensors_answer(question, model)

    async def _tensors_answer(self, question: Question, model: Model | None) -> bytes:
        inputs, single, shorthand = question.inputs, False, not question.inputs
        if shorthand:
            model = model or await self._catalog.load(question.model)
            inputs, single = expand(data_of(question), model.only_input())
        self._calls.inc()
        answer = await self._upstream.ask(question, inputs, self._timeout)
        if model is not None and not model.lists(answer.model_version):
            await self._is_another(model, answer.model_version)  # for those that come
        value = collapse(answer.outputs, single=single) if shorthand else answer.outputs
        spent = b"" if answer.inference_ms is None else b'"inference_ms":%.3f' % answer.inference_ms
        return b'"%b":%b,"model":%b,"model_version":%b,"timing":{%b}' % (
            b"data" if shorthand else b"outputs", value, _encode(question.model), _encode(answer.model_version), spent,
        )  # fmt: skip

    def _spawn(self, ask: Ask, work: Any) -> None:
        run = Run((ask,))
        run.begin(self._tasks.begin(work))

    async def close(self) -> None:
        """Give up what is in flight."""
        await self._coalescer.close()
        if self._trials is not None:
            await self._trials.close()
        await self._tasks.cancel()


def _members(question: Question, data: bytes | None, parts: int | None) -> bytes:
    """The members of a chat's `result`."""
    return b'%b"model":%b,"model_version":null,%b"timing":{}' % (
        b"" if data is None else b'"data":%b,' % data, _encode(question.model),
        b"" if parts is None else b'"parts":%d,' % parts,
    )  # fmt: skip


def with_queue_ms(members: bytes, queue_ms: float) -> bytes:
    """The members of a `result`, whose timing names the milliseconds on the topic as well."""
    head, name, timing = members.rpartition(_TIMING)
    return b'%b%b"queue_ms":%.3f%b%b' % (head, name, queue_ms, b"," if timing != b"}" else b"", timing)


def _settle(told: list[tuple[Ask, Outcome]]) -> None:
    """The sink of those that wait for their answer: all of one call are told at once."""
    for ask, outcome in told:
        answered: asyncio.Future[bytes] = ask.context
        if answered.done():
            continue
        if isinstance(outcome, Exception):
            answered.set_exception(outcome)
        else:
            answered.set_result(outcome)


def _tell(ask: Ask, outcome: Outcome) -> None:
    if ask.settle():
        ask.sink([(ask, outcome)])
