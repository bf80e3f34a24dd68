"""The routes of the V2 protocol that tell about the server and its models; `infer` and `generate` have modules of their own."""

from podpair.inference import documents
from podpair.inference.config.settings import TracingSettings
from podpair.inference.core.errors import NotFoundError, UnavailableError
from podpair.inference.core.held import HeldBytes
from podpair.inference.http import reading
from podpair.inference.http.failures import Failures
from podpair.inference.http.generate import GenerateApi
from podpair.inference.http.infer import InferApi
from podpair.inference.http.repository import RepositoryApi
from podpair.inference.http.requests import Request, Response, json_response, lines
from podpair.inference.http.routing import Route, Routes
from podpair.inference.http.server import Server
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog, ServedModel, ServedVersion
from podpair.inference.tracing import Tracing

_METRICS = lines({"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class Api:
    """The V2 protocol's resources."""

    def __init__(self, catalog: Catalog, metrics: Metrics, max_body_bytes: int, tracing: Tracing | None = None) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._tracing = tracing or Tracing(TracingSettings())

    def server(self, held: HeldBytes) -> Server:
        """A server of them, not yet listening."""
        one, several = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        failures = Failures(self._metrics)
        routes = [
            *InferApi(self._catalog, failures, self._max_body_bytes, self._tracing).routes(),
            *GenerateApi(self._catalog, failures, self._max_body_bytes, self._tracing).routes(),
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
        server = Server(Routes(routes, self.nothing), failures, self._max_body_bytes, held)
        self._metrics.ingress_bytes.set_function(lambda: held.bytes)
        return server

    async def model(self, request: Request) -> Response:
        """A model's metadata."""
        model, served = self._found(request)
        return json_response(documents.metadata(model, served) | {"parameters": documents.parameters(model, served)})

    async def config(self, request: Request) -> Response:
        """A model's configuration, as V2's extension names it."""
        return json_response(documents.configuration(*self._found(request)))

    async def statistics(self, request: Request) -> Response:
        """Counts and times of one version, of a model, or of all."""
        values = request.values
        return json_response(documents.statistics(self._catalog, values.get("model"), values.get("version")))

    async def model_ready(self, request: Request) -> Response:
        """200 where `infer` would be taken; 503 and why where the model is known and can't be served."""
        name = request.values["model"]
        reason = self._catalog.absence(name)
        if reason is not None:
            raise UnavailableError(f"model {name} is not served: {reason}")
        with self._catalog.using(*reading.target(request)) as served:
            return json_response({"name": served.model, "version": served.version, "ready": True})

    async def about(self, _: Request) -> Response:
        """The server's metadata."""
        return json_response(documents.server())

    async def live(self, _: Request) -> Response:
        """200 as long as the loop turns."""
        return json_response({"live": True})

    async def ready(self, _: Request) -> Response:
        """200 from the end of the warm-up to the beginning of the stop."""
        ready = self._catalog.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Prometheus' text format."""
        return Response(200, (self._metrics.render(),), _METRICS)

    async def nothing(self, request: Request) -> Response:
        """Any other path."""
        raise NotFoundError(
            f"no {request.head.method} {request.head.path}; this is the Open Inference Protocol V2: "
            "GET /v2, GET /v2/models/NAME, POST /v2/models/NAME/infer"
        )

    def _found(self, request: Request) -> tuple[ServedModel, ServedVersion]:
        """The model, and its version where the path names one, else the one that describes it."""
        return self._catalog.described(request.values["model"], request.values.get("version"))
