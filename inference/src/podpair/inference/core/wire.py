"""Large `bytes` fields of a protobuf message, taken out and put in without a copy by the protobuf library.

Parsing a message copies its bytes fields twice. What is large in V2's messages is one repeated field at the top level, so it
is cut out of the encoded message as views, and the rest, which is small, is parsed as usual.
"""

from collections.abc import Iterable

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.protobuf import BYTES, FIXED32, FIXED64, VARINT, ProtobufError, varint

# From this on a byte of a varint has one that follows.
_MORE = 0x80


def split_fields(message: bytes, number: int) -> tuple[bytes, list[memoryview]]:
    """Split the message into the rest and its bytes fields `number`, as views. Raises InvalidRequestError."""
    try:
        return _split_fields(message, number)
    except ProtobufError as error:
        raise InvalidRequestError(f"the message isn't protobuf: {error}") from None


def _split_fields(message: bytes, number: int) -> tuple[bytes, list[memoryview]]:
    view = memoryview(message)
    kept: list[memoryview] = []
    taken: list[memoryview] = []
    offset, size = 0, len(message)
    while offset < size:
        start = offset
        # Mostly of one byte, which is read here.
        tag = message[offset]
        tag, offset = (tag, offset + 1) if tag < _MORE else varint(message, offset)
        kind = tag & 7
        if kind == BYTES:
            length = message[offset] if offset < size else _MORE
            length, offset = (length, offset + 1) if length < _MORE else varint(message, offset)
            offset += length
            if tag >> 3 == number and offset <= size:
                taken.append(view[offset - length : offset])
                continue
        elif kind == VARINT:
            _, offset = varint(message, offset)
        elif kind in (FIXED64, FIXED32):
            offset += 8 if kind == FIXED64 else 4
        else:
            raise ProtobufError(f"wire type {kind}")
        if offset > size:
            raise ProtobufError("it ends within a field")
        kept.append(view[start:offset])
    return (b"".join(kept), taken) if taken else (message, taken)


def append_fields(message: bytes, number: int, fields: Iterable[bytes | memoryview]) -> bytes:
    """Append bytes fields `number` to the message; each is copied once, into the result."""
    parts: list[bytes | memoryview] = [message]
    for field in fields:
        parts += (_encode(number << 3 | BYTES) + _encode(len(field)), field)
    return b"".join(parts)


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
