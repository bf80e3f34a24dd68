"""Answers requests to models that have a cache: from what is kept, by a call that is in flight, or by one that begins.

A call belongs to none of those who wait for it: it has no deadline, and is cancelled when the last of them has left. So nobody's
deadline or cancellation ends it for the others, and what the model makes of it, an error too, is everybody's.

Invariant: admission, routes and limits are applied before a request comes here, to hits as to misses.
"""

import asyncio
import math
from typing import Any, cast

import msgspec

from podpair.common.gateway_config.cache import Cache, CachedModel
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.answer_cache import (
    AnswerCaches,
    CacheCounts,
    CachePolicy,
    Flight,
    ModelCache,
    cache_clock,
)
from podpair.gateway.core.chat import is_chat
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.questions import Question, digest_of, scope_of, serving_of
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.result_members import mark_cached
from podpair.gateway.core.row_codec import RowForm
from podpair.gateway.metrics import Metrics
from podpair.gateway.upstream.batch_calls import ResultCallback, notify
from podpair.gateway.upstream.batcher import Outcome, PendingRequest
from podpair.gateway.upstream.calls import Upstream
from podpair.gateway.upstream.client import InferenceClient
from podpair.gateway.upstream.readiness import Readiness

_CROWDED = 64  # askers that have left a call and are remembered


class SharedCall(Flight):
    """A call to the model, and who waits for it."""

    __slots__ = ("asked", "askers", "cache", "call", "leader", "model")

    def __init__(self, question: Question, cache: ModelCache, model: Model | None, leader: PendingRequest) -> None:
        super().__init__(question)
        self.cache = cache
        self.model = model
        self.call: PendingRequest | None = None
        self.leader = leader  # who asked first
        self.askers = [leader]
        self.asked = 1  # how many of them have not left
        leader.in_flight = self  # type: ignore[assignment]

    def join(self, pending: PendingRequest) -> None:
        """Have another one wait for the answer."""
        if len(self.askers) > 2 * self.asked + _CROWDED:
            self.askers = [asker for asker in self.askers if not asker.done]
        self.askers.append(pending)
        self.asked += 1
        pending.in_flight = self  # type: ignore[assignment]

    def leave(self) -> None:
        """Stop waiting for one of them; the call is cancelled when nobody waits any more."""
        self.asked -= 1
        if self.asked == 0 and self.call is not None:
            self.cache.end(self)
            self.call.cancel()


class CachedInferenceClient(InferenceClient):
    """The client of a model in the pod, if answers of some models are cached."""

    def __init__(
        self, config: Config, upstream: Upstream, readiness: Readiness, metrics: Metrics, caches: AnswerCaches
    ) -> None:
        super().__init__(config, upstream, readiness, metrics)
        self._caches = caches
        self._due: list[tuple[PendingRequest, Outcome]] = []  # hits of this turn of the loop
        self._on_calls = self._on_outcomes  # one object, by which the batcher finds what belongs together
        # What is there after a restart may be another model.
        readiness.on_change(lambda _: caches.clear("model"))

    def row_form(self, name: str, width: int) -> RowForm | None:
        """Return how rows are encoded, if requests to the model need not be looked up: see `InferenceClient.row_form`."""
        return None if self._caches.get(name) is not None else super().row_form(name, width)

    def submit(
        self,
        request: InferenceRequest,
        callback: ResultCallback,
        context: Any = None,
        *,
        alone: bool = False,
        retried: bool = False,
    ) -> PendingRequest:
        """Submit a request, as `InferenceClient.submit`: the outcome of an answer that is kept comes later, too."""
        cache = self._caches.get(request.model)
        if cache is None or request.stream or request.version:
            return super().submit(request, callback, context, alone=alone, retried=retried)
        pending = PendingRequest(request, callback, context, retried=retried)
        if request.deadline is not None and not self._set_timer(pending, request.deadline):
            return pending
        digest = digest_of(request)  # now: its caller may hold the input in another form from here on
        model = self._models.get(request.model)
        if model is None and not is_chat(request):
            self._spawn(pending, self._describe_then_look_up(pending, cache, digest, alone=alone))
        else:
            self._look_up(pending, cache, model, digest, alone=alone)
        return pending

    async def _describe_then_look_up(
        self, pending: PendingRequest, cache: ModelCache, digest: bytes | None, *, alone: bool
    ) -> None:
        try:
            model = await self._models.load(pending.request.model)
        except (Fault, Unavailable, Busy, Failed) as error:
            if pending.request.inputs:  # they mean the same under any description; who answers isn't known
                await self._infer_alone(pending, None)
            elif pending.complete():
                pending.callback([(pending, error)])
            return
        if not pending.done:
            self._look_up(pending, cache, model, digest, alone=alone)

    def _look_up(
        self, pending: PendingRequest, cache: ModelCache, model: Model | None, digest: bytes | None, *, alone: bool
    ) -> None:
        request = pending.request
        versions: tuple[str, ...] = ()
        if model is not None:
            cache.describe(model)
            versions = model.versions
        scope = scope_of(request.subject, request.key, shared=cache.policy.shared)
        now = cache_clock()
        if digest is None or scope is None or not self._caches.is_current(now):
            cache.counts.bypass()
            self._call(pending, model, alone=alone)
            return
        question = Question(scope, digest, serving_of(versions, request.key))
        answer = cache.get(question, now)
        if answer is not None:
            cache.counts.hit()
            self._answer_soon(pending, answer)
        elif (flight := cache.flight(question)) is None:
            cache.counts.miss()
            self._share(SharedCall(question, cache, model, pending), pending, alone=alone)
        elif alone:  # the model may die of what else is in that call
            cache.counts.bypass()
            self._call(pending, model, alone=True)
        else:
            cache.counts.wait()
            cast("SharedCall", flight).join(pending)

    def _call(self, pending: PendingRequest, model: Model | None, *, alone: bool) -> None:
        """Ask the model for this one alone, as far as the cache is concerned."""
        if model is None or is_chat(pending.request):
            self._spawn(pending, self._infer_alone(pending, None))
        elif alone or not self._enqueue(pending, model):
            self._spawn(pending, self._infer_alone(pending, model))

    def _share(self, flight: SharedCall, leader: PendingRequest, *, alone: bool) -> None:
        flight.cache.begin(flight)
        request = msgspec.structs.replace(leader.request, deadline=None)
        flight.call = super().submit(request, self._on_calls, flight, alone=alone, retried=leader.retried)

    def _answer_soon(self, pending: PendingRequest, answer: bytes) -> None:
        if not self._due:
            asyncio.get_running_loop().call_soon(self._answer_due)
        self._due.append((pending, answer))

    def _answer_due(self) -> None:
        due, self._due = self._due, []
        notify(due)

    def _on_outcomes(self, outcomes: list[tuple[PendingRequest, Outcome]]) -> None:
        """Give the outcomes of shared calls to all who wait for them, and keep the answers."""
        answered: list[tuple[PendingRequest, Outcome]] = []
        now = cache_clock()
        for call, outcome in outcomes:
            flight: SharedCall = call.context
            flight.call = None
            may_be_kept = flight.cache.end(flight)
            if isinstance(outcome, Exception):
                answered += [(asker, outcome) for asker in flight.askers]
                continue
            if may_be_kept and self._is_current(flight):
                hit = mark_cached(outcome, b"hit")
                flight.cache.store(flight.question, hit, len(hit), now)
            shared = mark_cached(outcome, b"wait") if len(flight.askers) > 1 else outcome
            answered += [(asker, outcome if asker is flight.leader else shared) for asker in flight.askers]
        notify(answered)

    def _is_current(self, flight: SharedCall) -> bool:
        """Return whether the model is described as it was when the call began: then no other version has answered it."""
        return flight.model is None or self._models.get(flight.model.name) is flight.model


def make_caches(config: Cache, metrics: Metrics) -> AnswerCaches | None:
    """Make the caches that the configuration declares; None: it declares none."""
    if not config.models:
        return None
    # With a topic nothing counts as current before that has been read.
    until = math.inf if config.topic is None else -math.inf
    return AnswerCaches({cached.model: _model_cache(cached, metrics) for cached in config.models}, until)


def _model_cache(cached: CachedModel, metrics: Metrics) -> ModelCache:
    name = cached.model
    policy = CachePolicy(name, cached.scope == "shared", cached.ttl_seconds, cached.max_bytes)
    outcomes = {how: metrics.cache_requests.labels(name, how).inc for how in ("hit", "miss", "wait", "bypass")}
    counts = CacheCounts(**outcomes, removed=lambda why, count: metrics.cache_removed.labels(name, why).inc(count))
    cache = ModelCache(policy, counts)

    def size() -> int:
        cache.expire(cache_clock())
        return cache.size

    metrics.cache_bytes.labels(name).set_function(size)
    metrics.cache_entries.labels(name).set_function(lambda: len(cache))
    return cache
