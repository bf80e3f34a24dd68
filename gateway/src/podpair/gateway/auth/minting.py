"""Development tokens, for those who hold the shared secret: `podpair-gateway token` and the demo's console."""

import time
from typing import Any

import jwt

from podpair.gateway.auth.tokens import read_secret
from podpair.gateway.config.model import Auth


class CannotMint(Exception):
    """The configuration verifies tokens with something that can't sign them."""


def development_token(
    auth: Auth, *, subject: str, session: str | None, seconds: float, claims: dict[str, Any] | None = None
) -> str:
    """A token that a gateway with this configuration accepts for `seconds`. Raises CannotMint, or ConfigError.

    `session`: what it says in `auth.session_claim`, where that is set.
    """
    if auth.secret is not None:
        secret = auth.secret.get_secret_value().encode()
    elif auth.secret_file is not None:
        secret = read_secret(auth.secret_file, "auth.secret_file")
    else:
        if auth.disabled:
            raise CannotMint("auth.disabled lets everyone in: there is nothing to sign tokens with, nor need for any")
        raise CannotMint("only auth.secret or auth.secret_file can sign tokens: with a public key the issuer does")
    if session is not None and auth.session_claim is None:
        raise CannotMint("auth.session_claim is not set: no claim of a token names a session")
    now = int(time.time())
    own = {
        "sub": subject, "iat": now, "exp": now + int(seconds), "iss": auth.issuer, "aud": auth.audience,
        auth.session_claim or "": session,
    }  # fmt: skip
    payload = {name: value for name, value in own.items() if value is not None} | (claims or {})
    return jwt.encode(payload, secret, algorithm="HS256")
