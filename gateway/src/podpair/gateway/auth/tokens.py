"""Verifies tokens: signature, `exp nbf iss aud`, required claims, with the algorithms that the key allows and no other."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.clients import Auth
from podpair.gateway.auth.identity import RESUME_AUDIENCE, Identity, Unauthorized
from podpair.gateway.auth.jwk import UnusableKey, VerifyingKey, algorithms_of
from podpair.gateway.auth.jwks import Jwks
from podpair.gateway.core.session_ids import claimed_session_id

_SESSION_CLAIM = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and halves of surrogate pairs
_LONGEST_SUBJECT = 1024  # bytes
_LONGEST_REASON = 200  # characters of the library's error, which may quote the token's header
_LATEST = 2**53  # seconds: the largest integer that a JSON number represents exactly (RFC 8259, 6)


class Key(Protocol):
    """A key that may have signed a token."""

    @property
    def algorithms(self) -> tuple[str, ...]: ...
    @property
    def key(self) -> Any: ...


class KeySource(Protocol):
    """A source of the keys that verify tokens."""

    @property
    def algorithms(self) -> tuple[str, ...]: ...
    @property
    def trouble(self) -> str | None: ...
    async def keep(self) -> None: ...
    async def keys(self, header: dict[str, Any]) -> Sequence[Key]: ...
    async def renewed(self, header: dict[str, Any], tried: Sequence[Any]) -> bool: ...
    async def close(self) -> None: ...


class FixedKey:
    """One key, from the configuration."""

    trouble = None

    def __init__(self, key: Any, algorithms: tuple[str, ...]) -> None:
        self._keys = (VerifyingKey(None, algorithms, key),)
        self.algorithms = algorithms

    async def keep(self) -> None:
        """Do nothing: the key is fixed."""

    async def keys(self, header: dict[str, Any]) -> Sequence[Key]:
        return self._keys

    async def renewed(self, header: dict[str, Any], tried: Sequence[Any]) -> bool:
        """Return False: the key is the only one."""
        return False

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def read_secret(path: Path, setting: str, shortest: int = 32) -> bytes:
    """Return a secret from a file, without a trailing newline. Raises FaultsError."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise FaultsError([f"{setting}: {path}: {error.strerror}"]) from None
    if len(secret) < shortest:
        raise FaultsError([f"{setting}: {path} holds {len(secret)} bytes, {shortest} are needed"])
    return secret


def key_source(config: Auth, on_fetch: Callable[[str], object] = lambda _: None) -> KeySource:
    """Return the configured source of keys. Raises FaultsError if a key can't be read."""
    if config.jwks_url is not None:
        return Jwks(config.jwks_url, config.jwks_cache_seconds, config.jwks_stale_seconds, on_fetch)
    if config.secret is not None:
        return FixedKey(config.secret.get_secret_value().encode(), ("HS256",))
    if config.secret_file is not None:
        return FixedKey(read_secret(config.secret_file, "auth.secret_file"), ("HS256",))
    if config.public_key_file is None:
        raise FaultsError(["auth: no way to verify tokens"])
    try:
        key = load_pem_public_key(config.public_key_file.read_bytes())
    except OSError as error:
        raise FaultsError([f"auth.public_key_file: {config.public_key_file}: {error.strerror}"]) from None
    except (ValueError, UnsupportedAlgorithm):
        raise FaultsError([f"auth.public_key_file: {config.public_key_file} holds no public key in PEM"]) from None
    try:
        return FixedKey(key, algorithms_of(key))
    except UnusableKey as error:
        raise FaultsError([f"auth.public_key_file: {config.public_key_file} holds an unusable key: {error}"]) from None


class TokenVerifier:
    """Turns a token into an Identity."""

    def __init__(self, config: Auth, on_fetch: Callable[[str], object] = lambda _: None) -> None:
        self._config = config
        self._keys = None if config.disabled else key_source(config, on_fetch)

    @property
    def disabled(self) -> bool:
        """Whether everyone is accepted."""
        return self._keys is None

    @property
    def trouble(self) -> str | None:
        """Why no token can be verified now; None: tokens can be. For operators: it contains addresses."""
        return self._keys.trouble if self._keys is not None else None

    async def keep_keys(self) -> None:
        """Keep the keys up to date until cancelled; failures are logged."""
        if self._keys is not None:
            await self._keys.keep()

    async def verify(self, token: str | None) -> Identity:
        """Verify a token. Raises Unauthorized, with the reason, or KeysUnavailable."""
        if self._keys is None:
            return Identity("anonymous", None, None, {})
        if not token:
            raise Unauthorized("no token: send Authorization: Bearer, or the subprotocol bearer.<token>")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in self._keys.algorithms:
                allowed = ", ".join(self._keys.algorithms)
                raise Unauthorized(f"the token is signed with {str(header.get('alg'))[:16]!r}, but {allowed} is needed")
            claims = await self._claims(self._keys, token, header)
        except jwt.PyJWTError as error:
            raise Unauthorized(_reason(error)) from None
        except UnicodeError:
            raise Unauthorized("the token is not a JWT") from None
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise Unauthorized("the token holds a claim that can't be read") from None
        return _identity(claims, self._config.session_claim)

    async def _claims(self, source: KeySource, token: str, header: dict[str, Any]) -> dict[str, Any]:
        """Return the claims of a token that one of the keys has signed. Raises jwt.PyJWTError or KeysUnavailable."""
        keys = await source.keys(header)
        try:
            return self._decoded(token, header["alg"], keys)
        except jwt.InvalidSignatureError:
            if not await source.renewed(header, keys):
                raise
        return self._decoded(token, header["alg"], await source.keys(header))

    def _decoded(self, token: str, algorithm: str, keys: Sequence[Key]) -> dict[str, Any]:
        *others, last = keys
        for key in others:
            try:
                return self._decode(token, algorithm, key)
            except jwt.InvalidSignatureError:
                continue
        return self._decode(token, algorithm, last)

    def _decode(self, token: str, algorithm: str, key: Key) -> dict[str, Any]:
        return jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            issuer=self._config.issuer,
            audience=self._config.audience,
            leeway=self._config.leeway_seconds,
            options={
                "require": list(self._config.required_claims),
                "verify_aud": self._config.audience is not None,
            },
        )

    async def close(self) -> None:
        """Close the source of keys."""
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
    """Return the id of the session that the claim `name` names, if there is one."""
    session = claims.get(name) if name is not None else None
    if session is None:
        return None
    if not isinstance(session, str) or not _SESSION_CLAIM.fullmatch(session):
        raise Unauthorized(
            f"the token's claim {name} (auth.session_claim) does not name a session: 1 to 128 of A-Z a-z 0-9 . _ : @ -"
        )
    return claimed_session_id(subject, session)


def _expiry(value: Any) -> float | None:
    """Return the expiry in Unix seconds; None: never."""
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
    shown = str(error).encode("unicode_escape").decode()  # it may quote the token
    return f"the token is not good: {shown[:_LONGEST_REASON]}"
