"""`infer`, the one request that comes thousands of times a second: decoded, queued, and answered in the turn in which it ran.

No task is made for it: the scheduler calls back, and the answers of a batch are written one behind the other.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

from podpair.inference.core.tensors import Array
from podpair.inference.core.v2 import InferRequest, encode_response
from podpair.inference.http import reading
from podpair.inference.http.answering import Answering
from podpair.inference.http.requests import Request, Response
from podpair.inference.http.routing import Route
from podpair.inference.runtime.catalog import Catalog, ServedVersion
from podpair.inference.tracing import Recorded, Tracing

log = logging.getLogger(__name__)

_ALL_JSON = b"podpair-inference-ms: %.3f\r\nContent-Type: application/json\r\n"
_MIXED = (
    b"podpair-inference-ms: %.3f\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n"
)


class InferApi:
    """The resource."""

    def __init__(self, catalog: Catalog, answering: Answering, max_body_bytes: int, tracing: Tracing) -> None:
        self._catalog = catalog
        self._answering = answering
        self._max_body_bytes = max_body_bytes
        self._tracing = tracing

    def routes(self) -> list[Route]:
        """With and without a version."""
        paths = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
        return [Route("POST", path, self.infer, direct=True) for path in paths]

    def infer(self, request: Request) -> None:
        """Decode and queue it. Raises InferenceError."""
        began = time.monotonic()
        asking = reading.asking(request)
        tracer = self._tracing.tracer
        trace = None if tracer is None else tracer.begin(asking.trace, began)
        try:
            self._queue(request, asking, began, trace)
        except BaseException as error:
            if trace is not None:
                trace.end(error)
            raise

    def _queue(self, request: Request, asking: reading.Asking, began: float, trace: Recorded | None) -> None:
        served = self._catalog.take(asking.model, asking.version, asking.key)
        try:
            deadline = reading.deadline(request) if asking.hurried else None
            content = request.body if asking.plain else reading.body(request, self._max_body_bytes)
            asked = served.decode(content, asking.header_length)
            request.id = asked.id
            entered = time.monotonic()
            if trace is not None:
                trace.tell(model=served.model, version=served.version, request=asked.id or "")
                trace.stage("ingress", began, entered)
            call = _Call(self._catalog, self._answering, request, served, asked, entered, trace)
            call.queued = served.scheduler.enqueue(asked.arrays, deadline, asked.parameters, call)
            request.gone = call.withdraw
            served.metrics.ingress.observe(entered - began)
        except BaseException:
            self._catalog.release(served)
            raise


class _Call:
    """A request between the queue and its answer."""

    __slots__ = ("_answering", "_asked", "_catalog", "_entered", "_request", "_served", "queued", "trace")

    def __init__(
        self,
        catalog: Catalog,
        answering: Answering,
        request: Request,
        served: ServedVersion,
        asked: InferRequest,
        entered: float,
        trace: Recorded | None,
    ) -> None:
        self._catalog = catalog
        self._answering = answering
        self._request = request
        self._served = served
        self._asked = asked
        self._entered = entered
        # What the scheduler, or the stage before it, knows it by.
        self.queued: Any = None
        # Where it is recorded.
        self.trace = trace

    def done(self, arrays: Sequence[Array]) -> None:
        """Encode the answer and write it."""
        served, asked = self._served, self._asked
        # It refers to this as its sink: the arrays would stay until cycles are collected.
        self.queued = None
        ready = time.monotonic()
        failed: Exception | None = None
        try:
            parts, length = encode_response(served.model, served.version, asked, served.signature.outputs, arrays)
            taken = (ready - self._entered) * 1000
            headers = _ALL_JSON % taken if length is None else _MIXED % (taken, length)
            self._request.answer(Response(200, parts, headers))
            served.metrics.egress.observe(time.monotonic() - ready)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("answered", extra={"model": served.model, "request": asked.id, "ms": round(taken, 3)})
        except Exception as error:
            failed = error
            self._request.answer(self._answering.explained(error, self._request))
        finally:
            self._catalog.release(served)
            if self.trace is not None:
                self.trace.stage("egress", ready, time.monotonic())
                self.trace.end(failed)

    def failed(self, error: Exception) -> None:
        """Say so."""
        self.queued = None
        try:
            self._request.answer(self._answering.explained(error, self._request))
        finally:
            self._catalog.release(self._served)
            if self.trace is not None:
                self.trace.end(error)

    def withdraw(self) -> None:
        """The client has gone; what runs already runs on."""
        queued, self.queued = self.queued, None
        if queued is not None and self._served.scheduler.withdraw(queued):
            self._catalog.release(self._served)
            if self.trace is not None:
                self.trace.end(ConnectionResetError("the client has gone"))
