"""CORS: which pages may use the API (http.origins), over WebSockets, events and plain HTTP alike, and what they may read.

Invariant: a request for the API with an Origin that isn't allowed is refused before anything else is done. The refusal, like
every error, may be read by any page, so that podpair.js can say which setting to change; nothing else may.
"""

import logging
import re

from aiohttp import web
from aiohttp.typedefs import Handler

from podpair.common.gateway_config.clients import Http
from podpair.common.logs import Throttle
from podpair.gateway.core.forwarded import X_FORWARDED, TrustedProxies
from podpair.gateway.core.origins import Reached, origin_allowed
from podpair.gateway.core.protocol import Code
from podpair.gateway.http.admission import Admission
from podpair.gateway.http.errors import v2_error
from podpair.gateway.http.routes import API, path_of

_log = logging.getLogger(__name__)
_LIBRARY = re.compile(r"/podpair(-[a-z]+)?\.js")  # for pages of any origin to import
_PREFLIGHT_SECONDS = "600"  # how long a browser may keep the answer
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # RFC 9110, 5.6.2
# Sent by podpair.js with a same-origin GET, for which browsers send no Origin. It can only cause refusals: a request without
# either header is accepted.
_CLAIMED = "podpair-origin"


class PagePolicy:
    """Checks the origin of requests."""

    def __init__(self, http: Http, admission: Admission) -> None:
        self._allowed = frozenset(http.origins)
        self._proxies = TrustedProxies(http.trusted_proxies)
        self._admission = admission
        self._refusals = Throttle(burst=5, seconds=60.0)

    def add_to(self, app: web.Application) -> None:
        """Install the checks before all handlers of `app`."""
        app.middlewares.insert(0, self._check_origin)
        app.on_response_prepare.append(self._mark)

    @web.middleware
    async def _check_origin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = path_of(request)
        if request.method == "OPTIONS":
            answer = _options(request, path)
            if answer is not None:
                return answer
        origin = request.headers.get("Origin", request.headers.get(_CLAIMED))
        if origin is not None and path.startswith(API) and not self._allows(request, origin):
            return self._refuse(request, origin, path)
        return await handler(request)

    def _allows(self, request: web.Request, origin: str) -> bool:
        return origin_allowed(origin, self._reached(request), self._allowed)

    def _reached(self, request: web.Request) -> Reached:
        named = {
            name: [item for value in request.headers.getall(name, ()) for entry in value.split(",") if (item := entry.strip())]
            for name in X_FORWARDED
        }  # fmt: skip
        return self._proxies.reached(request.remote, request.host, named, request.forwarded)

    def _refuse(self, request: web.Request, origin: str, path: str) -> web.Response:
        reached = self._reached(request)
        at = reached.host if reached.scheme is None else f"{reached.scheme}://{reached.host}"
        message = f"origin {origin[:256]!r} is not allowed (http.origins), nor is it where this gateway was reached: {at[:256]!r}"
        said = request.headers.get("X-Forwarded-Host", request.headers.get("Forwarded"))
        if not self._proxies.trusts(request.remote):
            if said is None:
                message += " (if a proxy before it rewrites Host, have it pass Host on with its port)"
            else:
                message += f"; a proxy says {said[:256]!r}, which counts if http.trusted_proxies names that proxy"
        about = {"origin": origin[:256], "reached": at[:256], "peer": request.remote, "client": reached.client}
        self._refusals.log(_log, logging.WARNING, "a page was refused: %s", message, extra=about)
        refused = self._admission.refuse(403, Code.FORBIDDEN, message)
        return v2_error(403, message) if path.startswith("/v2") else refused.response

    async def _mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the headers that say who may read the response."""
        path, headers = path_of(request), response.headers
        if _LIBRARY.fullmatch(path):
            headers["Access-Control-Allow-Origin"] = "*"
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"  # for pages that are isolated (COEP)
            return
        origin = request.headers.get("Origin")
        if origin is None or "Access-Control-Allow-Origin" in headers:
            return
        if response.status >= 400 or (path.startswith(API) and self._allows(request, origin)):
            headers["Access-Control-Allow-Origin"] = origin
            # No response depends on cookies; its body and all of its headers may be read.
            headers["Access-Control-Expose-Headers"] = "*"
            headers["Vary"] = f"{headers['Vary']}, Origin" if "Vary" in headers else "Origin"


def _options(request: web.Request, path: str) -> web.Response | None:
    """Return the response to OPTIONS: allowed methods and, for a page's preflight, what it may send.

    Every page may send its request, and is refused then, so that it can read why. None: there is no such resource, and the
    request is not a preflight.
    """
    fault = request.match_info.http_exception
    methods = fault.allowed_methods | {"OPTIONS"} if isinstance(fault, web.HTTPMethodNotAllowed) else None
    origin, method = request.headers.get("Origin"), request.headers.get("Access-Control-Request-Method", "")
    shared = methods is None or path.startswith(API) or _LIBRARY.fullmatch(path)
    if origin is None or not _TOKEN.fullmatch(method) or not shared:
        return None if methods is None else web.Response(status=204, headers={"Allow": ", ".join(sorted(methods))})
    requested = [name.strip() for name in request.headers.get("Access-Control-Request-Headers", "").split(",")]
    # A page must not set the headers by which a proxy describes it.
    passed = [name for name in requested if _TOKEN.fullmatch(name) and "forwarded" not in name.lower()]
    headers = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": ", ".join(sorted({method} | (methods or set()))),
        "Access-Control-Allow-Headers": ", ".join(passed),
        "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
        "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    return web.Response(status=204, headers=headers)
