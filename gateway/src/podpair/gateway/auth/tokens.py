"""Verifies tokens: signature, `exp nbf iss aud`, required claims, with the algorithms that the key allows and no other."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from podpair.gateway.auth.identity import RESUME_AUDIENCE, Identity, Unauthorized
from podpair.gateway.auth.jwks import Jwks
from podpair.gateway.config.load import ConfigError
from podpair.gateway.config.model import Auth
from podpair.gateway.core.session_ids import claimed_session_id

_SESSION_CLAIM = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and halves of surrogate pairs
_LONGEST_SUBJECT = 1024  # bytes
_LONGEST_REASON = 200  # characters of what the library says, which may quote the token's header
_LATEST = 2**53  # seconds: what a JSON number holds exactly (RFC 8259, 6)


class KeySource(Protocol):
    """Where the key for a token comes from."""

    @property
    def algorithms(self) -> tuple[str, ...]: ...
    async def prepare(self) -> None: ...
    async def key(self, header: dict[str, Any]) -> Any: ...
    async def close(self) -> None: ...


class FixedKey:
    """One key, from the configuration."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self._key = key
        self.algorithms = (algorithm,)

    async def prepare(self) -> None:
        """It is there."""

    async def key(self, header: dict[str, Any]) -> Any:
        return self._key

    async def close(self) -> None:
        """Nothing to close."""


def read_secret(path: Path, setting: str, shortest: int = 32) -> bytes:
    """A secret from a file, without the newline at its end. Raises ConfigError."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError([f"{setting}: {path}: {error.strerror}"]) from None
    if len(secret) < shortest:
        raise ConfigError([f"{setting}: {path} holds {len(secret)} bytes, {shortest} are needed"])
    return secret


def key_source(config: Auth, on_fetch: Callable[[str], object] = lambda _: None) -> KeySource:
    """The source of keys that the configuration names. Raises ConfigError where a key can't be read."""
    if config.jwks_url is not None:
        return Jwks(config.jwks_url, config.jwks_cache_seconds, on_fetch)
    if config.secret is not None:
        return FixedKey(config.secret.get_secret_value().encode(), "HS256")
    if config.secret_file is not None:
        return FixedKey(read_secret(config.secret_file, "auth.secret_file"), "HS256")
    if config.public_key_file is None:
        raise ConfigError(["auth: no way to verify tokens"])
    try:
        key = load_pem_public_key(config.public_key_file.read_bytes())
    except OSError as error:
        raise ConfigError([f"auth.public_key_file: {config.public_key_file}: {error.strerror}"]) from None
    except ValueError:
        raise ConfigError([f"auth.public_key_file: {config.public_key_file} holds no public key in PEM"]) from None
    match key:
        case rsa.RSAPublicKey():
            return FixedKey(key, "RS256")
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return FixedKey(key, "ES256")
        case ed25519.Ed25519PublicKey():
            return FixedKey(key, "EdDSA")
    raise ConfigError([f"auth.public_key_file: {config.public_key_file}: an RSA, EC P-256 or Ed25519 key is needed"])


class TokenVerifier:
    """Turns a token into an Identity."""

    def __init__(self, config: Auth, on_fetch: Callable[[str], object] = lambda _: None) -> None:
        self._config = config
        self._keys = None if config.disabled else key_source(config, on_fetch)

    @property
    def disabled(self) -> bool:
        """Everyone is let in."""
        return self._keys is None

    async def prepare(self) -> None:
        """Get what tokens are verified with, and log where that fails; they are tried again with the tokens."""
        if self._keys is not None:
            await self._keys.prepare()

    async def verify(self, token: str | None) -> Identity:
        """Raises Unauthorized, with the reason, or KeysUnavailable."""
        if self._keys is None:
            return Identity("anonymous", None, None, {})
        if not token:
            raise Unauthorized("no token: send Authorization: Bearer, or the subprotocol bearer.<token>")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in self._keys.algorithms:
                allowed = ", ".join(self._keys.algorithms)
                raise Unauthorized(f"the token is signed with {str(header.get('alg'))[:16]!r}, but {allowed} is needed")
            claims = jwt.decode(
                token,
                await self._keys.key(header),
                algorithms=list(self._keys.algorithms),
                issuer=self._config.issuer,
                audience=self._config.audience,
                leeway=self._config.leeway_seconds,
                options={
                    "require": list(self._config.required_claims),
                    "verify_aud": self._config.audience is not None,
                },
            )
        except jwt.PyJWTError as error:
            raise Unauthorized(_reason(error)) from None
        except UnicodeError:
            raise Unauthorized("the token is not a JWT") from None
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise Unauthorized("the token holds a claim that can't be read") from None
        return _identity(claims, self._config.session_claim)

    async def close(self) -> None:
        """Close what the keys came over."""
        if self._keys is not None:
            await self._keys.close()


def _identity(claims: dict[str, Any], session_claim: str | None) -> Identity:
    subject = claims.get("sub")
    if claims.get("aud") == RESUME_AUDIENCE:
        raise Unauthorized("that is a resume token: send the JWT here, and it as ?resume=")
    if not isinstance(subject, str) or not subject:
        raise Unauthorized("the token's claim sub is missing or not a text")
    if _UNPRINTABLE.search(subject):
        raise Unauthorized("the token's claim sub holds control characters or half a surrogate pair")
    if len(subject.encode()) > _LONGEST_SUBJECT:
        raise Unauthorized(f"the token's claim sub is longer than {_LONGEST_SUBJECT} bytes")
    return Identity(subject, _session(claims, subject, session_claim), _expiry(claims.get("exp")), claims)


def _session(claims: dict[str, Any], subject: str, name: str | None) -> str | None:
    """The id of the session that the claim `name` names, if there is one."""
    session = claims.get(name) if name is not None else None
    if session is None:
        return None
    if not isinstance(session, str) or not _SESSION_CLAIM.fullmatch(session):
        raise Unauthorized(
            f"the token's claim {name} (auth.session_claim) does not name a session: 1 to 128 of A-Z a-z 0-9 . _ : @ -"
        )
    return claimed_session_id(subject, session)


def _expiry(value: Any) -> float | None:
    """Unix seconds; None: never."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise Unauthorized("the token's claim exp is not a time in Unix seconds")
    return float(value)


def _reason(error: jwt.PyJWTError) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "the token has expired"
        case jwt.ImmatureSignatureError():
            return "the token is not valid yet (nbf or iat)"
        case jwt.InvalidIssuerError():
            return "the token is from another issuer"
        case jwt.InvalidAudienceError():
            return "the token is for another audience"
        case jwt.MissingRequiredClaimError():
            return f"the token lacks the claim {error.claim}"
        case jwt.InvalidSignatureError():
            return "the token's signature is not good"
        case jwt.DecodeError() if "claim" not in str(error):
            return "the token is not a JWT"
    return f"the token is not good: {str(error).encode('ascii', 'backslashreplace').decode()[:_LONGEST_REASON]}"
