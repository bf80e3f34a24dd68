"""The routes, and one place where a failure becomes `{"error": …}` with its status."""

import logging
import math
import time
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from podpair.inference.core.errors import (
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
)
from podpair.inference.core.v2 import decode_request, encode_response
from podpair.inference.http import documents
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.Response]]

DEADLINE = "podpair-deadline"
DURATION = "podpair-inference-ms"
RETRY_AFTER_MS = "podpair-retry-after-ms"
HEADER_LENGTH = "Inference-Header-Content-Length"


class Api:
    """The V2 protocol's resources."""

    def __init__(self, catalog: Catalog, metrics: Metrics, max_body_bytes: int) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=self._max_body_bytes)
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/v2/models/{model}/infer", self.infer),
            ("POST", "/v2/models/{model}/versions/{version}/infer", self.infer),
            ("GET", "/v2/models/{model}", self.model),
            ("GET", "/v2/models/{model}/versions/{version}", self.model),
            ("GET", "/v2/models/{model}/ready", self.model_ready),
            ("GET", "/v2/models/{model}/versions/{version}/ready", self.model_ready),
            ("GET", "/v2", self.server),
            ("GET", "/v2/", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("GET", "/metrics", self.metrics),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, path, self._answering(handler))
        app.router.add_route("*", "/{path:.*}", self._answering(self.nothing))
        return app

    async def infer(self, request: web.Request) -> web.Response:
        """Decode, queue, encode."""
        started = time.perf_counter()
        match, headers = request.match_info, request.headers
        served = self._catalog.accepting(match["model"], match.get("version"))
        deadline = _deadline(headers.get(DEADLINE))
        if (request.content_length or 0) > self._max_body_bytes:
            raise TooLargeError(
                f"{request.content_length} bytes, the limit is {self._max_body_bytes} (server.max_body_bytes)"
            )
        decoded = decode_request(await request.read(), _header_length(headers.get(HEADER_LENGTH)), served.signature)
        entered = time.perf_counter()
        try:
            arrays = await served.scheduler.submit(decoded.arrays, deadline, decoded.parameters)
        except InferenceError as error:
            self._log_failure(error, served.model, decoded.id)
            raise
        duration = (time.perf_counter() - entered) * 1000
        parts, header_length = encode_response(served.model, served.version, decoded, served.signature.outputs, arrays)
        answer = {DURATION: f"{duration:.3f}", "Content-Type": "application/json"}
        if header_length is not None:
            answer[HEADER_LENGTH] = str(header_length)
            answer["Content-Type"] = "application/octet-stream"
        if log.isEnabledFor(logging.DEBUG):
            total = (time.perf_counter() - started) * 1000
            log.debug("answered", extra={"model": served.model, "request": decoded.id, "ms": round(total, 3)})
        return web.Response(body=b"".join(parts) if len(parts) > 1 else parts[0], headers=answer)

    async def model(self, request: web.Request) -> web.Response:
        """A model's metadata."""
        model = self._catalog.model(request.match_info["model"])
        return _json(documents.model(model, self._catalog.version(model.name, request.match_info.get("version"))))

    async def model_ready(self, request: web.Request) -> web.Response:
        """200 where `infer` would be taken."""
        served = self._catalog.accepting(request.match_info["model"], request.match_info.get("version"))
        return _json({"name": served.model, "version": served.version, "ready": True})

    async def server(self, _: web.Request) -> web.Response:
        """The server's metadata."""
        return _json(documents.server())

    async def live(self, _: web.Request) -> web.Response:
        """200 as long as the loop turns."""
        return _json({"live": True})

    async def ready(self, _: web.Request) -> web.Response:
        """200 from the end of the warm-up to the beginning of the stop."""
        ready = self._catalog.ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus' text format."""
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def nothing(self, request: web.Request) -> web.Response:
        """Any other path, or another method."""
        raise NotFoundError(
            f"no {request.method} {request.path}; this is the Open Inference Protocol V2: "
            "GET /v2, GET /v2/models/NAME, POST /v2/models/NAME/infer"
        )

    def _answering(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except InferenceError as error:
                return self._failed(error)
            except web.HTTPRequestEntityTooLarge:
                return self._failed(TooLargeError(f"more than {self._max_body_bytes} bytes (server.max_body_bytes)"))
            except web.RequestPayloadError as error:
                return self._failed(InvalidRequestError(f"the body can't be read: {error}"))
            except Exception:
                log.exception("a handler failed", extra={"path": request.path})
                return self._failed(InferenceError("an internal error; the container's log has it"))

        return answer

    def _failed(self, error: InferenceError) -> web.Response:
        self._metrics.errors.labels(error.kind).inc()
        headers = {}
        if isinstance(error, OverloadedError):
            headers = {
                "Retry-After": str(math.ceil(error.retry_after)),
                RETRY_AFTER_MS: str(math.ceil(error.retry_after * 1000)),
            }
        elif isinstance(error, UnavailableError):
            headers = {"Retry-After": "1"}
        return _json({"error": str(error)}, error.status, headers)

    def _log_failure(self, error: InferenceError, model: str, request_id: str | None) -> None:
        level = logging.WARNING if error.status >= 500 else logging.DEBUG
        log.log(
            level,
            "request failed",
            extra={"model": model, "request": request_id, "type": error.kind, "error": str(error)},
        )


def _json(document: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(document)
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json", **(headers or {})})


def _deadline(header: str | None) -> float | None:
    """A deadline in Unix milliseconds, on the monotonic clock."""
    if header is None:
        return None
    try:
        left = float(header) / 1000 - time.time()
    except ValueError:
        raise InvalidRequestError(f"{DEADLINE} is {header!r}; it is a time in Unix milliseconds") from None
    if not math.isfinite(left):
        raise InvalidRequestError(f"{DEADLINE} is {header!r}; it is a time in Unix milliseconds")
    return time.monotonic() + left


def _header_length(header: str | None) -> int | None:
    if header is None:
        return None
    if not (header.isascii() and header.isdecimal()):
        raise InvalidRequestError(f"{HEADER_LENGTH} is {header!r}; it is the number of bytes of the JSON")
    return int(header)
