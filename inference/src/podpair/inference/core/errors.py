"""Every way a request can fail, each with the HTTP status and the metric label it has everywhere.

The status is part of the core because the V2 protocol fixes it; an edge with another protocol (gRPC) maps from `kind`.
"""

import logging
from typing import ClassVar

log = logging.getLogger(__name__)


class InferenceError(Exception):
    """A request's end without an answer; its `str()` is the message for the client."""

    status: ClassVar[int] = 500
    # The label `reason` of inference_errors_total.
    kind: ClassVar[str] = "internal"


class InvalidRequestError(InferenceError):
    """The request can never succeed as it is: not JSON, a wrong shape, datatype, size or value."""

    status, kind = 400, "invalid"


class NotFoundError(InferenceError):
    """An unknown model, version or path."""

    status, kind = 404, "not_found"


class MethodNotAllowedError(InferenceError):
    """A method that a path doesn't support; `allowed` are those that it does."""

    status, kind = 405, "invalid"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class TooLargeError(InferenceError):
    """More bytes or rows than this container accepts in one request."""

    status, kind = 413, "too_large"


class OverloadedError(InferenceError):
    """The queue is full: the same request may succeed after `retry_after` seconds."""

    status, kind = 429, "overloaded"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(InferenceError):
    """The model isn't ready yet, or the container is stopping."""

    status, kind = 503, "unavailable"


class DeadlineExceededError(InferenceError):
    """The deadline passed before the request was computed; it hasn't run."""

    status, kind = 504, "deadline_exceeded"


class ModelError(InferenceError):
    """The model itself failed on this request, or returned what its signature doesn't allow."""

    status, kind = 500, "model"


class ModelEndedError(ModelError):
    """The model's process ended while it ran this request, perhaps among others."""


class ModelRestartingError(UnavailableError):
    """The model's process has ended, and the next isn't ready yet."""


class LoadError(InferenceError):
    """A model's current files can't be loaded; what was served before still is."""

    status, kind = 400, "load"


def to_client_error(model: str, error: Exception) -> InferenceError:
    """Return an error that is meant for clients as it is; log any other, and return a ModelError."""
    if isinstance(error, InferenceError):
        return error
    log.error("the model failed", extra={"model": model, "error": str(error)}, exc_info=error)
    return ModelError(f"model {model} failed: {error}")
