"""Header fields, compressed (RFC 7541): those that come are decoded by `hpack`, those that go have no state.

A client's calls mostly have the same fields, which come as the same few bytes once its table has them. What such a block meant
stays known for as long as the table is the same.
"""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from podpair.inference.http2.frames import ConnectionFault, ErrorCode

LARGEST_FIELDS = 16_384
"""Bytes of a request's fields, as a peer's SETTINGS_MAX_HEADER_LIST_SIZE counts them (RFC 9113, 6.5.2)."""
LARGEST_BLOCK = 16 * LARGEST_FIELDS
"""Bytes of a block, and of its fields, that are decoded: a peer that sends more is given up with its connection."""
_FIELD_BYTES = 32  # what each counts beside its name and value
# Blocks whose meaning is remembered, and the bytes of one.
_KNOWN_BLOCKS, _LARGEST_KNOWN = 64, 2048
STATUS_200 = b"\x88"
EMPTY_TABLE = b"\x20"
"""What a block begins with after a peer has made its table smaller (RFC 7541, 4.2): none is used."""

Parsed = TypeVar("Parsed")


class _Table(HeaderTable):
    """hpack's table, which counts what is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.added = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.added += 1
        super().add(name, value)

    @property
    def state(self) -> tuple[int, int, int]:
        """What differs after each change of the table: entries go by one that is added, or by a smaller size."""
        return self.added, self.maxsize, len(self.dynamic_entries)


class BlockDecoder(Generic[Parsed]):
    """Decodes the blocks of one connection. parse: makes of a block's fields what is wanted of them; it may not keep state."""

    def __init__(self, parse: Callable[[Iterable[tuple[bytes, bytes]]], Parsed]) -> None:
        self._parse = parse
        self._decoder = Decoder(LARGEST_BLOCK)
        self._table = self._decoder.header_table = _Table()
        self._known: dict[bytes, Parsed] = {}

    def decode(self, block: bytes) -> Parsed:
        """Return what a block means. Raises ConnectionFault: the table is then not what the peer believes."""
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._table.state
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the fields of a header block are too large") from None
        except (HPACKError, UnicodeError) as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"a header block can't be decoded: {error}") from None
        parsed = self._parse((bytes(name), bytes(value)) for name, value in fields)
        if self._table.state != before or len(self._known) == _KNOWN_BLOCKS:
            self._known.clear()
        if self._table.state == before and len(block) <= _LARGEST_KNOWN:
            self._known[block] = parsed
        return parsed


def size_of_field(name: bytes, value: bytes) -> int:
    """Return what a field counts of LARGEST_FIELDS."""
    return len(name) + len(value) + _FIELD_BYTES


def literal(name: bytes, value: bytes) -> bytes:
    """Encode a field without indexing and without a table (6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(value: bytes) -> bytes:
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    size -= 127
    encoded = bytearray(b"\x7f")
    while size >= 128:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded) + value
