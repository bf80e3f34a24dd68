"""Which handler a method and a path have.

A path that there is answers another method with 405, and OPTIONS with what it takes (RFC 9110, 9.3.7 and 15.5.6).
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from podpair.inference.core.errors import MethodNotAllowedError
from podpair.inference.http.heads import Head
from podpair.inference.http.request_target import decoded
from podpair.inference.http.requests import Handler, Request, Response, lines


class Route(NamedTuple):
    """A handler. direct: a plain function, which sees to it that the request is answered; else a coroutine function that
    returns the response, or None once it has answered itself."""

    method: str
    # With {names} for whole segments.
    path: str
    handler: Handler
    direct: bool = False


class Routes:
    """All there are; what has none goes to `nothing`."""

    def __init__(self, routes: list[Route], nothing: Handler) -> None:
        self._routes = [(route, route.path.split("/")) for route in routes]
        self._nothing = Route("*", "", nothing)

    def find(self, head: Head) -> Route:
        """The route, kept in the head together with what stands in the path for its names."""
        if head.route is None:
            head.route, head.values = self._find("GET" if head.method == "HEAD" else head.method, head.path)
        route: Route = head.route
        return route

    def _find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        segments = [decoded(segment) for segment in path.split("/")]
        allowed = []
        for route, pattern in self._routes:
            values = {} if path == "*" else _match(pattern, segments)
            if values is None:
                continue
            if route.method == method:
                return route, values
            allowed.append(route.method)
        if not allowed:
            return self._nothing, {}
        handler = partial(_options if method == "OPTIONS" else _refuse, _methods(allowed))
        return Route(method, path, handler), {}


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    """What stands in the path for the pattern's names; None where it is another path."""
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
    return Response(200, (), lines({"Allow": methods}))


async def _refuse(methods: str, request: Request) -> Response:
    raise MethodNotAllowedError(f"no {request.head.method} {request.head.path}; there are {methods}", methods)
