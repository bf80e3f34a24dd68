"""Errors as HTTP responses, in one form on /v1 and in V2's on /v2; also HTTP's own errors, before routing.

Invariant: of the request only path and method are repeated; its other bytes may be a token.
"""

import re

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong

from podpair.gateway.core.protocol import Code, Fault, event

_STATUS = {
    Code.INVALID: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.OVERLOADED: 429,
    Code.DEADLINE_EXCEEDED: 504,
    Code.CANCELLED: 499,
    Code.UPSTREAM: 502,
    Code.INTERNAL: 500,
    Code.LOST: 500,
}

_CODES = {404: Code.NOT_FOUND, 500: Code.INTERNAL, 504: Code.DEADLINE_EXCEEDED}  # of HTTP's own errors


def status_of(code: Code) -> int:
    """Return the HTTP status of a fault."""
    return _STATUS[code]


def refusal(status: int, code: Code, message: str, *, retry_after: float | None = None) -> web.Response:
    """Return a response `{"error": {"code", "message"}}`, with the headers that its status requires."""
    headers = {}
    if status == 401:
        # RFC 6750, 3: %x20-21 / %x23-5B / %x5D-7E. The message may quote the token.
        description = re.sub(r"[^\x20-\x7e]", "?", message.replace('"', "'").replace("\\", "/"))
        headers["WWW-Authenticate"] = f'Bearer error="invalid_token", error_description="{description}"'
    if status == 426:
        headers["Upgrade"] = "websocket"  # RFC 9110, 15.5.22
    if retry_after is not None:
        headers["Retry-After"] = f"{max(1, round(retry_after))}"
    body = event("error", code=code, message=message)
    return web.Response(
        status=status, body=b'{"error":{' + body[len(b'{"type":"error",') :] + b"}", headers=headers,
        content_type="application/json",
    )  # fmt: skip


def refusal_of(fault: Fault) -> web.Response:
    """Return the response on /v1 to a request with this fault."""
    retry_after = fault.retry_after_ms / 1000 if fault.retry_after_ms is not None else None
    return refusal(_STATUS[fault.code], fault.code, fault.message, retry_after=retry_after)


def v2_error(status: int, message: str, *, retry_after: float | None = None) -> web.Response:
    """Return a response `{"error": message}`, the form of the Open Inference Protocol."""
    headers = {"Retry-After": f"{max(1, round(retry_after))}"} if retry_after is not None else {}
    return web.json_response({"error": message}, status=status, headers=headers)


PATH = web.RequestKey("path", str)
"""The path of a request without the base path, once it is known."""
LONGEST_LINE = 8190
"""Maximum bytes of the request line and of each header: aiohttp's bound."""
CODINGS = ("gzip", "deflate")
"""Accepted Content-Encodings."""

_NOT_AS_CODED = (
    "the body can't be decoded as its Content-Encoding says: leave that header out if the body is not compressed"
)


def refuse_coding(request: web.Request) -> web.Response | None:
    """Return a refusal if the body's Content-Encoding is not accepted."""
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity", *CODINGS) or not request.can_read_body:
        return None
    return _other_coding(request)


def _other_coding(request: web.BaseRequest) -> web.Response:
    response = http_error(
        request, 415, f"the body's Content-Encoding is not accepted: {' or '.join(CODINGS)}, or none, are"
    )
    response.headers["Accept-Encoding"] = ", ".join(CODINGS)  # RFC 9110, 15.5.16
    response.force_close()  # the body stays unread
    return response


def unreadable_body(request: web.BaseRequest, error: BaseException) -> web.Response:
    """Return the response to a request whose body is incomplete, or does not match its headers."""
    if isinstance(error.__cause__, ContentEncodingError):
        message = _NOT_AS_CODED
    else:
        message = "the body is not framed as the request's headers say (Content-Length, Transfer-Encoding)"
    response = http_error(request, 400, message)
    response.force_close()
    return response


def unreadable_request(request: web.BaseRequest, error: HttpProcessingError) -> web.Response:
    """Return the response to bytes that are not a valid request."""
    if isinstance(error, LineTooLong) or error.message.startswith("Too many headers"):
        message = (
            f"the request line or a header is longer than {LONGEST_LINE} bytes, or there are more than 128 headers"
        )
        return http_error(request, 431, message)
    if isinstance(error, ContentEncodingError):
        # In the head: the coding needs a library that isn't installed; else: a short body that arrived with its head.
        in_head = error.message.startswith("Can not decode")
        return _other_coding(request) if in_head else http_error(request, 400, _NOT_AS_CODED)
    if error.message.startswith("Data after"):
        return http_error(request, 400, "data follows a request that says `Connection: close`")
    # llhttp states the error in the first line, and then repeats the input.
    why, bytes_follow, _ = error.message.partition(":\n")
    return http_error(
        request, 400, f"that is not an HTTP/1.1 request{f': {why}' if bytes_follow and why.isascii() else ''}"
    )


def http_error(request: web.BaseRequest, status: int, message: str) -> web.Response:
    """Return an error of HTTP itself, in the form of the API that the path belongs to."""
    if request.get(PATH, request.path).startswith("/v2"):
        return v2_error(status, message)
    return refusal(status, _CODES.get(status, Code.INVALID), message)


def error_of(request: web.BaseRequest, error: web.HTTPException, messages: dict[int, str]) -> web.Response:
    """Return the response to an error that aiohttp raised. messages: by status, replace the default ones."""
    texts = {
        404: f"there is no {request.path}"
        if request.method != "CONNECT"
        else "CONNECT is not accepted: this is not a proxy",
        405: f"{request.path} does not take {request.method}",
        413: "the body is too large",
        417: "the header Expect may only say 100-continue",
        **messages,
    }
    response = http_error(request, error.status, texts.get(error.status, error.reason))
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]  # RFC 9110, 15.5.6
    if error.keep_alive is False:
        response.force_close()
    return response
