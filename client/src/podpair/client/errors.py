"""Errors, one class for each code of the protocol, so that callers catch what they can act on.

The codes are those of docs/protocol.md; `lost`, `unreachable`, `closed` and `taken_over` are the client's own.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class PodpairError(Exception):
    """Any error of podpair. `code` is the protocol's, `id` the request's if there is one."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str = "", *, id: str | None = None, retry_after: float | None = None) -> None:  # noqa: A002
        super().__init__(message or self.code)
        self.message = message or self.code
        self.id = id
        self.retry_after = retry_after
        """Seconds after which it is worth trying again; None if the gateway gave no hint."""


class Invalid(PodpairError):
    """The request can't be understood, or doesn't fit the model: sending it again won't help."""

    code = "invalid"


class Unauthorized(PodpairError):
    """No token, a bad or expired one, or a resume token that isn't this subject's."""

    code = "unauthorized"


class Forbidden(PodpairError):
    """The Origin isn't on the gateway's list, or the token does not permit it."""

    code = "forbidden"


class NotFound(PodpairError):
    """No such model or version."""

    code = "not_found"


class Overloaded(PodpairError):
    """A bounded queue is full. `retry_after` is the gateway's hint in seconds."""

    code = "overloaded"


class DeadlineExceeded(PodpairError, TimeoutError):
    """No answer before the deadline; the gateway gives the request up by itself."""

    code = "deadline_exceeded"


class Cancelled(PodpairError):
    """The request was cancelled, by this client or by another owner of the session."""

    code = "cancelled"


class Upstream(PodpairError):
    """The model failed, or can't be reached by its gateway."""

    code = "upstream"


class Internal(PodpairError):
    """A fault of the gateway's own."""

    code = "internal"


class Lost(PodpairError):
    """The connection broke, and whether the request ran can't be known; it was not to be sent again."""

    code = "lost"


class Unreachable(PodpairError, ConnectionError):
    """No gateway answers at that address, or what answers is no gateway."""

    code = "unreachable"


class SessionClosed(PodpairError):
    """The session has ended; `close_code` is the WebSocket's, None when this side closed it."""

    code = "closed"
    close_code: int | None = None


class TakenOver(SessionClosed):
    """A newer connection holds the session (4009): reconnecting would only take it back and forth."""

    code = "taken_over"
    close_code = 4009


_BY_CODE: dict[str, type[PodpairError]] = {
    kind.code: kind
    for kind in (
        Invalid,
        Unauthorized,
        Forbidden,
        NotFound,
        Overloaded,
        DeadlineExceeded,
        Cancelled,
        Upstream,
        Internal,
        Lost,
        Unreachable,
        SessionClosed,
        TakenOver,
    )
}


def error_from(event: Mapping[str, Any]) -> PodpairError:
    """Make the typed error of an `error` event, or of the `error` object of an HTTP response.

    An unknown code (of a newer gateway) becomes a plain PodpairError whose message begins with that code.
    """
    code = str(event.get("code", "internal"))
    message = str(event.get("message") or "")
    kind = _BY_CODE.get(code)
    if kind is None:
        kind, message = PodpairError, f"{code}: {message}"
    hint = event.get("retry_after_ms")
    return kind(message, id=event.get("id"), retry_after=hint / 1000 if isinstance(hint, int | float) else None)
