"""Large `bytes` fields of a protobuf message, taken out and put in without a copy by the protobuf library.

Parsing a message copies its bytes fields twice. What is large in V2's messages is one repeated field at the top level, so it
is cut out of the encoded message as views, and the rest, which is small, is parsed as usual.

Source: protobuf's encoding (tag = field number << 3 | wire type; varints little-endian, 7 bits a byte).
"""

from collections.abc import Iterable

from podpair.inference.core.errors import InvalidRequestError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# A varint has at most so many bytes.
_LONGEST = 10


def take(message: bytes, number: int) -> tuple[bytes, list[memoryview]]:
    """The message without its bytes fields `number`, and these, as views. Raises InvalidRequestError."""
    view = memoryview(message)
    kept: list[memoryview] = []
    taken: list[memoryview] = []
    offset, size = 0, len(message)
    while offset < size:
        start = offset
        tag, offset = _varint(message, offset)
        kind = tag & 7
        if kind == _BYTES:
            length, offset = _varint(message, offset)
            offset += length
            if tag >> 3 == number and offset <= size:
                taken.append(view[offset - length : offset])
                continue
        elif kind == _VARINT:
            _, offset = _varint(message, offset)
        elif kind in (_FIXED64, _FIXED32):
            offset += 8 if kind == _FIXED64 else 4
        else:
            raise InvalidRequestError(f"the message isn't protobuf: wire type {kind}")
        if offset > size:
            raise InvalidRequestError("the message isn't protobuf: it ends within a field")
        kept.append(view[start:offset])
    return (b"".join(kept), taken) if taken else (message, taken)


def put(message: bytes, number: int, fields: Iterable[bytes | memoryview]) -> bytes:
    """The message with bytes fields `number` after it; each is copied once, into the result."""
    parts: list[bytes | memoryview] = [message]
    for field in fields:
        parts += (_encode(number << 3 | _BYTES) + _encode(len(field)), field)
    return b"".join(parts)


def _varint(message: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    for byte in message[offset : offset + _LONGEST]:
        value |= (byte & 0x7F) << shift
        offset += 1
        if byte < 0x80:
            return value, offset
        shift += 7
    raise InvalidRequestError("the message isn't protobuf: a number doesn't end")


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
