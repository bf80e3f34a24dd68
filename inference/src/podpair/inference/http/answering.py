"""Answers, and the one place where a failure becomes `{"error": …}` with its status."""

import logging
import math
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from podpair.inference.core.errors import InferenceError, OverloadedError, UnavailableError
from podpair.inference.metrics import Metrics

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The id that the client gave its request, once its body has been read.
REQUEST_ID: web.RequestKey[str | None] = web.RequestKey("id", str)
RETRY_AFTER_MS = "podpair-retry-after-ms"


def json_response(document: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A document in JSON; bytes are JSON already."""
    content = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return web.Response(body=content, status=status, headers={"Content-Type": "application/json", **(headers or {})})


class Answering:
    """Wraps handlers: an exception is an answer, too, and counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, handler: Handler) -> Handler:
        """The handler, which doesn't fail any more."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except InferenceError as error:
                self.count(error, request)
                return _failed(error)
            except Exception:
                log.exception("a handler failed", extra={"path": request.path})
                self._metrics.errors.labels(InferenceError.kind).inc()
                return _failed(InferenceError("an internal error; the container's log has it"))

        return answer

    def count(self, error: InferenceError, request: web.Request) -> None:
        """A failure that has been told to the client."""
        self._metrics.errors.labels(error.kind).inc()
        level = logging.WARNING if error.status >= 500 else logging.DEBUG
        if log.isEnabledFor(level):
            known = {"model": request.match_info.get("model"), "request": request.get(REQUEST_ID)}
            log.log(level, "request failed", extra={**known, "type": error.kind, "error": str(error)})


def _failed(error: InferenceError) -> web.Response:
    headers = {}
    if isinstance(error, OverloadedError):
        headers = {
            "Retry-After": str(math.ceil(error.retry_after)),
            RETRY_AFTER_MS: str(math.ceil(error.retry_after * 1000)),
        }
    elif isinstance(error, UnavailableError):
        headers = {"Retry-After": "1"}
    return json_response({"error": str(error)}, error.status, headers)
