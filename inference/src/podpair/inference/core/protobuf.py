"""Protobuf's encoding, field by field, without the messages' classes and without a copy.

Source: protobuf's encoding (tag = field number << 3 | wire type; varints little-endian, 7 bits a byte).
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# Bits that a varint is shifted by at most.
_MOST = 63


class ProtobufError(ValueError):
    """The bytes aren't a message."""


def varint(data: bytes | memoryview, offset: int) -> tuple[int, int]:
    """Decode the number at `offset`. Return it, and where it ends. Raises ProtobufError."""
    value = shift = 0
    try:
        while (byte := data[offset]) >= 0x80 and shift < _MOST:
            value |= (byte & 0x7F) << shift
            offset += 1
            shift += 7
    except IndexError:
        raise ProtobufError("a number doesn't end") from None
    if byte >= 0x80:
        raise ProtobufError("a number doesn't end")
    return value | byte << shift, offset + 1


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message; a value that isn't a varint is its bytes. Raises ProtobufError."""
    offset, size = 0, len(data)
    while offset < size:
        tag, offset = varint(data, offset)
        kind = tag & 7
        if kind == VARINT:
            value, offset = varint(data, offset)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            length, offset = varint(data, offset)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ProtobufError(f"wire type {kind}")
        if offset + length > size:
            raise ProtobufError("it ends within a field")
        yield tag >> 3, data[offset : offset + length]
        offset += length
