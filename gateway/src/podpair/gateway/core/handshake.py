"""The opening handshake of a WebSocket, the server's part (RFC 6455, 4.2)."""

import base64
import binascii
import hashlib
from collections.abc import Iterable

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
VERSION = "13"
_SINGLE = ("host", "origin", "authorization", "sec-websocket-key", "sec-websocket-version")


class InvalidHandshake(ValueError):
    """The client's request is invalid; `status` is the HTTP status for it."""

    status = 400


class UpgradeRequired(InvalidHandshake):
    """The request is not for a WebSocket of this version, or its version of HTTP has no upgrades."""

    status = 426


def switching_protocols(
    headers: Iterable[tuple[str, str]], protocol: str | None, http_version: tuple[int, int] = (1, 1)
) -> bytes:
    """Build the response to an upgrade with these headers (names in any case) and the chosen subprotocol.

    Raises InvalidHandshake.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value.strip())
    if "websocket" not in _tokens(found, "upgrade"):
        raise UpgradeRequired("this address takes WebSocket upgrades")
    if http_version < (1, 1):
        raise UpgradeRequired("an upgrade needs HTTP/1.1")
    if "upgrade" not in _tokens(found, "connection"):
        raise InvalidHandshake("the header Connection does not say `Upgrade`")
    if repeated := [name for name in _SINGLE if len(found.get(name, ())) > 1]:
        raise InvalidHandshake(f"the header {repeated[0]} is there more than once")
    if "host" not in found:
        raise InvalidHandshake("the header Host is missing")
    if "transfer-encoding" in found or found.get("content-length", ["0"]) != ["0"]:
        raise InvalidHandshake("an upgrade has no body")
    version = found.get("sec-websocket-version", [""])[0]
    if version != VERSION:
        raise UpgradeRequired(f"Sec-WebSocket-Version is {version[:64]!r}, this server speaks {VERSION}")
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {_accept(found.get('sec-websocket-key', [''])[0])}",
        *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol is not None else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _tokens(headers: dict[str, list[str]], name: str) -> list[str]:
    return [token.strip().lower() for value in headers.get(name, ()) for token in value.split(",")]


def _accept(key: str) -> str:
    try:
        good = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise InvalidHandshake(f"Sec-WebSocket-Key {key[:64]!r} is not 16 bytes in base64")
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
