"""gRPC over HTTP/2: a request's head, the ends of answers, and messages with their prefix (PROTOCOL-HTTP2.md of gRPC)."""

import base64
import binascii
import zlib
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

from podpair.inference.grpc.call import Headers
from podpair.inference.grpc.status import Status
from podpair.inference.http2.header_blocks import STATUS_200, literal

PREFIX_BYTES = 5
ENCODINGS = {0: "identity", 1: "deflate", 2: "gzip"}
"""Compressions by grpcio's numbers."""
_WINDOW_BITS = {"deflate": zlib.MAX_WBITS, "gzip": zlib.MAX_WBITS | 16}
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_CONTENT_TYPE = literal(b"content-type", b"application/grpc")
ACCEPTED = ",".join(ENCODINGS.values())


class Refused(NamedTuple):
    """Why a request is refused by its head alone."""

    code: Status
    details: str
    trailing: Headers = ()


class Head(NamedTuple):
    """A request's head. timeout: seconds; None: no deadline."""

    path: bytes
    metadata: Headers
    timeout: float | None
    encoding: str
    accepted: frozenset[str]
    is_grpc: bool
    refused: Refused | None


def parse_head(fields: Iterable[tuple[bytes, bytes]]) -> Head:
    """Parse a request's header fields."""
    method = path = b""
    timeout: float | None = None
    encoding, accepted, content_type = "identity", frozenset[str](), b""
    metadata: list[tuple[str, str]] = []
    refused = None
    for name, value in fields:
        if name == b":path":
            path = value
        elif name == b":method":
            method = value
        elif name == b"content-type":
            content_type = value
        elif name == b"grpc-timeout":
            timeout = _seconds(value.decode("latin-1"))
            if timeout is None:
                refused = Refused(Status.INTERNAL, "grpc-timeout can't be read")
        elif name == b"grpc-encoding":
            encoding = value.decode("latin-1")
        elif name == b"grpc-accept-encoding":
            accepted = frozenset(part.strip() for part in value.decode("latin-1").split(","))
        elif not name.startswith((b":", b"grpc-")) and name != b"te":
            try:
                metadata.append((name.decode("latin-1"), _metadata_value(name, value)))
            except binascii.Error:
                refused = Refused(Status.INTERNAL, f"the metadata {name.decode('latin-1')} is not base64")
    if encoding not in ENCODINGS.values():
        details = f"messages compressed by {encoding} can't be read"
        refused = Refused(Status.UNIMPLEMENTED, details, (("grpc-accept-encoding", ACCEPTED),))
    is_grpc = method == b"POST" and content_type.startswith(b"application/grpc")
    return Head(path, tuple(metadata), timeout, encoding, accepted, is_grpc, refused)


def _metadata_value(name: bytes, value: bytes) -> str:
    if not name.endswith(b"-bin"):
        return value.decode("latin-1")
    # As grpcio gives it: bytes.
    return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)  # type: ignore[return-value]


def _seconds(value: str) -> float | None:
    number, unit = value[:-1], value[-1:]
    if not (number.isascii() and number.isdecimal() and len(number) <= 8 and unit in _UNITS):
        return None
    return int(number) * _UNITS[unit]


def answer_head(encoding: str) -> bytes:
    """Return the header block of an answer whose messages may be compressed."""
    compressed = literal(b"grpc-encoding", encoding.encode()) if encoding != "identity" else b""
    return STATUS_200 + _CONTENT_TYPE + compressed


def trailers(code: Status, details: str = "", metadata: Headers = ()) -> bytes:
    """Return the header block with which an answer ends."""
    block = literal(b"grpc-status", b"%d" % code)
    if details:
        block += literal(b"grpc-message", quote(details, safe=_PRINTABLE, errors="replace").encode())
    for name, value in metadata:
        raw = value.encode("latin-1", "replace")
        if name.endswith("-bin"):
            raw = base64.b64encode(raw).rstrip(b"=")
        block += literal(name.lower().encode("latin-1", "replace"), raw)
    return block


def compress(encoding: str, message: bytes) -> bytes:
    """Return a compressed message."""
    stream = zlib.compressobj(wbits=_WINDOW_BITS[encoding])
    return stream.compress(message) + stream.flush()


def decompress(encoding: str, message: bytes, largest: int) -> bytes | None:
    """Return a message as it was; None if it is larger. Raises ValueError if it can't be decompressed."""
    if encoding == "identity":
        raise ValueError("a message is compressed, and its head says by nothing")
    stream = zlib.decompressobj(wbits=_WINDOW_BITS[encoding])
    try:
        found = stream.decompress(message, largest + 1)
    except zlib.error as error:
        raise ValueError(f"a message can't be decompressed: {error}") from None
    if len(found) > largest:
        return None
    if not stream.eof:
        raise ValueError("a compressed message is cut short")
    return found
