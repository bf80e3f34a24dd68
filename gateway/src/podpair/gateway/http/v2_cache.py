"""Answers V2's infer calls over HTTP from the cache, for a model that is called over REST: whole responses, as they came.

As in sessions a call belongs to none of those who wait for it. What isn't known to mean nothing to the model (any header, white
space, the request's own id) makes another question.

Invariant: only complete responses with status 200 are kept, unless the model's server forbids it (Cache-Control: no-store).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import msgspec

from podpair.gateway.core.answer_cache import AnswerCaches, Flight, ModelCache, cache_clock
from podpair.gateway.core.http_response import Response
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.questions import Question, is_in_sequence, scope_of, serving_of
from podpair.gateway.tasks import Tasks
from podpair.gateway.upstream.batcher import seconds_left
from podpair.gateway.upstream.client import InferenceClient

# Of one call each: they change nothing about what is answered.
_NEUTRAL = frozenset(
    {
        "traceparent", "tracestate", "baggage", "user-agent", "x-request-id", "x-correlation-id", "priority", "dnt",
        "podpair-key", "podpair-deadline", "podpair-priority", "cache-control", "pragma",
    }
)  # fmt: skip
_HEADER_LENGTH = "inference-header-content-length"  # of the JSON before binary tensors


class _Body(msgspec.Struct):
    parameters: msgspec.Raw = msgspec.Raw(b"")


_body = msgspec.json.Decoder(_Body)

Call = Callable[[], Awaitable[Response]]
Watch = Callable[[Coroutine[Any, Any, Response]], Awaitable[Response]]


class V2Request(NamedTuple):
    """A call as it is passed on to the model. The names of its headers are in lower case."""

    model: str
    target: str
    headers: dict[str, str]
    body: bytes
    subject: str
    deadline: float | None  # Unix seconds


class CachedResponse(NamedTuple):
    """A response, and what the cache had to do with it, as RFC 9211 says it; `age` in seconds if it was kept."""

    response: Response
    status: str
    age: float | None = None


class _SharedForward(Flight):
    """A call to the model, and how many wait for it."""

    __slots__ = ("asked", "task")

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self.task: asyncio.Task[Response] | None = None
        self.asked = 0


class V2Cache:
    """Looks calls up. caches: know whether what is kept is current; client: which versions a model has."""

    def __init__(self, caches: AnswerCaches, client: InferenceClient) -> None:
        self._caches = caches
        self._client = client
        self._tasks = Tasks()

    async def forward(self, cache: ModelCache, request: V2Request, call: Call, watch: Watch) -> CachedResponse:
        """Return the response. call: asks the model; watch: waits for something as long as the client is there.

        Raises what `call` and `watch` raise, and Fault(deadline_exceeded).
        """
        model = self._client.described(request.model)
        if model is None:
            with suppress(Fault, Unavailable, Busy, Failed):  # the call itself tells why
                model = await self._client.describe(request.model)
        question = None if model is None else _question(request, model, cache.policy.shared)
        now = cache_clock()
        if model is None or question is None or not self._caches.is_current(now):
            cache.counts.bypass()
            return CachedResponse(await watch(_call(call, request.deadline)), "podpair; fwd=bypass")
        cache.describe(model)
        kept = cache.get(question, now)
        if kept is not None:
            cache.counts.hit()
            return CachedResponse(kept, "podpair; hit", cache.age(question, now))
        flight = cast("_SharedForward | None", cache.flight(question))
        joins = flight is not None
        if flight is None:
            cache.counts.miss()
            flight = _SharedForward(question)
            cache.begin(flight)
            flight.task = self._tasks.spawn(self._run(cache, flight, model, call))
            flight.task.add_done_callback(_retrieve)
        else:
            cache.counts.wait()
        response = await _wait(cache, flight, request.deadline, watch)
        return CachedResponse(response, "podpair; fwd=miss; collapsed" if joins else "podpair; fwd=miss")

    async def _run(self, cache: ModelCache, flight: _SharedForward, model: Model, call: Call) -> Response:
        try:
            response = await call()
        except BaseException:
            cache.end(flight)
            raise
        if cache.end(flight) and _may_be_kept(response) and self._client.described(model.name) is model:
            cache.store(flight.question, response, _size(response), cache_clock())
        return response


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[None]:
    """Give up at a deadline, in Unix seconds. Raises Fault(deadline_exceeded) then."""
    limit = asyncio.timeout(seconds_left(deadline))
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():  # the call's own
            raise
        raise Fault(Code.DEADLINE_EXCEEDED, "the deadline passed while the model was at work") from None


async def _call(call: Call, deadline: float | None) -> Response:
    async with _until(deadline):
        return await call()


async def _wait(cache: ModelCache, flight: _SharedForward, deadline: float | None, watch: Watch) -> Response:
    task = flight.task
    assert task is not None  # noqa: S101 - a flight that is found has begun
    flight.asked += 1  # before anything else can run: the last one who leaves cancels the call
    try:
        return await watch(_call(lambda: asyncio.shield(task), deadline))
    finally:
        flight.asked -= 1
        if not flight.asked and not task.done():
            cache.end(flight)
            task.cancel()


def _retrieve(task: "asyncio.Task[Response]") -> None:
    """Note that an error has been seen: those who waited for the call may all have left."""
    if not task.cancelled():
        task.exception()


def _question(request: V2Request, model: Model, shared: bool) -> Question | None:
    """Return what a call asks; None if its answer is nobody else's, or its client wants none that is kept."""
    headers = request.headers
    scope = scope_of(request.subject, "", shared=shared)
    if scope is None or _forbids(headers.get("cache-control", "")) or not _is_independent(request):
        return None
    telling = sorted((name, value) for name, value in headers.items() if name not in _NEUTRAL)
    texts = [
        b"v2",
        request.target.encode(),
        *(text.encode("utf-8", "surrogateescape") for each in telling for text in each),
    ]
    texts.append(request.body)
    digest = blake2b(b"".join(b"%d:%b" % (len(text), text) for text in texts), digest_size=32).digest()
    return Question(scope, digest, serving_of(model.versions, headers.get("podpair-key", "")))


def _is_independent(request: V2Request) -> bool:
    """Return whether a call is V2's and in no sequence."""
    length = request.headers.get(_HEADER_LENGTH)
    if length is not None and not (length.isdigit() and len(length) < 16):
        return False
    try:
        parameters = bytes(_body.decode(request.body if length is None else request.body[: int(length)]).parameters)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return not parameters or not is_in_sequence(parameters)


def _forbids(cache_control: str) -> bool:
    said = {directive.partition("=")[0].strip().lower() for directive in cache_control.split(",")}
    return not said.isdisjoint(("no-store", "no-cache"))


def _may_be_kept(response: Response) -> bool:
    said = response.headers.get(b"cache-control", b"").decode("latin-1")
    return response.status == 200 and not _forbids(said)


def _size(response: Response) -> int:
    return len(response.body) + sum(len(name) + len(value) for name, value in response.headers.items())
