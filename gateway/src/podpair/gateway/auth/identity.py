"""Who a connection belongs to, and why one is refused."""

from typing import Any, NamedTuple


class Identity(NamedTuple):
    """What a verified token says."""

    subject: str
    session: str | None  # claim `sid`: the session's id, where the issuer gives it
    expires_at: float | None  # Unix seconds
    claims: dict[str, Any]


class Unauthorized(Exception):
    """The token is not good; the message says how, without repeating it."""
