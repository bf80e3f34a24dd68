"""Faults as HTTP answers: one form on /v1, V2's own on /v2."""

from aiohttp import web

from podpair.gateway.core.protocol import Code, Fault, event
from podpair.gateway.core.quotas import Forbidden

_STATUS = {
    Code.INVALID: 400,
    Code.UNAUTHORIZED: 401,
    Code.NOT_FOUND: 404,
    Code.OVERLOADED: 429,
    Code.DEADLINE_EXCEEDED: 504,
    Code.CANCELLED: 499,
    Code.UPSTREAM: 502,
    Code.INTERNAL: 500,
    Code.LOST: 500,
}


def status_of(code: Code) -> int:
    """The HTTP status of a fault."""
    return _STATUS[code]


def refusal(status: int, code: str, message: str, *, retry_after: float | None = None) -> web.Response:
    """`{"error": {"code", "message"}}` with what the status asks for beside it."""
    headers = {}
    if status == 401:
        # RFC 6750, 3: a header is Latin-1 and its quoted text has no quotes in it.
        description = message.replace('"', "'").encode("ascii", "replace").decode()
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
    """The answer on /v1 to a request with this fault."""
    retry_after = fault.retry_after_ms / 1000 if fault.retry_after_ms is not None else None
    status = 403 if isinstance(fault, Forbidden) else _STATUS[fault.code]
    return refusal(status, fault.code, fault.message, retry_after=retry_after)


def v2_error(status: int, message: str, *, retry_after: float | None = None) -> web.Response:
    """`{"error": message}`, as the Open Inference Protocol has it."""
    headers = {"Retry-After": f"{max(1, round(retry_after))}"} if retry_after is not None else {}
    return web.json_response({"error": message}, status=status, headers=headers)
