"""Which handler a method and a path have."""

from collections.abc import Mapping
from typing import NamedTuple

from podpair.inference.http.heads import Head, decoded
from podpair.inference.http.requests import Handler


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
        segments = path.split("/")
        for route, pattern in self._routes:
            if route.method == method and len(pattern) == len(segments):
                values = _match(pattern, segments)
                if values is not None:
                    return route, values
        return self._nothing, {}


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    values = {}
    for expected, segment in zip(pattern, segments, strict=True):
        if expected[:1] == "{":
            if not segment:
                return None
            values[expected[1:-1]] = decoded(segment)
        elif expected != segment:
            return None
    return values
