"""Resume tokens: signed by the gateways for each other, bound to the session and to its user.

A token is a JWT; its short form, a third as long, is in the id of every server-sent event. Both have the same contents, and
either is accepted wherever a resume token is.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import NamedTuple

import jwt
import msgspec

from podpair.common.gateway_config.clients import Sessions
from podpair.gateway.auth.identity import RESUME_AUDIENCE, Unauthorized
from podpair.gateway.auth.tokens import read_secret
from podpair.gateway.core.takeovers import Stamp

_SHORT = b"podpair resume token, short form 1"  # derives a key that signs nothing else
_MAC_BYTES = 16


class Resumed(NamedTuple):
    """The session that a resume token continues, and the stamp of the connection that it was given to."""

    session: str
    stamp: Stamp
    requests_epoch: str | None = None  # of the requests topic, as its client knows it; None: not in the token


class _Short(msgspec.Struct, array_like=True):
    """The contents of a token in its short form; its subject is signed, but not included."""

    expires_at: int  # Unix seconds
    session: str
    time: int  # of the stamp …
    name: bytes  # … in hex
    requests_epoch: str


class ResumeTokens:
    """Mints and verifies resume tokens."""

    def __init__(self, config: Sessions) -> None:
        self._seconds = config.resume_seconds
        self.shared = True  # other gateways accept our tokens
        if config.resume_secret is not None:
            self._secret = config.resume_secret.get_secret_value().encode()
        elif config.resume_secret_file is not None:
            self._secret = read_secret(config.resume_secret_file, "sessions.resume_secret_file")
        else:
            self._secret = secrets.token_bytes(32)
            self.shared = False
        self._short_key = hmac.digest(self._secret, _SHORT, hashlib.sha256)

    def mint(
        self,
        session: str,
        subject: str,
        stamp: Stamp = Stamp(),  # noqa: B008 - it is immutable
        requests_epoch: str | None = None,
    ) -> str:
        """Return a token with which `subject` resumes `session`, on any gateway with the same secret."""
        claims = {
            "aud": RESUME_AUDIENCE, "sid": session, "sub": subject, "exp": int(time.time() + self._seconds),
            "connection": str(stamp), "requests": requests_epoch or "",
        }  # fmt: skip
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def short(self, token: str) -> str:
        """Return the short form of a token: URL-safe base64 without dots."""
        claims = jwt.decode(token, self._secret, algorithms=["HS256"], audience=RESUME_AUDIENCE)
        time_, _, name = str(claims["connection"]).partition(".")
        said = _Short(claims["exp"], claims["sid"], int(time_), bytes.fromhex(name), claims["requests"])
        body = msgspec.msgpack.encode(said)
        return base64.urlsafe_b64encode(self._mac(body, claims["sub"]) + body).rstrip(b"=").decode()

    def _mac(self, body: bytes, subject: str) -> bytes:
        whose = subject.encode(errors="replace")
        signed = len(whose).to_bytes(4, "big") + whose + body
        return hmac.digest(self._short_key, signed, hashlib.sha256)[:_MAC_BYTES]

    def _open_short(self, token: str, subject: str) -> Resumed:
        try:
            whole = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            mac, body = whole[:_MAC_BYTES], whole[_MAC_BYTES:]
            # A forged token can't be distinguished from another user's.
            if not hmac.compare_digest(mac, self._mac(body, subject)):
                raise Unauthorized("the resume token is not one of ours, or another user's: connect without it")
            said = msgspec.msgpack.decode(body, type=_Short)
        except (binascii.Error, ValueError, msgspec.DecodeError):
            raise Unauthorized("the resume token is not one of ours: connect without it") from None
        if said.expires_at <= time.time():
            raise Unauthorized("the resume token has expired: connect without it")
        return Resumed(said.session, Stamp(said.time, said.name.hex()), said.requests_epoch)

    def open(self, token: str, subject: str) -> Resumed:
        """Verify a token, in either form; return the session that it resumes. Raises Unauthorized."""
        if token and "." not in token:
            return self._open_short(token, subject)
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


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs resume tokens here."""

    gateway: str
    """This gateway's name."""
    tokens: ResumeTokens
