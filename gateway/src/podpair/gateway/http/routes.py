"""The routes of the public port: each exists at the root, and below `http.base_path` if that is set.

A proxy that forwards whole paths finds them below the base path; a proxy that strips the prefix, probes, and clients inside the
cluster find them at the root. Invariant: the meaning of a request depends on its path without the base (`path_of`) alone.
"""

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

API = ("/v1/", "/v2")  # how paths of the API begin
_BASE = web.AppKey("base path", str)
_BELOW = web.AppKey("resources below the base path", set)


class Routes:
    """Adds routes to `app`, at the root and below `base` (empty, or a path without a slash at its end)."""

    def __init__(self, app: web.Application, base: str) -> None:
        self._app = app
        self.base = app[_BASE] = base
        self._below: set[web.AbstractResource] = set()
        app[_BELOW] = self._below

    def get(self, path: str, handler: Handler, *, head: bool = True) -> None:
        """Add a route for GET, and for HEAD unless `head` is False."""
        for prefix in self._prefixes:
            self._keep(prefix, self._app.router.add_get(prefix + path, handler, allow_head=head))

    def post(self, path: str, handler: Handler) -> None:
        """Add a route for POST."""
        for prefix in self._prefixes:
            self._keep(prefix, self._app.router.add_post(prefix + path, handler))

    def delete(self, path: str, handler: Handler) -> None:
        """Add a route for DELETE."""
        for prefix in self._prefixes:
            self._keep(prefix, self._app.router.add_delete(prefix + path, handler))

    def redirect_base(self) -> None:
        """Redirect `base` to `base/`, so that relative links of a page work."""
        if self.base:
            self._app.router.add_get(self.base, self._to_slash)

    @property
    def _prefixes(self) -> tuple[str, ...]:
        return ("", self.base) if self.base else ("",)

    def _keep(self, prefix: str, route: web.AbstractRoute) -> None:
        if prefix and route.resource is not None:
            self._below.add(route.resource)

    async def _to_slash(self, request: web.Request) -> web.StreamResponse:
        # Only the last segment: the proxy may have another prefix of its own.
        last = self.base.rpartition("/")[2]
        query = request.rel_url.raw_query_string
        raise web.HTTPPermanentRedirect(URL(f"./{last}/{'?' * bool(query)}{query}", encoded=True))


def raw_path_of(request: web.Request) -> str:
    """Return the path of a request, still encoded, without the base path."""
    path, base = request.rel_url.raw_path, request.app[_BASE]
    if not base:
        return path
    resource = request.match_info.route.resource
    rest = path.removeprefix(base) if path.startswith(f"{base}/") else None
    if resource is not None:
        below = resource in request.app[_BELOW]
    else:  # no route for this path or method: decide by the path itself, also with a base path such as /v2
        below = rest is not None and (rest.startswith(API) or not path.startswith(API))
    return rest if below and rest is not None else path


def path_of(request: web.Request) -> str:
    """Return the path of a request, decoded, without the base path."""
    return URL(raw_path_of(request), encoded=True).path if request.app[_BASE] else request.path
