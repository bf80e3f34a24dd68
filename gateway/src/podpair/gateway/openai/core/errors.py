"""Errors as OpenAI's API has them: `{"error": {"message", "type", "param", "code"}}`.

Invariant: an error that leaves the gateway has all four members. Clients repeat 408, 409, 429 and 5xx by themselves, so what
can't get better says `x-should-retry: false`.
"""

import secrets
from typing import Any

import msgspec

from podpair.gateway.core.chat import reason_of
from podpair.gateway.core.protocol import Code, Fault, shortened

_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Any])
_LONGEST_WAIT = 30.0  # seconds, which all clients obey

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    401: "invalid_api_key", 403: "permission_denied", 404: "not_found", 408: "timeout", 413: "request_too_large",
    429: "rate_limit_exceeded", 500: "server_error", 502: "bad_gateway", 503: "overloaded", 504: "timeout",
}  # fmt: skip
_STATUS = {
    Code.INVALID: 400, Code.UNAUTHORIZED: 401, Code.FORBIDDEN: 403, Code.NOT_FOUND: 404, Code.OVERLOADED: 429,
    Code.DEADLINE_EXCEEDED: 504, Code.CANCELLED: 499, Code.UPSTREAM: 502, Code.INTERNAL: 500, Code.LOST: 500,
}  # fmt: skip


class ApiError(Exception):
    """An error response. `retry_after` in seconds; `final`: the same request would fail again."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        retry_after: float | None = None, final: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.message = shortened(message)
        self.code = code or _CODES.get(status)
        self.kind = type_of(status)
        """The error's `type`."""
        self.param = param
        self.retry_after = retry_after
        self.final = final

    @classmethod
    def of_fault(cls, fault: Fault) -> "ApiError":
        """Convert a fault."""
        wait = None if fault.retry_after_ms is None else fault.retry_after_ms / 1000
        code = "model_not_found" if fault.code is Code.NOT_FOUND else None
        late = fault.code is Code.DEADLINE_EXCEEDED
        return cls(_STATUS[fault.code], fault.message, code=code, retry_after=wait, final=late)

    @property
    def members(self) -> dict[str, str | None]:
        """The members of the error."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        """Encode the body of the response."""
        return _encode({"error": self.members})

    def headers(self) -> dict[str, str]:
        """Return the headers that go with the body."""
        headers = {"x-request-id": request_id()}
        if self.retry_after is not None:
            wait = min(self.retry_after, _LONGEST_WAIT)
            headers["Retry-After"] = str(max(1, round(wait)))
            headers["retry-after-ms"] = str(max(1, round(wait * 1000)))
        if self.final:
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
        return headers


def server_error(status: int, body: bytes, retry_after: float | None) -> ApiError:
    """Return the error that a server's response is, as `complete_error` has it."""
    found = msgspec.json.decode(complete_error(status, body))["error"]
    error = ApiError(status, found["message"], code=found["code"], param=found["param"], retry_after=retry_after)
    error.kind = found["type"]
    return error


def invalid(message: str, param: str | None = None, *, code: str = "invalid_value") -> ApiError:
    """Return the error of a request that is refused for its body, or a parameter."""
    return ApiError(400, message, code=code, param=param)


def type_of(status: int) -> str:
    """Return the `type` of errors with this status."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def request_id() -> str:
    """Return an id for the header x-request-id."""
    return f"req_{secrets.token_hex(16)}"


def complete_error(status: int, body: bytes) -> bytes:
    """Return the body of a server's error response with the members that OpenAI's have; a text becomes the message."""
    try:
        document = _object.decode(body)
        found = document.get("error", document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("message"), str):
        text = reason_of(body) or body[:300].decode(errors="replace").strip() or f"the model's server answers {status}"
        return ApiError(status, text).body()
    code = found.get("code")
    members = {"type": type_of(status), "param": None, **{k: v for k, v in found.items() if v is not None}}
    members["code"] = str(code) if code is not None else _CODES.get(status)
    return _encode({"error": members})
