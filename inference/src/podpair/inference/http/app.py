"""The routes of the V2 protocol: a request is decoded, queued, and its answer encoded."""

import logging
import time

from aiohttp import web

from podpair.inference import documents
from podpair.inference.core.errors import NotFoundError
from podpair.inference.core.v2 import decode_request, encode_response
from podpair.inference.http import reading
from podpair.inference.http.answering import REQUEST_ID, Answering, Handler, json_response
from podpair.inference.http.generate import GenerateApi
from podpair.inference.http.repository import RepositoryApi
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog, ServedModel, ServedVersion

log = logging.getLogger(__name__)

DURATION = "podpair-inference-ms"


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
            ("GET", "/v2/models/stats", self.statistics),
            ("GET", "/v2/models/{model}", self.model),
            ("GET", "/v2/models/{model}/versions/{version}", self.model),
            ("GET", "/v2/models/{model}/ready", self.model_ready),
            ("GET", "/v2/models/{model}/versions/{version}/ready", self.model_ready),
            ("GET", "/v2/models/{model}/stats", self.statistics),
            ("GET", "/v2/models/{model}/versions/{version}/stats", self.statistics),
            ("GET", "/v2/models/{model}/config", self.config),
            ("GET", "/v2/models/{model}/versions/{version}/config", self.config),
            ("GET", "/v2", self.server),
            ("GET", "/v2/", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("GET", "/metrics", self.metrics),
        ]
        answering = Answering(self._metrics)
        routes += GenerateApi(self._catalog, answering, self._max_body_bytes).routes()
        routes += RepositoryApi(self._catalog, self._max_body_bytes).routes()
        for method, path, handler in routes:
            app.router.add_route(method, path, answering(handler))
        app.router.add_route("*", "/{path:.*}", answering(self.nothing))
        return app

    async def infer(self, request: web.Request) -> web.Response:
        """Decode, queue, encode."""
        started = time.perf_counter()
        with self._catalog.using(*reading.target(request)) as served:
            deadline = reading.deadline(request)
            body = await reading.body(request, self._max_body_bytes)
            decoded = decode_request(body, reading.header_length(request), served.signature)
            request[REQUEST_ID] = decoded.id
            entered = time.perf_counter()
            arrays = await served.scheduler.submit(decoded.arrays, deadline, decoded.parameters)
        duration = (time.perf_counter() - entered) * 1000
        parts, header_length = encode_response(served.model, served.version, decoded, served.signature.outputs, arrays)
        answer = {DURATION: f"{duration:.3f}", "Content-Type": "application/json"}
        if header_length is not None:
            answer[reading.HEADER_LENGTH] = str(header_length)
            answer["Content-Type"] = "application/octet-stream"
        if log.isEnabledFor(logging.DEBUG):
            total = (time.perf_counter() - started) * 1000
            log.debug("answered", extra={"model": served.model, "request": decoded.id, "ms": round(total, 3)})
        return web.Response(body=b"".join(parts) if len(parts) > 1 else parts[0], headers=answer)

    async def model(self, request: web.Request) -> web.Response:
        """A model's metadata."""
        model, served = self._found(request)
        return json_response(documents.metadata(model, served) | {"parameters": documents.parameters(model, served)})

    async def config(self, request: web.Request) -> web.Response:
        """A model's configuration, as V2's extension names it."""
        return json_response(documents.configuration(*self._found(request)))

    async def statistics(self, request: web.Request) -> web.Response:
        """Counts and times of one version, of a model, or of all."""
        match = request.match_info
        return json_response(documents.statistics(self._catalog, match.get("model"), match.get("version")))

    async def model_ready(self, request: web.Request) -> web.Response:
        """200 where `infer` would be taken."""
        with self._catalog.using(*reading.target(request)) as served:
            return json_response({"name": served.model, "version": served.version, "ready": True})

    async def server(self, _: web.Request) -> web.Response:
        """The server's metadata."""
        return json_response(documents.server())

    async def live(self, _: web.Request) -> web.Response:
        """200 as long as the loop turns."""
        return json_response({"live": True})

    async def ready(self, _: web.Request) -> web.Response:
        """200 from the end of the warm-up to the beginning of the stop."""
        ready = self._catalog.ready
        return json_response({"ready": ready}, 200 if ready else 503)

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

    def _found(self, request: web.Request) -> tuple[ServedModel, ServedVersion]:
        """The model, and its version where the path names one, else the one that describes it."""
        return self._catalog.described(request.match_info["model"], request.match_info.get("version"))
