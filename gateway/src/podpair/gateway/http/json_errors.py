"""A connection that answers errors of HTTP itself, before routing, in JSON.

Invariant: input that is not HTTP is not logged.
"""

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from podpair.common.listener.connections import TimedHandler
from podpair.gateway.http.errors import error_of, http_error, unreadable_body, unreadable_request


class JsonErrorHandler(TimedHandler):
    """The protocol of one connection to a port of the gateway."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what no route answered: invalid HTTP, or a failed handler. Only the latter is logged."""
        if isinstance(exc, HttpProcessingError):
            response = unreadable_request(request, exc)
            # The Origin is unknown. The error contains no secrets, and a page whose token is too long should be able to read it.
            response.headers["Access-Control-Allow-Origin"] = "*"
        elif isinstance(exc, web.RequestPayloadError):
            response = unreadable_body(request, exc)
        else:
            self.log_exception("Error handling request from %s", request.remote, exc_info=exc)
            response = http_error(request, status, "internal error" if status == 500 else "it took too long")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun: there can't be another")
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response, with aiohttp's own errors (an unknown Expect) in JSON."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = error_of(request, resp, {})
        if request.method == "CONNECT":
            # The data behind it is tunnelled, not a request (RFC 9110, 9.3.6).
            self._message_tail = b""
            resp.force_close()
        return await super().finish_response(request, resp, start_time)
