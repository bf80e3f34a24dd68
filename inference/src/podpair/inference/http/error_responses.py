"""The one place where an error becomes `{"error": …}` with its status, and is counted."""

import logging
import math

from podpair.inference.core.errors import InferenceError, MethodNotAllowedError, OverloadedError, UnavailableError
from podpair.inference.http1.requests import Request, Response, json_response
from podpair.inference.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_AFTER_MS = "podpair-retry-after-ms"


class ErrorResponses:
    """Makes responses of errors, and counts them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def for_exception(self, error: Exception, request: Request) -> Response:
        """Return the response to whatever a handler raised; details that aren't meant for clients are only logged."""
        if isinstance(error, InferenceError):
            return self.for_error(error, request)
        if not isinstance(error, ConnectionResetError):
            log.error("a handler failed", extra={"path": request.head.path}, exc_info=error)
        return self.for_error(InferenceError("an internal error; the container's log has it"), request)

    def for_error(self, error: InferenceError, request: Request | None) -> Response:
        """Return the response to an error that is meant for the client."""
        self.count(error, request)
        return json_response({"error": str(error)}, error.status, _headers(error))

    def count(self, error: InferenceError, request: Request | None) -> None:
        """Count and log an error, whatever way it is sent to the client."""
        self._metrics.errors.labels(error.kind).inc()
        level = logging.WARNING if error.status >= 500 else logging.DEBUG
        if log.isEnabledFor(level):
            known = {"model": request.path_params.get("model"), "request": request.id} if request else {}
            log.log(level, "request failed", extra={**known, "type": error.kind, "error": str(error)})

    def for_bad_request(self, status: int, message: str) -> Response:
        """Return the response to bytes that are no valid HTTP request."""
        self._metrics.errors.labels("invalid").inc()
        log.debug("request refused", extra={"status": status, "error": message})
        return json_response({"error": message}, status)


def _headers(error: InferenceError) -> dict[str, str]:
    if isinstance(error, OverloadedError):
        return {
            "Retry-After": str(math.ceil(error.retry_after)),
            RETRY_AFTER_MS: str(math.ceil(error.retry_after * 1000)),
        }
    if isinstance(error, MethodNotAllowedError):
        return {"Allow": error.allowed}
    return {"Retry-After": "1"} if isinstance(error, UnavailableError) else {}
