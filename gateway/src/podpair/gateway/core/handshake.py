"""The opening handshake of a WebSocket, the server's part (RFC 6455, 4.2)."""

import base64
import binascii
import hashlib
from collections.abc import Mapping

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_VERSION = "13"


class InvalidHandshake(ValueError):
    """What is wrong with the client's request."""


def switching_protocols(headers: Mapping[str, str], protocol: str | None) -> bytes:
    """The answer to an upgrade whose headers are these (names in any case), with the subprotocol that was chosen.

    Raises InvalidHandshake.
    """
    tokens = [token.strip().lower() for token in headers.get("Connection", "").split(",")]
    if "upgrade" not in tokens:
        raise InvalidHandshake("the header Connection does not say `Upgrade`")
    version = headers.get("Sec-WebSocket-Version", "")
    if version != _VERSION:
        raise InvalidHandshake(f"Sec-WebSocket-Version is {version!r}, this server speaks {_VERSION}")
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {_accept(headers.get('Sec-WebSocket-Key', ''))}",
        *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol is not None else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _accept(key: str) -> str:
    try:
        good = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise InvalidHandshake(f"Sec-WebSocket-Key {key[:64]!r} is not 16 bytes in base64")
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
