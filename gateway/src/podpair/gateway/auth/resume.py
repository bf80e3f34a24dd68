"""Resume tokens: signed by the gateways for each other, bound to the session and to its user."""

import secrets
import time
from typing import NamedTuple

import jwt

from podpair.gateway.auth.identity import RESUME_AUDIENCE, Unauthorized
from podpair.gateway.auth.tokens import read_secret
from podpair.gateway.config.model import Sessions
from podpair.gateway.core.takeovers import Stamp


class Resumed(NamedTuple):
    """The session that a resume token continues, and the stamp of the connection that it was given to."""

    session: str
    stamp: Stamp
    requests_epoch: str | None = None  # of the requests topic, as its client knows it; None: the token says nothing


class ResumeTokens:
    """Mints and opens them."""

    def __init__(self, config: Sessions) -> None:
        self._seconds = config.resume_seconds
        self.shared = True  # other gateways take our tokens
        if config.resume_secret is not None:
            self._secret = config.resume_secret.get_secret_value().encode()
        elif config.resume_secret_file is not None:
            self._secret = read_secret(config.resume_secret_file, "sessions.resume_secret_file")
        else:
            self._secret = secrets.token_bytes(32)
            self.shared = False

    def mint(
        self,
        session: str,
        subject: str,
        stamp: Stamp = Stamp(),  # noqa: B008 - it is immutable
        requests_epoch: str | None = None,
    ) -> str:
        """A token with which `subject` continues `session`, on any gateway with the same secret."""
        claims = {
            "aud": RESUME_AUDIENCE, "sid": session, "sub": subject, "exp": int(time.time() + self._seconds),
            "connection": str(stamp), "requests": requests_epoch or "",
        }  # fmt: skip
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def open(self, token: str, subject: str) -> Resumed:
        """What the token continues. Raises Unauthorized."""
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=RESUME_AUDIENCE,
                options={"require": ["exp", "sub", "sid"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the resume token has expired: connect without it") from None
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError, RecursionError):
            raise Unauthorized("the resume token is not one of ours: connect without it") from None
        if claims["sub"] != subject:
            raise Unauthorized("the resume token is another user's")
        epoch = claims.get("requests")
        return Resumed(
            str(claims["sid"]), Stamp.parse(claims.get("connection")), epoch if isinstance(epoch, str) else None
        )
