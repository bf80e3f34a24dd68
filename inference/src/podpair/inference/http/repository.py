"""V2's repository extension: list, load and unload models while requests run."""

import msgspec

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.http import infer_params
from podpair.inference.http1.requests import Request, Response, json_response
from podpair.inference.http1.routes import Route
from podpair.inference.runtime.catalog import Catalog


class _Index(msgspec.Struct):
    ready: bool = False


class RepositoryApi:
    """The resources of the repository extension."""

    def __init__(self, catalog: Catalog, max_body_bytes: int) -> None:
        self._catalog = catalog
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return its routes."""
        return [
            Route("POST", "/v2/repository/index", self.index),
            Route("POST", "/v2/repository/models/{model}/load", self.load),
            Route("POST", "/v2/repository/models/{model}/unload", self.unload),
        ]

    async def index(self, request: Request) -> Response:
        """List every version that is served, and models that aren't; `{"ready": true}` leaves these out."""
        content = infer_params.body(request, self._max_body_bytes)
        try:
            asked = msgspec.json.decode(content or b"{}", type=_Index)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(f"the request is no index request: {error}") from None
        return json_response([entry for entry in self._catalog.index() if not asked.ready or entry["state"] == "READY"])

    async def load(self, request: Request) -> Response:
        """Load or reload a model from its current files; a failure changes nothing."""
        await self._catalog.load(request.path_params["model"])
        return json_response({})

    async def unload(self, request: Request) -> Response:
        """Unload a model; requests that were accepted are answered."""
        await self._catalog.unload(request.path_params["model"])
        return json_response({})
