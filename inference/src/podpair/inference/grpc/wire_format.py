"""gRPC over HTTP/2: a request's head, the ends of answers, and messages with their prefix (PROTOCOL-HTTP2.md of gRPC)."""

import base64
import binascii
import zlib
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from podpair.inference.grpc.call import Headers
from podpair.inference.grpc.status import Status
from podpair.inference.http2.header_blocks import LARGEST_FIELDS, STATUS_200, literal, size_of_field
from podpair.inference.http2.request_fields import is_request, why_malformed

PREFIX_BYTES = 5
ENCODINGS = {0: "identity", 1: "deflate", 2: "gzip"}
"""Compressions by grpcio's numbers."""
_WINDOW_BITS = {"deflate": zlib.MAX_WBITS, "gzip": zlib.MAX_WBITS | 16}
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_CONTENT_TYPE = literal(b"content-type", b"application/grpc")
ACCEPTED = ",".join(ENCODINGS.values())
# Bytes of a status' details: clients refuse trailers of 8 KB, and show another status then.
_LARGEST_DETAILS = 4096
_CUT = quote("…")
# Digits of a content-length that can be kept.
_LONGEST_LENGTH = 20
# Bytes that are decompressed at once.
_SMALL = 65_536


class Refused(NamedTuple):
    """Why a request is refused by its head alone."""

    code: Status
    details: str
    trailing: Headers = ()


class Head(NamedTuple):
    """A request's head. timeout: seconds; None: no deadline. http_status: other than 200 if it isn't gRPC's.

    length: the bytes of data that it announces; None: it doesn't.
    """

    path: bytes
    metadata: Headers
    timeout: float | None
    encoding: str
    accepted: frozenset[str]
    http_status: int
    length: int | None
    refused: Refused | None
    is_request: bool
    malformed: str | None


def parse_head(given: Iterable[tuple[bytes, bytes]]) -> Head:
    """Parse a request's header fields."""
    fields = list(given)
    known = dict(fields)
    refused = None
    timeout = None
    if b"grpc-timeout" in known:
        timeout = _seconds(known[b"grpc-timeout"].decode("latin-1"))
        if timeout is None:
            refused = Refused(Status.INTERNAL, "grpc-timeout can't be read")
    metadata: list[tuple[str, str]] = []
    try:
        for name, value in fields:
            if not name.startswith((b":", b"grpc-")) and name not in (b"te", b"content-type"):
                metadata += _metadata(name, value)
    except binascii.Error as error:
        refused = Refused(Status.INTERNAL, f"the metadata {name.decode('latin-1')} is not base64: {error}")
    encoding = known.get(b"grpc-encoding", b"identity").decode("latin-1")
    if encoding not in ENCODINGS.values():
        details = f"messages compressed by {encoding} can't be read"
        refused = Refused(Status.UNIMPLEMENTED, details, (("grpc-accept-encoding", ACCEPTED),))
    size = sum(size_of_field(name, value) for name, value in fields)
    if size > LARGEST_FIELDS:
        metadata.clear()
        refused = Refused(Status.RESOURCE_EXHAUSTED, f"metadata of {size} bytes; {LARGEST_FIELDS} are accepted")
    accepted = known.get(b"grpc-accept-encoding", b"").decode("latin-1").split(",")
    length = known.get(b"content-length", b"")
    return Head(
        path=known.get(b":path", b""),
        metadata=tuple(metadata),
        timeout=timeout,
        encoding=encoding,
        accepted=frozenset(name.strip() for name in accepted),
        http_status=_http_status(known.get(b":method", b""), known.get(b"content-type", b"")),
        length=int(length) if length.isdigit() and len(length) < _LONGEST_LENGTH else None,
        refused=refused,
        is_request=is_request(fields),
        malformed=why_malformed(fields),
    )


def _http_status(method: bytes, content_type: bytes) -> int:
    if method != b"POST":
        return 405
    # Not gRPC-Web's, whose messages are framed otherwise (PROTOCOL-WEB.md).
    subtype = content_type.removeprefix(b"application/grpc")
    return 200 if subtype != content_type and subtype[:1] in (b"", b"+", b";") else 415


def _metadata(name: bytes, value: bytes) -> list[tuple[str, str]]:
    """Return a field's metadata: several of one name if binary values are joined. Raises binascii.Error."""
    key = name.decode("latin-1")
    if not key.endswith("-bin"):
        return [(key, value.decode("latin-1"))]
    # As grpcio gives it: bytes.
    values = [value.strip() for value in value.split(b",")]
    return [(key, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)) for value in values]  # type: ignore[misc]


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
    """Return the header block with which an answer ends; details that are too long are cut."""
    block = literal(b"grpc-status", b"%d" % code)
    if details:
        block += literal(b"grpc-message", _percent_encoded(details))
    for name, value in metadata:
        raw = value.encode("latin-1", "replace")
        if name.endswith("-bin"):
            raw = base64.b64encode(raw).rstrip(b"=")
        block += literal(name.lower().encode("latin-1", "replace"), raw)
    return block


def _percent_encoded(details: str) -> bytes:
    encoded = quote(details[: _LARGEST_DETAILS + 1], safe=_PRINTABLE, errors="replace")
    if len(encoded) > _LARGEST_DETAILS:
        # What is left of a character that is cut goes, too.
        whole = encoded[: _LARGEST_DETAILS - len(_CUT)]
        if "%" in whole[-2:]:
            whole = whole[: whole.rindex("%")]
        text = unquote_to_bytes(whole).decode(errors="ignore")
        encoded = quote(text, safe=_PRINTABLE) + _CUT
    return encoded.encode()


def compress(encoding: str, message: bytes) -> bytes:
    """Return a compressed message."""
    stream = zlib.compressobj(wbits=_WINDOW_BITS[encoding])
    return stream.compress(message) + stream.flush()


class Decompression:
    """Decompresses a message: in the loop what is small, the rest in a thread.

    encoding: of the stream's head. largest: bytes that the message may have.
    """

    def __init__(self, encoding: str, message: bytes, largest: int) -> None:
        self._stream = None if encoding == "identity" else zlib.decompressobj(wbits=_WINDOW_BITS[encoding])
        self._rest, self._largest = message, largest
        self._found = b""

    def begin(self) -> bool:
        """Decompress the first 64 KB. Return whether that was all. Raises ValueError if it can't be decompressed."""
        self._found = self._decompress(min(_SMALL, self._largest + 1))
        return self._whole()

    def run(self) -> None:
        """Decompress the rest (in a thread). Raises ValueError if it can't be decompressed."""
        left = self._largest + 1 - len(self._found)
        if left > 0:
            self._found += self._decompress(left)

    def message(self) -> bytes | None:
        """Return the message; None if it is too large. Raises ValueError if it was cut short, or goes on."""
        if len(self._found) > self._largest:
            return None
        if not self._whole() or (self._stream is not None and self._stream.unused_data):
            raise ValueError("a compressed message is cut short, or goes on after its end")
        return self._found

    def _whole(self) -> bool:
        return self._stream is not None and self._stream.eof

    def _decompress(self, most: int) -> bytes:
        if self._stream is None:
            raise ValueError("a message is compressed, and its head says by nothing")
        try:
            found = self._stream.decompress(self._rest, most)
        except zlib.error as error:
            raise ValueError(f"a message can't be decompressed: {error}") from None
        self._rest = self._stream.unconsumed_tail
        return found
