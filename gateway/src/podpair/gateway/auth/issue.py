"""Issues development tokens with the shared secret: for `podpair-gateway token` and the demo's console."""

import time
from typing import Any

import jwt

from podpair.common.gateway_config.clients import Auth
from podpair.gateway.auth.tokens import read_secret


class CannotIssue(Exception):
    """The configuration has no secret that can sign tokens."""


def development_token(
    auth: Auth, *, subject: str, session: str | None, seconds: float, claims: dict[str, Any] | None = None
) -> str:
    """Return a token that a gateway with this configuration accepts for `seconds`. Raises CannotIssue or FaultsError.

    session: the value of the claim `auth.session_claim`.
    """
    if auth.secret is not None:
        secret = auth.secret.get_secret_value().encode()
    elif auth.secret_file is not None:
        secret = read_secret(auth.secret_file, "auth.secret_file")
    else:
        if auth.disabled:
            raise CannotIssue("auth.disabled lets everyone in: there is nothing to sign tokens with, nor need for any")
        raise CannotIssue("only auth.secret or auth.secret_file can sign tokens: with a public key the issuer does")
    if session is not None and auth.session_claim is None:
        raise CannotIssue("auth.session_claim is not set: no claim of a token names a session")
    now = int(time.time())
    own = {
        "sub": subject, "iat": now, "exp": now + int(seconds), "iss": auth.issuer, "aud": auth.audience,
        auth.session_claim or "": session,
    }  # fmt: skip
    payload = {name: value for name, value in own.items() if value is not None} | (claims or {})
    return jwt.encode(payload, secret, algorithm="HS256")
