"""`infer`, the request that comes thousands of times a second: decoded, queued, and answered in the loop turn in which it ran.

No task is created for it: the scheduler calls back, and the answers of a batch are written one after the other.
"""

import logging
import time

from podpair.inference.core.tensors import Array
from podpair.inference.core.v2 import InferRequest, encode_response
from podpair.inference.http import infer_params
from podpair.inference.http.error_responses import ErrorResponses
from podpair.inference.http.infer_params import InferParams
from podpair.inference.http1.request_head import HeadCache
from podpair.inference.http1.requests import Request, Response
from podpair.inference.http1.routes import Route
from podpair.inference.responder import Responder
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.served_model import ServedVersion
from podpair.inference.tracing import RecordedTrace, Tracing

log = logging.getLogger(__name__)

_ALL_JSON = b"podpair-inference-ms: %.3f\r\nContent-Type: application/json\r\n"
_MIXED = (
    b"podpair-inference-ms: %.3f\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n"
)


class InferApi:
    """The infer resource."""

    def __init__(self, catalog: Catalog, errors: ErrorResponses, max_body_bytes: int, tracing: Tracing) -> None:
        self._catalog = catalog
        self._errors = errors
        self._max_body_bytes = max_body_bytes
        self._tracing = tracing
        self._params: HeadCache[InferParams] = HeadCache()

    def routes(self) -> list[Route]:
        """Return the routes, with and without a version."""
        paths = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
        return [Route("POST", path, self.infer, direct=True) for path in paths]

    def infer(self, request: Request) -> None:
        """Decode and queue a request. Raises InferenceError."""
        began = time.monotonic()
        params = self._params.get(request.head)
        if params is None:
            params = self._params.store(request.head, infer_params.read_params(request))
        tracer = self._tracing.tracer
        trace = None if tracer is None else tracer.begin(params.trace, began)
        try:
            self._enqueue(request, params, began, trace)
        except BaseException as error:
            if trace is not None:
                trace.end(error)
            raise

    def _enqueue(self, request: Request, params: InferParams, began: float, trace: RecordedTrace | None) -> None:
        served = self._catalog.acquire(params.model, params.version, params.key)
        try:
            deadline = infer_params.deadline(request) if params.has_deadline else None
            content = request.body if params.uncompressed else infer_params.body(request, self._max_body_bytes)
            asked = served.decode(content, params.header_length)
            request.id = asked.id
            entered = time.monotonic()
            if trace is not None:
                trace.annotate(model=served.model, version=served.version, request=asked.id or "")
                trace.stage("ingress", began, entered)
            responder = _InferResponder(self._catalog, self._errors, request, served, asked, trace)
            responder.entered = entered
            responder.queued = served.scheduler.enqueue(
                asked.arrays, deadline, asked.parameters, responder, params.priority
            )
            request.on_disconnect = responder.withdraw
            served.metrics.ingress.observe(entered - began)
        except BaseException:
            self._catalog.release(served)
            raise


class _InferResponder(Responder):
    """Answers a request."""

    __slots__ = ("_asked", "_errors", "_request", "entered")

    def __init__(
        self,
        catalog: Catalog,
        errors: ErrorResponses,
        request: Request,
        served: ServedVersion,
        asked: InferRequest,
        trace: RecordedTrace | None,
    ) -> None:
        super().__init__(catalog, served, trace)
        self._errors = errors
        self._request = request
        self._asked = asked
        self.entered = 0.0  # when it was queued, in monotonic seconds; set before it is

    def send(self, arrays: list[Array], ready: float) -> None:
        served, asked = self._served, self._asked
        parts, length = encode_response(served.model, served.version, asked, served.signature.outputs, arrays)
        taken = (ready - self.entered) * 1000
        headers = _ALL_JSON % taken if length is None else _MIXED % (taken, length)
        self._request.answer(Response(200, parts, headers))
        served.metrics.egress.observe(time.monotonic() - ready)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("answered", extra={"model": served.model, "request": asked.id, "ms": round(taken, 3)})

    def send_error(self, error: Exception) -> None:
        self._request.answer(self._errors.for_exception(error, self._request))
