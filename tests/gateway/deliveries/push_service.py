"""A push service that keeps to RFC 8030 and 8292, and browsers that decrypt as RFC 8291 says, without the gateway's code."""

import base64
import os
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from podpair.gateway.core.deliveries.web_push import PushKeys


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Browser:
    """One that has subscribed."""

    private: ec.EllipticCurvePrivateKey
    auth: bytes
    messages: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def new(cls) -> "Browser":
        return cls(ec.generate_private_key(ec.SECP256R1()), os.urandom(16))

    @property
    def point(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    @property
    def keys(self) -> PushKeys:
        return PushKeys(_unpadded(self.point), _unpadded(self.auth))


def _derived(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def decrypt(body: bytes, browser: Browser) -> bytes:
    """Decrypt a body of one record (RFC 8188, RFC 8291)."""
    salt, size, length = body[:16], int.from_bytes(body[16:20]), body[20]
    sender, sealed = body[21 : 21 + length], body[21 + length :]
    assert len(body) <= 4096
    assert len(sealed) <= size
    shared = browser.private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
    secret = _derived(shared, browser.auth, b"WebPush: info\0" + browser.point + sender, 32)
    key = _derived(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derived(secret, salt, b"Content-Encoding: nonce\0", 12)
    opened = AESGCM(key).decrypt(nonce, sealed, None).rstrip(b"\0")
    assert opened.endswith(b"\x02")
    return opened[:-1]


class PushService:
    """`/push/<name>` is the endpoint of a browser that subscribed with this public key; what breaks a rule is in `refusals`."""

    def __init__(self) -> None:
        self.browsers: dict[str, Browser] = {}
        self.public_key = ""
        self.refusals: list[str] = []
        self.answers: list[int] = []  # statuses to answer next, instead
        self.attempts = 0

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/push/{name}", self._take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.origin = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        return runner

    def subscribe(self, name: str) -> dict[str, Any]:
        """Return what the browser's `PushSubscription.toJSON()` says, as a subscription's members."""
        browser = self.browsers[name] = Browser.new()
        keys = {"p256dh": browser.keys.p256dh, "auth": browser.keys.auth}
        return {"kind": "web_push", "secret": "", "url": f"{self.origin}/push/{name}", "keys": keys}

    async def _take(self, request: web.Request) -> web.Response:
        self.attempts += 1
        if self.answers:
            return web.Response(status=self.answers.pop(0))
        browser = self.browsers.get(request.match_info["name"])
        if browser is None:
            return web.Response(status=410)
        body = await request.read()
        if (why := self._fault(request, body)) is not None:
            self.refusals.append(why)
            return web.Response(status=400, text=why)
        browser.messages.append(decrypt(body, browser))
        browser.headers.append(dict(request.headers))
        return web.Response(status=201, headers={"Location": f"{self.origin}/message/1"})

    def _fault(self, request: web.Request, body: bytes) -> str | None:
        if len(body) > 4096:
            return "too long"
        if not request.headers.get("TTL", "").isdigit():
            return "no TTL"
        if request.headers.get("Content-Encoding") != "aes128gcm":
            return "encoding"
        if request.headers.get("Urgency", "normal") not in ("very-low", "low", "normal", "high"):
            return "urgency"
        topic = request.headers.get("Topic", "x")
        if len(topic) > 32 or not topic.replace("-", "").replace("_", "").isalnum():
            return "topic"
        return self._vapid_fault(request.headers.get("Authorization", ""))

    def _vapid_fault(self, said: str) -> str | None:
        scheme, _, rest = said.partition(" ")
        parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        if scheme != "vapid" or parts.get("k") != self.public_key:
            return "another key than the browser subscribed with"
        raw = base64.urlsafe_b64decode(self.public_key + "=" * (-len(self.public_key) % 4))
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
            claims = jwt.decode(parts["t"], key, ["ES256"], audience=self.origin)
        except jwt.InvalidTokenError as error:
            return f"token: {error}"
        return None if claims["exp"] <= time.time() + 86_400 and claims["sub"].startswith("mailto:") else "claims"
