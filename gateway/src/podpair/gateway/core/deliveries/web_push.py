"""Web Push: an event as an encrypted message for one browser (RFC 8030, 8291), signed with the gateways' key (VAPID, RFC 8292).

Invariants: what goes to a push service fits into the 4096 bytes that each has to take; only the browser can read it.
"""

import base64
import binascii
import re
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import http_ece
import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

Urgency = Literal["very-low", "low", "normal", "high"]
MOST = 4096 - 86 - 16 - 1  # bytes of a message: the body without its header, tag and delimiter
_VAPID_SECONDS = 12 * 3600  # that a signature is good for; push services take a day at most
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LONGEST_TTL = 2_419_200  # seconds: four weeks
_SHOWN = 200  # characters of an id or a name in a message that is too long to be sent whole
_POINT, _AUTH = 65, 16  # bytes


class InvalidPush(ValueError):
    """What is wrong with a browser's subscription; never repeats its keys."""


class PushKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of a browser's subscription, as `PushSubscription.toJSON()` has them."""

    p256dh: str
    auth: str


class PushOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a push service is to treat the messages."""

    ttl_seconds: int | None = None
    """How long it keeps one for a browser that is away; None: as the settings say."""
    urgency: Urgency = "normal"
    topic: str | None = None
    """A message replaces the one with the same topic that waits; None: each waits for itself."""


class VapidKey(NamedTuple):
    """The gateways' key, and whom a push service may write to."""

    private: ec.EllipticCurvePrivateKey
    contact: str
    public: str
    """For browsers (`applicationServerKey`), in base64url."""


def load_vapid_key(pem: bytes, contact: str) -> VapidKey:
    """Read a private key in PEM. Raises ValueError if it is none on P-256."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnicodeDecodeError):
        raise ValueError("it holds no unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("its key is not on P-256 (prime256v1)")
    return VapidKey(key, contact, _encoded(_point(key.public_key())))


def check_push(keys: PushKeys, options: PushOptions) -> None:
    """Raise InvalidPush for keys that nothing can be encrypted for, and options that push services refuse."""
    _browser_keys(keys)
    if options.topic is not None and not _TOPIC.fullmatch(options.topic):
        raise InvalidPush("push.topic: 1 to 32 of the characters A-Z, a-z, 0-9, - and _")
    if options.ttl_seconds is not None and not 0 <= options.ttl_seconds <= _LONGEST_TTL:
        raise InvalidPush(f"push.ttl_seconds: 0 to {_LONGEST_TTL}")


def push_request(body: bytes, endpoint: str, keys: PushKeys, key: VapidKey, now: float) -> tuple[bytes, dict[str, str]]:
    """Return the body of a request and the headers that go with it; `now` is in Unix seconds. Raises InvalidPush."""
    point, auth = _browser_keys(keys)
    sealed = http_ece.encrypt(
        shortened_event(body), private_key=ec.generate_private_key(ec.SECP256R1()), dh=point, auth_secret=auth,
        version="aes128gcm",
    )  # fmt: skip
    parts = urlsplit(endpoint)
    # Made anew each time: `aud` is this push service.
    claims = {"aud": f"{parts.scheme}://{parts.netloc}", "exp": int(now) + _VAPID_SECONDS, "sub": key.contact}
    return sealed, {
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/octet-stream",
        "Authorization": f"vapid t={jwt.encode(claims, key.private, 'ES256')}, k={key.public}",
    }


def shortened_event(body: bytes) -> bytes:
    """Return the event if it can be pushed, else what says which one it is, with `"truncated": true`."""
    if len(body) <= MOST:
        return body
    event = msgspec.json.decode(body, type=dict[str, Any])
    data = event.get("data")
    made = _named(event, "type", "timestamp", "session", "user") | {"truncated": True}
    data = _named(data, "type", "id", "model", "code") if isinstance(data, dict) else {}
    whole = msgspec.json.encode(made | {"data": data})
    return (
        whole if len(whole) <= MOST else msgspec.json.encode(_named(event, "type", "timestamp") | {"truncated": True})
    )


def _named(members: dict[str, Any], *names: str) -> dict[str, Any]:
    found = {name: members[name] for name in names if name in members}
    return {name: value[:_SHOWN] for name, value in found.items() if isinstance(value, str)}


def _browser_keys(keys: PushKeys) -> tuple[bytes, bytes]:
    point, auth = _decoded(keys.p256dh), _decoded(keys.auth)
    if point is None or len(point) != _POINT or point[0] != 4:
        raise InvalidPush("keys.p256dh: an uncompressed point on P-256, 65 bytes in base64url")
    if auth is None or len(auth) != _AUTH:
        raise InvalidPush("keys.auth: 16 bytes in base64url")
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise InvalidPush("keys.p256dh: this point is not on P-256") from None
    return point, auth


def _decoded(text: str) -> bytes | None:
    """Read base64url, with or without padding, as browsers and libraries write it."""
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
