"""How one event becomes bytes on a connection: a WebSocket text frame or a server-sent event in an HTTP chunk.

The gateway writes these itself, many to one write, because a call per message is what a fan-out spends its time on.
"""

from collections.abc import Iterable

_TEXT = 0x81  # FIN, opcode 1 (RFC 6455, 5.2); a server does not mask
_BINARY = 0x82
_CLOSE = 0x88
_PONG = 0x8A
EMPTY_PING = b"\x89\x00"  # without a payload
_SHORT = [bytes((_TEXT, n)) for n in range(126)]


def text_frame_header(length: int) -> bytes:
    """Build the header of an unmasked, final text frame with a payload of `length` bytes (RFC 6455, 5.2)."""
    if length < 126:
        return _SHORT[length]
    if length < 0x10000:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


def text_frames(payloads: Iterable[bytes]) -> bytes:
    """Encode each payload (UTF-8) as a text frame, all in one piece."""
    parts: list[bytes] = []
    for payload in payloads:
        size = len(payload)
        parts += (_SHORT[size] if size < 126 else text_frame_header(size), payload)
    return b"".join(parts)


def raw_frames(payloads: Iterable[bytes]) -> bytes:
    """Encode each payload unchanged: as a text frame if it is UTF-8, else as a binary frame."""
    parts: list[bytes] = []
    for payload in payloads:
        header = text_frame_header(len(payload))
        if not is_utf8(payload):
            header = bytes((_BINARY,)) + header[1:]
        parts += (header, payload)
    return b"".join(parts)


def close_frame(code: int, reason: str) -> bytes:
    """Encode a close frame (RFC 6455, 5.5.1); cut a reason that is too long for a control frame."""
    payload = code.to_bytes(2, "big") + reason.encode()[:123]
    return bytes((_CLOSE, len(payload))) + payload


def pong_frame(payload: bytes) -> bytes:
    """Encode the answer to a ping (RFC 6455, 5.5.3), with its payload: at most 125 bytes, as in any control frame."""
    return bytes((_PONG, len(payload))) + payload


def is_utf8(data: bytes) -> bool:
    """Return whether `data` may be sent in a text frame."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def server_sent_event(kind: str, payload: bytes, position: str | None) -> bytes:
    """Encode an event of text/event-stream (WHATWG HTML, 9.2); line ends in `payload` (JSON text) become data lines."""
    lines = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    head = f"id: {position}\nevent: {kind}\ndata: " if position else f"event: {kind}\ndata: "
    return head.encode() + lines + b"\n\n"


def http_chunk(data: bytes) -> bytes:
    """Encode `data` as one chunk of a chunked body (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
