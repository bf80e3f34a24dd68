"""Which handler a method and a path have.

A path that exists answers another method with 405, and OPTIONS with the methods that it takes (RFC 9110, 9.3.7 and 15.5.6).
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from podpair.inference.core.errors import MethodNotAllowedError
from podpair.inference.http1.request_head import HeadCache, RequestHead
from podpair.inference.http1.request_target import decoded
from podpair.inference.http1.requests import Handler, Request, Response, header_lines


class Route(NamedTuple):
    """A handler. direct: a plain function, which has the request answered itself; otherwise a coroutine function that
    returns the response, or None if it has answered itself."""

    method: str
    # With {names} for whole segments.
    path: str
    handler: Handler
    direct: bool = False


class RouteMatch(NamedTuple):
    """The route of a request, and the values of its {names} in the path."""

    route: Route
    path_params: Mapping[str, str]


class Routes:
    """The route table; a request that matches no route goes to `not_found`."""

    def __init__(self, routes: list[Route], not_found: Handler) -> None:
        self._routes = [(route, route.path.split("/")) for route in routes]
        self._not_found = Route("*", "", not_found)
        self._matches: HeadCache[RouteMatch] = HeadCache()

    def find(self, head: RequestHead) -> RouteMatch:
        """Return the route of a head; a head that comes again is only looked up."""
        match = self._matches.get(head)
        if match is None:
            match = self._matches.store(head, self._find("GET" if head.method == "HEAD" else head.method, head.path))
        return match

    def _find(self, method: str, path: str) -> RouteMatch:
        segments = [decoded(segment) for segment in path.split("/")]
        allowed = []
        for route, pattern in self._routes:
            values = {} if path == "*" else _match(pattern, segments)
            if values is None:
                continue
            if route.method == method:
                return RouteMatch(route, values)
            allowed.append(route.method)
        if not allowed:
            return RouteMatch(self._not_found, {})
        handler = partial(_options if method == "OPTIONS" else _refuse, _methods(allowed))
        return RouteMatch(Route(method, path, handler), {})


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    """Return the values of the pattern's names; None if it is another path."""
    if len(pattern) != len(segments):
        return None
    values = {}
    for expected, segment in zip(pattern, segments, strict=True):
        if expected[:1] == "{":
            if not segment:
                return None
            values[expected[1:-1]] = segment
        elif expected != segment:
            return None
    return values


def _methods(allowed: Iterable[str]) -> str:
    methods = {"OPTIONS", *allowed}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


async def _options(methods: str, _: Request) -> Response:
    return Response(200, (), header_lines({"Allow": methods}))


async def _refuse(methods: str, request: Request) -> Response:
    raise MethodNotAllowedError(f"no {request.head.method} {request.head.path}; there are {methods}", methods)
