"""The one place where a failure becomes `{"error": …}` with its status, and is counted."""

import logging
import math

from podpair.inference.core.errors import InferenceError, MethodNotAllowedError, OverloadedError, UnavailableError
from podpair.inference.http.requests import Request, Response, json_response
from podpair.inference.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_AFTER_MS = "podpair-retry-after-ms"


class Failures:
    """Failures as answers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def explained(self, error: Exception, request: Request) -> Response:
        """A handler's failure; what it didn't mean for the client is in the log only."""
        if isinstance(error, InferenceError):
            return self.failed(error, request)
        if not isinstance(error, ConnectionResetError):
            log.error("a handler failed", extra={"path": request.head.path}, exc_info=error)
        return self.failed(InferenceError("an internal error; the container's log has it"), request)

    def failed(self, error: InferenceError, request: Request | None) -> Response:
        """A failure that is meant for the client."""
        self.count(error, request)
        return json_response({"error": str(error)}, error.status, _headers(error))

    def count(self, error: InferenceError, request: Request | None) -> None:
        """A failure that is told to the client in another way."""
        self._metrics.errors.labels(error.kind).inc()
        level = logging.WARNING if error.status >= 500 else logging.DEBUG
        if log.isEnabledFor(level):
            known = {"model": request.values.get("model"), "request": request.id} if request else {}
            log.log(level, "request failed", extra={**known, "type": error.kind, "error": str(error)})

    def refused(self, status: int, message: str) -> Response:
        """What is no request."""
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
