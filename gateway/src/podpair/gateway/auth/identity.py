"""The identity of a client, and why a token is rejected."""

from typing import Any, NamedTuple


class Identity(NamedTuple):
    """The contents of a verified token."""

    subject: str
    session: str | None  # the session's id, if `auth.session_claim` names it: `<subject>/<claim>`
    expires_at: float | None  # Unix seconds
    claims: dict[str, Any]


RESUME_AUDIENCE = "podpair.resume"  # keeps a resume token from passing as a JWT under the same secret, and the reverse


class KeysUnavailable(Exception):
    """No token can be verified: the issuer's keys can't be fetched. The token may be valid."""


class Unauthorized(Exception):
    """The token is invalid; the message says why, without repeating it."""
