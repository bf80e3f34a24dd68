"""Who a connection belongs to, and why one is refused."""

from typing import Any, NamedTuple


class Identity(NamedTuple):
    """What a verified token says."""

    subject: str
    session: str | None  # the session's id, where `auth.session_claim` names it: `<subject>/<claim>`
    expires_at: float | None  # Unix seconds
    claims: dict[str, Any]


RESUME_AUDIENCE = "podpair.resume"  # keeps a resume token from passing as a JWT under the same secret, and the reverse


class KeysUnavailable(Exception):
    """Nobody can be let in now: the issuer's keys were never fetched, and can't be. The token may be good."""


class Unauthorized(Exception):
    """The token is not good; the message says how, without repeating it."""
