"""Pages of allowed origins may also use plain HTTP here: the Fetch standard's CORS protocol, for http.origins and no other."""

from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler

# The API, and the library (podpair.js and what it imports), which such a page imports from here.
_SHARED = ("/v1/", "/v2", "/podpair")


def allow_origins(app: web.Application, allowed: Collection[str]) -> None:
    """Answer preflights, and mark answers, for pages of `allowed` origins (`*` is any)."""
    if not allowed:
        return

    def headers(request: web.Request) -> dict[str, str]:
        origin = request.headers.get("Origin")
        if origin is None or not request.path.startswith(_SHARED) or not ({"*", origin.lower()} & set(allowed)):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", "Access-Control-Expose-Headers": "Retry-After"}

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(headers(request))

    @web.middleware
    async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (
            request.method != "OPTIONS"
            or "Access-Control-Request-Method" not in request.headers
            or not headers(request)
        ):
            return await handler(request)
        asked = request.headers.get("Access-Control-Request-Headers", "")
        answer = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": asked,
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=answer)

    app.middlewares.insert(0, preflight)
    app.on_response_prepare.append(mark)
