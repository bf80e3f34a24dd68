"""Public keys as issuers publish them (RFC 7517), and which of them may have signed a token (RFC 7515, 4.1.4; RFC 7518, 3.1).

Invariants: a key serves only the algorithms of its own type and curve, never one that a token chose for it; an unusable member
of a set does not affect the others (RFC 7517, 5); a token is tried with at most `MOST_TRIED` keys; no secret and no private
component of a key is read.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")  # RFC 7518, 3.3 and 3.5
_CURVES = {  # RFC 7518, 3.4; RFC 8812, 3.2; RFC 8037, 3.1
    "P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "secp256k1": ("ES256K",),
    "Ed25519": ("EdDSA",), "Ed448": ("EdDSA",),
}  # fmt: skip
_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521", "secp256k1": "secp256k1"}
_COORDINATE = {"P-256": 32, "P-384": 48, "P-521": 66, "secp256k1": 32}  # bytes
ALGORITHMS = (*_RSA, *dict.fromkeys(name for names in _CURVES.values() for name in names))
"""All algorithms that a public key may verify."""
_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_KINDS = {"EC": ("P-256", "P-384", "P-521", "secp256k1"), "OKP": ("Ed25519", "Ed448")}
_BASE64 = re.compile(r"[A-Za-z0-9_-]+={0,2}")  # padded by some, against RFC 7515, 2
_LEAST_RSA = 2048  # bits; RFC 7518, 3.3
MOST_TRIED = 16
"""Keys that one token is tried with, if several may have signed it."""


class UnusableKey(Exception):
    """A key can't verify tokens; the message says why, and contains nothing of the key."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key that verifies tokens of these algorithms."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: Any

    def __post_init__(self) -> None:
        if isinstance(self.key, rsa.RSAPublicKey) and self.key.key_size < _LEAST_RSA:
            raise UnusableKey(f"it is RSA of {self.key.key_size} bits, {_LEAST_RSA} are needed (RFC 7518, 3.3)")


def algorithms_of(key: object) -> tuple[str, ...]:
    """Return the algorithms of a public key of the library `cryptography`. Raises UnusableKey."""
    match key:
        case rsa.RSAPublicKey():
            return _RSA
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVE_NAMES:
            return _CURVES[_CURVE_NAMES[key.curve.name]]
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return _CURVES["Ed25519"]
    raise UnusableKey("it is neither RSA, EC (P-256, P-384, P-521, secp256k1), Ed25519 nor Ed448")


def public_key(member: object) -> VerifyingKey:
    """Parse a member of a JWK set. Raises UnusableKey."""
    if not isinstance(member, Mapping):
        raise UnusableKey("it is no object")
    kty, curve, kid = member.get("kty"), member.get("crv"), member.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise UnusableKey("its kid is no text")
    if not isinstance(kty, str) or kty not in _MEMBERS:
        raise UnusableKey(f"its kty is {_shown(kty)}, not RSA, EC or OKP")
    if kty in _KINDS and curve not in _KINDS[kty]:
        raise UnusableKey(f"its crv is {_shown(curve)}, not {', '.join(_KINDS[kty])}")
    if member.get("use") not in (None, "sig"):
        raise UnusableKey(f"its use is {_shown(member['use'])}, not sig")
    operations = member.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise UnusableKey("its key_ops have no verify")
    algorithms = _of_member(member, _RSA if kty == "RSA" else _CURVES[str(curve)], curve)
    return VerifyingKey(kid, algorithms, _read(kty, member, algorithms[0]))


def _of_member(member: Mapping[str, Any], possible: tuple[str, ...], curve: object) -> tuple[str, ...]:
    """Return the algorithms of a key, of which `alg` may name one."""
    named = member.get("alg")
    if named is None or (named == curve and curve in _KINDS["OKP"]):  # RFC 9864, 2.2: it names its curve
        return possible
    if named not in possible:
        raise UnusableKey(f"its alg is {_shown(named)}, not {' or '.join(possible)}")
    return (str(named),)


def _read(kty: str, member: Mapping[str, Any], algorithm: str) -> Any:
    """Create the key from its public members alone."""
    public: dict[str, Any] = {"kty": kty, **{name: member.get(name) for name in _MEMBERS[kty]}}
    for name, value in public.items():
        if name not in ("kty", "crv") and not (isinstance(value, str) and _BASE64.fullmatch(value)):
            raise UnusableKey(f"its {name} is {'missing' if value is None else 'not base64url'}")
    try:
        if kty == "EC":
            public |= {name: _of_size(public[name], _COORDINATE[public["crv"]]) for name in ("x", "y")}
        return jwt.PyJWK(public, algorithm).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, OverflowError):
        raise UnusableKey(f"its {', '.join(_MEMBERS[kty])} are no key") from None


def _of_size(coordinate: str, size: int) -> str:
    """Pad a coordinate to the size of its curve (RFC 7518, 6.2.1.2): authlib, for one, omits leading zeros."""
    value = urlsafe_b64decode(coordinate.rstrip("=") + "=" * (-len(coordinate.rstrip("=")) % 4))
    return urlsafe_b64encode(value.lstrip(b"\0").rjust(size, b"\0")).rstrip(b"=").decode()


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:40]


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of an issuer."""

    keys: tuple[VerifyingKey, ...] = ()

    def find(self, kid: object) -> Sequence[VerifyingKey]:
        """Return the keys for a token's `kid`: those with that id, else those without an id; all keys if `kid` is None."""
        if kid is None:
            return self.keys
        return [key for key in self.keys if key.kid == kid] or [key for key in self.keys if key.kid is None]

    def names(self, kid: object) -> bool:
        """Return whether a key has this id."""
        return kid is not None and any(key.kid == kid for key in self.keys)


def keys_for(keys: Sequence[VerifyingKey], algorithm: object) -> list[VerifyingKey]:
    """Return the keys for an algorithm, at most `MOST_TRIED`. Raises jwt.InvalidAlgorithmError if there are none."""
    found = [key for key in keys if algorithm in key.algorithms]
    if not found:
        possible = dict.fromkeys(name for key in keys for name in key.algorithms)
        which = "its key is" if len(keys) == 1 else "the issuer's keys that it may mean are"
        raise jwt.InvalidAlgorithmError(f"{which} for {', '.join(possible)}")
    return found[:MOST_TRIED]


def key_set(document: object) -> tuple[KeySet, list[str]]:
    """Return the usable keys of a JWK set, and why the others are ignored. Raises ValueError if it is no set."""
    members = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(members, list):
        raise ValueError("it is no JWK set: an object with a list `keys` (RFC 7517, 5)")
    keys, ignored = [], []
    for number, member in enumerate(members):
        try:
            keys.append(public_key(member))
        except UnusableKey as error:
            kid = member.get("kid") if isinstance(member, Mapping) else None
            ignored.append(f"{f'kid {kid[:64]!r}' if isinstance(kid, str) else f'number {number}'}: {error}")
    return KeySet(tuple(keys)), ignored
