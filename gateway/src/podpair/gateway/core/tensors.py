"""Tensors between JSON and V2's binary extension, for whole calls.

A batch holds the rows of many requests: what is done here is done once a request or once a call, never once an
element in Python (but for BYTES, whose elements have no fixed size). The elements are little-endian, row-major, without
padding; each of a BYTES tensor stands behind its length in 4 bytes.

Source: Open Inference Protocol V2; Triton's "binary tensor data extension".
"""

import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from podpair.common.v2.datatypes import FORMATS
from podpair.common.v2.non_finite import encode

_ELEMENTS: dict[str, Any] = {"BOOL": bool, "BYTES": str, "FP16": float, "FP32": float, "FP64": float}
_SIZES = {datatype: struct.calcsize(f"<{code}") for datatype, code in FORMATS.items()}
FLOATS = frozenset({"FP16", "FP32", "FP64"})
DATATYPES = frozenset({*FORMATS, "BYTES"})
MOST_DIMENSIONS = 32
_MOST_EMPTY = 1 << 16  # rows of a tensor without elements

_encode = msgspec.json.Encoder().encode


class TensorSpec(NamedTuple):
    """A tensor of a model; -1 in `shape` is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Output(NamedTuple):
    """A tensor of an answer, its elements flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]


class NotPackable(ValueError):
    """Values that are not what the tensor takes; what exactly is wrong is the model's to say."""


@lru_cache(maxsize=1024)
def _struct(datatype: str, count: int) -> struct.Struct:
    return struct.Struct(f"<{count}{FORMATS[datatype]}")


@lru_cache(maxsize=256)
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    shape: Any = _ELEMENTS.get(datatype, int)
    for _ in range(depth):
        shape = list[shape]
    return msgspec.json.Decoder(shape)


def packer(datatype: str, count: int) -> Callable[..., bytes]:
    """Return a function that packs `count` elements, given as arguments, into raw bytes. It raises NotPackable."""
    if datatype == "BYTES":
        return _pack_texts
    to_bytes = _struct(datatype, count).pack

    def pack_numbers(*values: Any) -> bytes:
        try:
            return to_bytes(*values)
        except (struct.error, OverflowError) as error:
            raise NotPackable(str(error)) from None

    return pack_numbers


def pack(values: Sequence[Any], datatype: str) -> bytes:
    """Pack flat elements into raw bytes. Raises NotPackable."""
    return packer(datatype, len(values))(*values)


def _pack_texts(*values: Any) -> bytes:
    if not all(isinstance(value, str) for value in values):
        raise NotPackable("not texts")
    encoded = [value.encode() for value in values]
    return b"".join([part for item in encoded for part in (len(item).to_bytes(4, "little"), item)])


def count_of(shape: Sequence[int]) -> int:
    """Return how many elements a tensor of this shape has. Raises ValueError if no tensor can have it."""
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a shape of {len(shape)} dimensions")
    if shape and min(shape) > 0:
        return math.prod(shape)
    count = 1
    for size in shape:
        if size < 0:
            raise ValueError(f"a shape with the size {size}")
        count *= size
    if not count and max(shape) > _MOST_EMPTY:
        raise ValueError(f"an empty tensor with the size {max(shape)}")
    return count


def unpack(raw: bytes, datatype: str, count: int) -> Sequence[Any]:
    """Unpack raw bytes, the reverse of `pack`. Raises ValueError if the bytes are not `count` elements, or not UTF-8."""
    if datatype != "BYTES":
        size = _SIZES.get(datatype)
        if size is None:
            raise ValueError(f"datatype {datatype!r}")
        if len(raw) != size * count:
            raise ValueError(f"{len(raw)} bytes are not {count} elements of {datatype}")
        return _struct(datatype, count).unpack(raw)
    if len(raw) < 4 * count:
        raise ValueError(f"{len(raw)} bytes are not {count} elements")
    values, offset = [], 0
    for _ in range(count):
        start = offset + 4
        offset = start + int.from_bytes(raw[offset:start], "little")
        values.append(raw[start:offset].decode())
    if offset != len(raw):
        raise ValueError(f"{len(raw)} bytes are not {count} elements")
    return values


def read_elements(text: bytes, datatype: str, depth: int) -> list[Any]:
    """Decode a JSON list of elements, nested `depth` deep. Raises NotPackable."""
    try:
        found: list[Any] = _decoder(datatype, depth).decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotPackable(str(error)) from None
    return found


def flatten(values: list[Any], depth: int) -> tuple[list[Any], tuple[int, ...]]:
    """Flatten nested lists; return the elements and their shape. Raises NotPackable if the lists are ragged or empty."""
    shape = [len(values)]
    for _ in range(depth - 1):
        widths = {len(part) for part in values}
        if len(widths) != 1:
            raise NotPackable("the lists differ in length")
        shape.append(widths.pop())
        values = [item for part in values for item in part]
    return values, tuple(shape)


def nest(flat: Sequence[Any], shape: Sequence[int]) -> Any:
    """Nest flat elements as `shape`; without dimensions, return the element."""
    if not shape:
        return flat[0]
    for width in reversed(shape[1:]):
        flat = [flat[i : i + width] for i in range(0, len(flat), width)] if width else [[] for _ in range(shape[0])]
    return flat


def fits(shape: Sequence[int], spec: TensorSpec) -> bool:
    """Return whether the model takes a tensor of this shape."""
    want = spec.shape
    if len(shape) != len(want):
        return False
    return all(n < 0 or n == got for n, got in zip(want, shape, strict=True))


class Columns:
    """The outputs of a call as JSON, row by row: a row's text is made once for all, and only put together for each request."""

    __slots__ = ("_all", "_columns", "_outputs", "_row")

    def __init__(self, outputs: Sequence[Output]) -> None:
        self._outputs = outputs
        self._columns = [_column(output) for output in outputs]
        self._all: list[bytes] | None = None
        if len(outputs) == 1:  # the row of an only output, which is the most of it, is one formatting
            value, self._all = self._columns[0]
            self._row = b"{%b:%b}" % (_member(outputs[0].name), value)
            return
        patterns = [
            b"%b:%b" % (_member(output.name), value) for output, (value, _) in zip(outputs, self._columns, strict=True)
        ]
        self._row = b"{%b}" % b",".join(patterns)

    def row(self, index: int, _: int = 1) -> bytes:
        """Encode an object of output name → value of this row, without the batch dimension."""
        if self._all is not None:
            return self._row % self._all[index]
        return self._row % tuple([texts[index] for _, texts in self._columns])

    def members(self, before: bytes, behind: bytes) -> list[bytes]:
        """Encode each row as `row` does, between `before` and `behind`."""
        pattern = b"%b%b%b" % (before.replace(b"%", b"%%"), self._row, behind.replace(b"%", b"%%"))
        if self._all is not None:
            return [pattern % text for text in self._all]
        return [pattern % texts for texts in zip(*[texts for _, texts in self._columns], strict=True)]

    def rows(self, start: int, count: int) -> bytes:
        """Encode an object of output name → list of the values of these rows."""
        members = []
        for output, (value, texts) in zip(self._outputs, self._columns, strict=True):
            values = b",".join([value % text for text in texts[start : start + count]])
            members.append(b"%b:[%b]" % (_encode(output.name), values))
        return b"{%b}" % b",".join(members)

    def tensors(self, start: int, count: int) -> bytes:
        """Encode V2's `outputs` in JSON, with these rows."""
        found = []
        for name, datatype, shape, values in self._outputs:
            width = math.prod(shape[1:])
            data = values[start * width : (start + count) * width]
            found.append({"name": name, "datatype": datatype, "shape": [count, *shape[1:]], "data": data})
        return encode(found)


@lru_cache(maxsize=1024)
def _member(name: str) -> bytes:
    """Return an output's name in a pattern of JSON."""
    return _encode(name).replace(b"%", b"%%")


def _column(output: Output) -> tuple[bytes, list[bytes]]:
    """Return how a row's value is made of its text, and each row's text."""
    _, datatype, shape, values = output
    # A server may say one datatype and send another: what does not come apart into so many rows is not numbers.
    if datatype != "BYTES" and len(shape) == 1:
        texts = encode(values)[1:-1].split(b",")
        if len(texts) == shape[0]:
            return b"%b", texts
    width = math.prod(shape[1:])
    if datatype != "BYTES" and len(shape) == 2 and width:
        # Numbers hold no brackets, so one encoding comes apart into its rows.
        nested = [values[i : i + width] for i in range(0, len(values), width)]
        texts = encode(nested)[2:-2].split(b"],[")
        if len(texts) == shape[0]:
            return b"[%b]", texts
    return b"%b", [encode(nest(values[i * width : (i + 1) * width], shape[1:])) for i in range(shape[0])]
