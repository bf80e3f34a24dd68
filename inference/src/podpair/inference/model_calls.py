"""Answers the calls that models make to each other, as another protocol beside REST and gRPC: through the same queues.

Invariant: a call is answered once, or withdrawn; the version that it holds is released.
"""

import asyncio
import time
from collections.abc import Callable

from podpair.inference.core.errors import InferenceError, ModelError, UnavailableError, to_client_error
from podpair.inference.core.model_call import ModelAnswer, ModelCall, request_arrays
from podpair.inference.core.tensors import Array
from podpair.inference.metrics import Metrics
from podpair.inference.responder import Responder
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.served_model import ServedVersion
from podpair.inference.tracing import RecordedTrace, Tracing

# How many models may call each other in a row: a circle without an end is cut here.
_LONGEST_PATH = 16

Finish = Callable[[ModelAnswer | Exception], object]


class ModelCalls:
    """A `ModelCaller`, of the models of a catalog that is opened later: models are loaded with it."""

    def __init__(self, metrics: Metrics, tracing: Tracing) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._catalog: Catalog | None = None
        self._waiting: set[asyncio.Task[None]] = set()

    def open(self, catalog: Catalog) -> None:
        """Call the models of this catalog from now on."""
        self._catalog = catalog

    def begin(self, call: ModelCall, caller: str, finish: Finish) -> Callable[[], object]:
        """See `ModelCaller.begin`."""
        catalog = self._catalog
        if catalog is None:
            finish(UnavailableError("no models are served yet"))
            return _nothing
        if not call.context.loading:
            return self._begin(catalog, call, finish)
        task = asyncio.get_running_loop().create_task(self._begin_once_loaded(catalog, call, caller, finish))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task.cancel

    async def _begin_once_loaded(self, catalog: Catalog, call: ModelCall, caller: str, finish: Finish) -> None:
        """Begin a call of a model that is being loaded, once the called one is; cancelling it withdraws the call."""
        answered: asyncio.Future[ModelAnswer | Exception] = asyncio.get_running_loop().create_future()
        withdraw: Callable[[], object] = _nothing

        def settle(outcome: ModelAnswer | Exception) -> None:
            if not answered.done():
                answered.set_result(outcome)

        try:
            await catalog.until_loaded(call.model, caller)
            withdraw = self._begin(catalog, call, settle)
            finish(await answered)
        except asyncio.CancelledError:
            withdraw()
            raise
        except InferenceError as error:
            finish(error)

    def _begin(self, catalog: Catalog, call: ModelCall, finish: Finish) -> Callable[[], object]:
        began = time.monotonic()
        tracer, context = self._tracing.tracer, call.context
        trace = None
        if tracer is not None and context.traceparent is not None:
            trace = tracer.begin(context.traceparent, began)
        try:
            if len(context.path) >= _LONGEST_PATH:
                raise ModelError(f"models call each other without an end: {' → '.join(context.path)} → {call.model}")
            served = catalog.acquire(call.model, call.version, from_model=True)
        except Exception as error:
            self._fail(error, trace, finish)
            return _nothing
        try:
            arrays = request_arrays(call, served.signature)
            if trace is not None:
                trace.annotate(model=served.model, version=served.version)
                trace.stage("ingress", began, time.monotonic())
            responder = _CallResponder(catalog, served, trace, self._metrics, finish)
            responder.path = context.path
            responder.queued = served.scheduler.enqueue(
                arrays, context.deadline, call.parameters, responder, context.priority
            )
        except Exception as error:
            catalog.release(served)
            self._fail(error, trace, finish)
            return _nothing
        return responder.withdraw

    def _fail(self, error: Exception, trace: RecordedTrace | None, finish: Finish) -> None:
        if trace is not None:
            trace.end(error)
        self._metrics.errors.labels(_kind(error)).inc()
        finish(error)


class _CallResponder(Responder):
    """Answers a call."""

    __slots__ = ("_finish", "_metrics", "path")

    def __init__(
        self,
        catalog: Catalog,
        served: ServedVersion,
        trace: RecordedTrace | None,
        metrics: Metrics,
        finish: Finish,
    ) -> None:
        super().__init__(catalog, served, trace)
        self._metrics = metrics
        self._finish = finish

    def send(self, arrays: list[Array], ready: float) -> None:
        self._finish(ModelAnswer([spec.name for spec in self._served.signature.outputs], arrays))

    def send_error(self, error: Exception) -> None:
        self._metrics.errors.labels(_kind(error)).inc()
        self._finish(to_client_error(self._served.model, error))


def _kind(error: Exception) -> str:
    return error.kind if isinstance(error, InferenceError) else InferenceError.kind


def _nothing() -> None:
    pass
