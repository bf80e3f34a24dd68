"""`infer`, the one request that comes thousands of times a second: decoded, queued, and answered in the turn in which it ran.

No task is made for it: the scheduler calls back, and the answers of a batch are written one behind the other.
"""

import logging
import time

from podpair.inference.answering import Answering
from podpair.inference.core.tensors import Array
from podpair.inference.core.v2 import InferRequest, encode_response
from podpair.inference.http import reading
from podpair.inference.http.failures import Failures
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

    def __init__(self, catalog: Catalog, failures: Failures, max_body_bytes: int, tracing: Tracing) -> None:
        self._catalog = catalog
        self._failures = failures
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
            call = _Call(self._catalog, self._failures, request, served, asked, entered, trace)
            call.queued = served.scheduler.enqueue(asked.arrays, deadline, asked.parameters, call)
            request.gone = call.withdraw
            served.metrics.ingress.observe(entered - began)
        except BaseException:
            self._catalog.release(served)
            raise


class _Call(Answering):
    """Ends a request."""

    __slots__ = ("_asked", "_entered", "_failures", "_request")

    def __init__(
        self,
        catalog: Catalog,
        failures: Failures,
        request: Request,
        served: ServedVersion,
        asked: InferRequest,
        entered: float,
        trace: Recorded | None,
    ) -> None:
        super().__init__(catalog, served, trace)
        self._failures = failures
        self._request = request
        self._asked = asked
        self._entered = entered

    def send(self, arrays: list[Array], ready: float) -> None:
        served, asked = self._served, self._asked
        parts, length = encode_response(served.model, served.version, asked, served.signature.outputs, arrays)
        taken = (ready - self._entered) * 1000
        headers = _ALL_JSON % taken if length is None else _MIXED % (taken, length)
        self._request.answer(Response(200, parts, headers))
        served.metrics.egress.observe(time.monotonic() - ready)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("answered", extra={"model": served.model, "request": asked.id, "ms": round(taken, 3)})

    def explain(self, error: Exception) -> None:
        self._request.answer(self._failures.explained(error, self._request))
