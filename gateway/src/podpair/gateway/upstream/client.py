"""Sends requests to the model: in batches if that is safe, else alone; each is answered in the form in which it came."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.chat import CompletionAssembler, completion_members, is_chat
from podpair.gateway.core.chunks import ChunkAssembler
from podpair.gateway.core.generate import StreamFailed
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import is_json
from podpair.gateway.core.request import InferenceRequest, shorthand_of
from podpair.gateway.core.result_members import result_with_queue_ms
from podpair.gateway.core.row_codec import RowEncoder, RowForm
from podpair.gateway.core.shorthand import collapse, expand
from podpair.gateway.metrics import Metrics
from podpair.gateway.tasks import Tasks
from podpair.gateway.upstream.batch_calls import BatchItem, PlainItem, ResultCallback
from podpair.gateway.upstream.batcher import DynamicBatcher, InFlightCall, Outcome, PendingRequest, seconds_left
from podpair.gateway.upstream.calls import Upstream
from podpair.gateway.upstream.model_cache import ModelMetadataCache
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.upstream.routes import check_request
from podpair.gateway.upstream.row_probe import RowProbe

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_NONE: tuple[RowEncoder | None, int] = (None, 0)
_DOUBT = 1.0  # seconds: so often a refused request may have its model described anew
_UNLISTED = 8  # versions of a model, by which its server shows that what answers name says nothing

OnChunk = Callable[[int, bytes], Awaitable[None]]  # gets each chunk's number, from 0, and its data


class InferenceClient:
    """The client of the model in the pod."""

    def __init__(self, config: Config, upstream: Upstream, readiness: Readiness, metrics: Metrics) -> None:
        self._timeout, self._timeouts = config.inference.timeout_seconds, config.inference.timeouts()
        self._upstream = upstream
        self._excluded = frozenset(config.batching.exclude)
        self._not_batchable: set[str] = set()  # models that did not answer row by row
        # Versions that answer and aren't listed, by model.
        self._unlisted_versions: defaultdict[str, set[str | None]] = defaultdict(set)
        self._encoders: dict[str, tuple[RowEncoder, int]] = {}  # and how many rows a call may have
        self._batches = config.batching.enabled
        self._included = frozenset(config.batching.include)
        self._probe: RowProbe | None = None
        if config.batching.enabled and config.batching.probe:
            self._probe = RowProbe(upstream, config.batching.max_bytes)
        # Of models whose server does not say whether requests may share a call.
        self._samplers: dict[str, RowEncoder] = {}
        self._models = ModelMetadataCache(upstream, readiness)
        self._batcher = DynamicBatcher(
            config.batching, upstream, metrics, self._on_not_batchable, self._on_model_changed, self._model_changed
        )
        self._calls = metrics.upstream_calls.labels("single")
        self._streams = metrics.upstream_calls.labels("stream")
        self._whole = config.sessions.buffer_bytes
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()
        readiness.on_change(self._on_readiness_change)

    def _on_readiness_change(self, _: bool) -> None:
        """Forget what is known of models, because another may be there now."""
        self._not_batchable.clear()
        self._unlisted_versions.clear()
        self._encoders.clear()
        self._samplers.clear()
        if self._probe is not None:
            self._probe.reset()

    @property
    def models(self) -> Container[str]:
        """The names of the models that are known here."""
        return self._models.names

    def described(self, name: str) -> Model | None:
        """Return the model, if it is known; it is described anew now and then, beside this."""
        return self._models.get(name)

    async def describe(self, name: str) -> Model:
        """Return the model. Raises Fault if there is none; Unavailable, Busy or Failed if the container does not say."""
        return self._models.get(name) or await self._models.load(name)

    def submit(
        self,
        request: InferenceRequest,
        callback: ResultCallback,
        context: Any = None,
        *,
        alone: bool = False,
        retried: bool = False,
    ) -> PendingRequest:
        """Submit a request; `callback` gets the outcome later, with those of other requests that were answered at the same time.

        `alone`: in a call of its own. `retried`: the caller retries a request that the model died with; else it is
        retried here if others were in the call that the model died of.

        An outcome is the members of the `result`, or Fault if the request is at fault or its deadline has passed,
        Unavailable, Busy or Failed if the container is.
        """
        pending = PendingRequest(request, callback, context, retried=retried)
        if request.deadline is not None and not self._set_timer(pending, request.deadline):
            return pending
        if is_chat(request):
            self._spawn(pending, self._infer_alone(pending, None))
            return pending
        model = self._models.get(request.model)
        if alone or request.version or (model is not None and not self._enqueue(pending, model)):
            self._spawn(pending, self._infer_alone(pending, model))
        elif model is None:
            self._spawn(pending, self._describe_then_infer(pending))
        return pending

    def _set_timer(self, pending: PendingRequest, deadline: float) -> bool:
        """Have the request end at its deadline. Return False if that has passed: it is ended then."""
        try:
            left = seconds_left(deadline) or 0.0
        except Fault as fault:
            self._loop.call_soon(_notify, pending, fault)
            return False
        pending.timer = self._loop.call_later(left, pending.expire)
        return True

    def row_form(self, name: str, width: int) -> RowForm | None:
        """Return how lists of `width` numbers are encoded for batches of the model, if that is known: see `submit_rows`."""
        model = self._models.get(name)
        encoder, room = self._encoders.get(name, _NONE)
        if model is None or encoder is None or encoder.model is not model or room < 1:
            return None
        return encoder.form(width)

    def submit_rows(self, requests: Sequence[PlainItem], form: RowForm) -> None:
        """Submit requests of one caller that were encoded in a form that `row_form` has just returned; otherwise as `submit`."""
        self._batcher.add_plain(requests, form.layout, form.model)

    async def infer(
        self,
        request: InferenceRequest,
        *,
        queue_ms: float | None = None,
        alone: bool = False,
        retried: bool = False,
        on_chunk: OnChunk | None = None,
    ) -> bytes:
        """Return the body of the `result` event, as a JSON object; `on_chunk` gets the chunks before it, if they were asked
        for.

        `alone`, `retried`: as for `submit`. Raises the exceptions of `submit`'s outcomes.
        """
        if request.stream and on_chunk is not None:
            members = await self.stream(request, on_chunk)
        else:
            members = await self._infer(request, alone, retried)
        return b"{%b}" % members if queue_ms is None else result_with_queue_ms(members, queue_ms)

    async def _infer(self, request: InferenceRequest, alone: bool, retried: bool) -> bytes:
        answered: asyncio.Future[bytes] = self._loop.create_future()
        pending = self.submit(request, _resolve, answered, alone=alone, retried=retried)
        try:
            return await answered
        finally:
            pending.cancel()

    async def stream(self, request: InferenceRequest, on_chunk: OnChunk) -> bytes:
        """Stream the answer; return the members of the `result`, with the whole answer if it is not too large.

        Raises Fault, Unavailable, Busy or Failed, also after chunks.
        """
        try:
            async with asyncio.timeout(seconds_left(request.deadline)):
                return await self._stream(request, on_chunk)
        except TimeoutError:
            message = "the deadline passed while the model was at work"
            raise Fault(Code.DEADLINE_EXCEEDED, message) from None

    async def _stream(self, request: InferenceRequest, on_chunk: OnChunk) -> bytes:
        if is_chat(request):
            return await self._chat_stream(request, on_chunk)
        return await self._stream_of(
            request, self._models.get(request.model) or await self._models.load(request.model), on_chunk
        )

    async def _stream_of(self, request: InferenceRequest, model: Model, on_chunk: OnChunk) -> bytes:
        check_request(request, model)
        assembler = ChunkAssembler(self._whole)
        version: str | None = None
        self._streams.inc()
        try:
            async with aclosing(self._upstream.stream(request, model)) as chunks:
                async for chunk in chunks:
                    await on_chunk(assembler.count, chunk.data)
                    assembler.add(chunk.data)
                    version = chunk.model_version or version
        except Fault as fault:
            if assembler.count:
                raise
            if fault.code is Code.NOT_FOUND:
                return await self._single_response(
                    request, model
                )  # a server without streams has an answer all the same
            return await self._stream_of(request, await self._refreshed(fault, request, model), on_chunk)
        data = assembler.data([spec.name for spec in model.outputs])
        return b'%b"model":%b,"model_version":%b,"parts":%d,"timing":{}' % (
            b"" if data is None else b'"data":%b,' % data, _encode(model.name), _encode(version), assembler.count,
        )  # fmt: skip

    def _enqueue(self, pending: PendingRequest, model: Model) -> bool:
        """Return whether the request went into a batch."""
        encoder, room = self._encoders.get(model.name, _NONE)
        if encoder is None or encoder.model is not model:
            if not self._is_batchable(pending, model):
                return False
            encoder, room = self._encoders[model.name] = RowEncoder(model), self._batcher.room(model)
        encoded = encoder.encode(pending.request)
        if encoded is None or encoded.layout.rows > room:
            return False
        self._batcher.add(pending, encoded, model)
        return True

    def _is_batchable(self, pending: PendingRequest, model: Model) -> bool:
        """Return whether a row of the model is answered alike alone and in company, as far as is known; if not, all go alone."""
        name = model.name
        if not self._batches or not model.batchable or name in self._excluded or name in self._not_batchable:
            return False
        if model.shares or name in self._included:
            return True
        if self._probe is None or model.shares is False:
            return False
        passed = self._probe.passed(model)
        if passed is None:
            sampler = self._samplers.get(name)
            if sampler is None or sampler.model is not model:
                sampler = self._samplers[name] = RowEncoder(model)
            encoded = sampler.encode(pending.request)
            if encoded is not None:
                self._probe.sample(model, encoded, pending.request)
        elif name in self._samplers:
            del self._samplers[name]
        return passed is True

    def _on_not_batchable(self, pending: BatchItem) -> None:
        model = self._models.get(pending.request.model)
        if pending.request.model not in self._not_batchable:
            self._not_batchable.add(pending.request.model)
            self._encoders.pop(pending.request.model, None)
            _log.warning("model %s does not answer row by row: its requests go alone", pending.request.model)
        self._spawn(pending, self._infer_alone(pending, model))

    def _on_model_changed(self, pending: BatchItem) -> None:
        self._spawn(pending, self._infer_alone(pending, self._models.get(pending.request.model)))

    async def _model_changed(self, model: Model, version: str | None) -> bool:
        """Return whether a version that is missing in the model's description shows that another model is there now.

        A server that names its versions differently in answers is distinguished from that by asking it once.
        """
        unlisted = self._unlisted_versions[model.name]
        if version in unlisted or len(unlisted) >= _UNLISTED:
            return False
        try:
            now = await self._models.refresh(model)
        except (Fault, Unavailable, Busy, Failed):
            return True
        if not (now or model).lists(version):
            unlisted.add(version)
        if now is not None:
            self._not_batchable.discard(model.name)
        return now is not None

    async def _refreshed(self, fault: Fault, request: InferenceRequest, model: Model | None) -> Model:
        """Return a newer description of the model than the one by which a request was refused. Raises the fault if there is
        none.

        What clients write as V2's tensors means the same under any description.
        """
        if fault.code not in (Code.INVALID, Code.NOT_FOUND) or model is None:
            raise fault
        try:
            now = await self._models.refresh(model, unless_within=_DOUBT)
        except (Fault, Unavailable, Busy, Failed):
            raise fault from None
        if now is None or request.inputs:
            raise fault
        return now

    async def _describe_then_infer(self, pending: PendingRequest) -> None:
        """Hold the first requests to a model until it is described."""
        try:
            model: Model | None = await self._models.load(pending.request.model)
        except (Fault, Unavailable, Busy, Failed) as error:
            if not pending.request.inputs:  # shorthand means nothing without it
                _notify(pending, error)
                return
            model = None
        if pending.done:
            return
        if model is not None and self._enqueue(pending, model):
            return
        await self._infer_alone(pending, model)

    async def _infer_alone(self, pending: BatchItem, model: Model | None) -> None:
        try:
            outcome: Outcome = await self._single_response(pending.request, model)
        except (Fault, Unavailable, Busy, Failed) as error:
            outcome = error
        except Exception as error:
            _log.exception("a call failed")
            outcome = error
        _notify(pending, outcome)

    async def _chat_stream(self, request: InferenceRequest, on_chunk: OnChunk) -> bytes:
        completion = CompletionAssembler(self._whole)
        self._streams.inc()
        async with aclosing(self._upstream.chat_stream(request)) as events:
            async for event in events:
                number = completion.count
                try:
                    chunks = completion.feed(event)
                except StreamFailed as error:
                    raise Failed(str(error)) from None
                except ValueError as error:
                    raise Failed(f"its stream is not OpenAI's: {error}") from None
                for chunk in chunks:
                    await on_chunk(number, chunk)
                    number += 1
        if not completion.complete:
            raise Failed("its stream ended before it was complete")
        return completion_members(request, completion.result(), completion.count)

    async def _single_response(self, request: InferenceRequest, model: Model | None) -> bytes:
        if is_chat(request):
            self._calls.inc()
            answered = await self._upstream.chat(request, self._timeout_of(request))
            if not is_json(answered):
                raise Failed("its answer is not JSON")
            return completion_members(request, answered, None)
        try:
            return await self._tensor_response(request, model)
        except Fault as fault:
            model = await self._refreshed(fault, request, model)
        return await self._tensor_response(request, model)

    async def _tensor_response(self, request: InferenceRequest, model: Model | None) -> bytes:
        inputs, single, shorthand = request.inputs, False, not request.inputs
        if shorthand:
            model = model or await self._models.load(request.model)
            check_request(request, model)
            inputs, single = expand(shorthand_of(request), model.only_input())
        self._calls.inc()
        answer = await self._upstream.infer(request, inputs, self._timeout_of(request))
        if model is not None and not model.lists(answer.model_version):
            await self._model_changed(model, answer.model_version)  # for those that come
        value = collapse(answer.outputs, single=single) if shorthand else answer.outputs
        spent = b"" if answer.inference_ms is None else b'"inference_ms":%.3f' % answer.inference_ms
        return b'"%b":%b,"model":%b,"model_version":%b,"timing":{%b}' % (
            b"data" if shorthand else b"outputs", value, _encode(request.model), _encode(answer.model_version), spent,
        )  # fmt: skip

    def _timeout_of(self, request: InferenceRequest) -> float:
        return request.timeout or self._timeouts.get(request.model, self._timeout)

    def _spawn(self, pending: BatchItem, work: Any) -> None:
        in_flight = InFlightCall((pending,))
        in_flight.begin(self._tasks.spawn(work))

    async def close(self) -> None:
        """Give up what is in flight."""
        await self._batcher.close()
        if self._probe is not None:
            await self._probe.close()
        await self._tasks.cancel()


def _resolve(outcomes: list[tuple[PendingRequest, Outcome]]) -> None:
    """Resolve the futures of callers that await their answer; all outcomes of one call come at once."""
    for pending, outcome in outcomes:
        answered: asyncio.Future[bytes] = pending.context
        if answered.done():
            continue
        if isinstance(outcome, Exception):
            answered.set_exception(outcome)
        else:
            answered.set_result(outcome)


def _notify(pending: BatchItem, outcome: Outcome) -> None:
    if pending.complete():
        pending.callback([(pending, outcome)])
