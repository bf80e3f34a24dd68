"""The V2 protocol's routes about the server and its models; `infer` and `generate` have modules of their own."""

from podpair.inference import documents
from podpair.inference.config.settings import TracingSettings
from podpair.inference.core.errors import NotFoundError, UnavailableError
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.http import infer_params
from podpair.inference.http.error_responses import ErrorResponses
from podpair.inference.http.generate import GenerateApi
from podpair.inference.http.infer import InferApi
from podpair.inference.http.repository import RepositoryApi
from podpair.inference.http1.requests import Request, Response, header_lines, json_response
from podpair.inference.http1.routes import Route, Routes
from podpair.inference.http1.server import Server
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.served_model import ServedModel, ServedVersion
from podpair.inference.tracing import Tracing

_METRICS = header_lines({"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class Api:
    """The V2 protocol's resources."""

    def __init__(self, catalog: Catalog, metrics: Metrics, max_body_bytes: int, tracing: Tracing | None = None) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._tracing = tracing or Tracing(TracingSettings())

    def server(self, budget: MemoryBudget) -> Server:
        """Return a server of these resources, not yet listening."""
        one, several = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        errors = ErrorResponses(self._metrics)
        routes = [
            *InferApi(self._catalog, errors, self._max_body_bytes, self._tracing).routes(),
            *GenerateApi(self._catalog, errors, self._max_body_bytes, self._tracing).routes(),
            Route("GET", "/v2/health/live", self.live),
            Route("GET", "/v2/health/ready", self.ready),
            Route("GET", "/v2/models/stats", self.statistics),
            *(Route("GET", path, self.model) for path in (one, several)),
            *(Route("GET", f"{path}/ready", self.model_ready) for path in (one, several)),
            *(Route("GET", f"{path}/stats", self.statistics) for path in (one, several)),
            *(Route("GET", f"{path}/config", self.config) for path in (one, several)),
            *(Route("GET", path, self.about) for path in ("/v2", "/v2/")),
            Route("GET", "/metrics", self.metrics),
            *RepositoryApi(self._catalog, self._max_body_bytes).routes(),
        ]
        server = Server(Routes(routes, self.not_found), errors, self._max_body_bytes, budget)
        self._metrics.pending_bytes.set_function(lambda: budget.bytes)
        return server

    async def model(self, request: Request) -> Response:
        """Answer with a model's metadata."""
        model, served = self._found(request)
        return json_response(documents.metadata(model, served) | documents.more_metadata(model, served))

    async def config(self, request: Request) -> Response:
        """Answer with a model's configuration, as V2's extension names it."""
        return json_response(documents.configuration(*self._found(request)))

    async def statistics(self, request: Request) -> Response:
        """Answer with counts and times of one version, of a model, or of all."""
        params = request.path_params
        return json_response(documents.statistics(self._catalog, params.get("model"), params.get("version")))

    async def model_ready(self, request: Request) -> Response:
        """Answer with 200 if `infer` would be accepted; with 503 and why if the model is known and can't be served."""
        name = request.path_params["model"]
        reason = self._catalog.absence_reason(name)
        if reason is not None:
            raise UnavailableError(f"model {name} is not served: {reason}")
        with self._catalog.using(*infer_params.target(request)) as served:
            return json_response({"name": served.model, "version": served.version, "ready": True})

    async def about(self, _: Request) -> Response:
        """Answer with the server's metadata."""
        return json_response(documents.server())

    async def live(self, _: Request) -> Response:
        """Answer with 200 as long as the loop turns."""
        return json_response({"live": True})

    async def ready(self, _: Request) -> Response:
        """Answer with 200 from the end of the warm-up to the beginning of the shutdown."""
        ready = self._catalog.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Answer with the metrics in Prometheus' text format."""
        return Response(200, (self._metrics.render(),), _METRICS)

    async def not_found(self, request: Request) -> Response:
        """Refuse any other path."""
        raise NotFoundError(
            f"no {request.head.method} {request.head.path}; this is the Open Inference Protocol V2: "
            "GET /v2, GET /v2/models/NAME, POST /v2/models/NAME/infer"
        )

    def _found(self, request: Request) -> tuple[ServedModel, ServedVersion]:
        """Return the model, and the version that the path names, else the one that describes it."""
        return self._catalog.described(request.path_params["model"], request.path_params.get("version"))
