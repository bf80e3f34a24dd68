"""V2's repository extension: what there is, and loading and unloading it while requests run."""

import msgspec

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.http import reading
from podpair.inference.http.requests import Request, Response, json_response
from podpair.inference.http.routing import Route
from podpair.inference.runtime.catalog import Catalog


class _Index(msgspec.Struct):
    ready: bool = False


class RepositoryApi:
    """The repository's resources."""

    def __init__(self, catalog: Catalog, max_body_bytes: int) -> None:
        self._catalog = catalog
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("POST", "/v2/repository/index", self.index),
            Route("POST", "/v2/repository/models/{model}/load", self.load),
            Route("POST", "/v2/repository/models/{model}/unload", self.unload),
        ]

    async def index(self, request: Request) -> Response:
        """Every version that is served, and models that aren't; `{"ready": true}` leaves these out."""
        content = reading.body(request, self._max_body_bytes)
        try:
            asked = msgspec.json.decode(content or b"{}", type=_Index)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(f"the request is no index request: {error}") from None
        return json_response([entry for entry in self._catalog.index() if not asked.ready or entry["state"] == "READY"])

    async def load(self, request: Request) -> Response:
        """Load a model as it lies there now, or exchange it; what fails leaves all as it was."""
        await self._catalog.load(request.values["model"])
        return json_response({})

    async def unload(self, request: Request) -> Response:
        """Serve it no longer; what was taken is answered."""
        await self._catalog.unload(request.values["model"])
        return json_response({})
