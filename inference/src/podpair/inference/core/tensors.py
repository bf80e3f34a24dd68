"""Tensors between the V2 protocol's datatypes and numpy.

Two encodings exist for a tensor's elements: JSON (flat or nested lists) and raw bytes (little-endian, row-major, no
padding; BYTES elements each behind a 4-byte length). Both are decoded for a whole tensor at once: no Python runs per
row or element, save for BYTES, whose elements have no fixed size. A raw tensor is a view of the request's body.

Source of the formats: Open Inference Protocol V2, and its binary tensor data extension (Triton).
"""

import contextlib
import math
import struct
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from podpair.common.v2.datatypes import FORMATS
from podpair.common.v2.non_finite import Name
from podpair.inference.core import bfloat16
from podpair.inference.core.errors import InvalidRequestError

Array = NDArray[Any]

# Stands for an input that a request leaves to the model.
OMITTED: Array = np.empty(0, np.uint8)

# BYTES is an array of Python `bytes` (dtype object) on the way in; the way out also knows 'S', 'U' and `str` elements.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
    "BF16": bfloat16.DTYPE,
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_ELEMENTS: dict[str, Any] = {
    "b": bool, "i": int, "u": int, "f": float, "O": str, "V": float, "named": float | Name | None,
}  # fmt: skip
# struct's letters, and packers for lists of up to so many numbers.
_FORMATS = {DATATYPES[name]: letter for name, letter in FORMATS.items()}
_FEW = 1024
_packers: dict[tuple[int, str, int], struct.Struct] = {}
_decoders: dict[tuple[str, int], msgspec.json.Decoder[Any]] = {}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, V2 datatype and shape, where -1 is any size; the first dimension is the rows of a batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    # An input that a request may leave to the model.
    optional: bool = False

    def zeros(self, rows: int, size: int = 1) -> Array:
        """Return a tensor of so many rows, if it has rows, to run a model with; other dimensions of any size are `size`.

        BYTES are the text 0: a number and JSON, too, and no empty prompt, which language models can't go on from.
        """
        sizes = [size if known < 0 else known for known in self.shape]
        if self.shape[:1] == (-1,):
            sizes[0] = rows
        if self.datatype == "BF16":
            return np.zeros(sizes, "<u2").view(bfloat16.DTYPE)
        return np.full(sizes, b"0" if self.datatype == "BYTES" else 0, DATATYPES[self.datatype])


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the V2 name of a numpy dtype; 'S' and 'U' are BYTES. Raises KeyError if V2 has none (complex, datetime)."""
    return "BYTES" if dtype.kind in "SU" else _NAMES[dtype.newbyteorder("<")]


def from_json(raw: msgspec.Raw, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """Decode a JSON list, flat or nested as `shape`. Raises InvalidRequestError for wrong elements, sizes or ranges."""
    dtype = DATATYPES[datatype]
    text = bytes(raw).lstrip()
    if not shape and text[:1] == b"[":
        text = text.lstrip(b"[ \t\r\n").rstrip(b"] \t\r\n")  # one value, in whatever lists it came
    nested = text[1:64].lstrip()[:1] == b"["
    # A tensor without dimensions may stand without a list, as numpy writes it.
    depth = len(shape) if nested else int(bool(shape))
    try:
        values = _elements_of(text, dtype.kind, depth)
        values = values if depth else [values]
        if dtype.kind == "O":
            array = _strings(values, shape if nested else (len(values),))
        else:
            with np.errstate(over="ignore"):  # a float too large becomes infinite, and is judged as such
                array = np.array(values, np.float32 if dtype.kind == "V" else dtype)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"input {name!r}: data is not a list of {datatype}: {error}") from None
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(
            f"input {name!r}: data is no {datatype} tensor of shape {list(shape)}: {error}"
        ) from None
    if nested and not array.size and array.shape == shape[: array.ndim]:
        array = array.reshape(shape)  # what is empty ends the lists: [[], []] is any (2, 0, …)
    if array.size != math.prod(shape) or (nested and array.shape != shape):
        raise InvalidRequestError(
            f"input {name!r}: data holds {array.size} elements, shape {list(shape)} needs {math.prod(shape)}"
            if array.size != math.prod(shape)
            else f"input {name!r}: data is nested as {list(array.shape)}, its shape says {list(shape)}"
        )
    return bfloat16.from_float(array).reshape(shape) if dtype.kind == "V" else array.reshape(shape)


def from_numbers(values: list[Any], datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """Convert a flat list of numbers: floats for FP, integers for the others. Raises InvalidRequestError for a wrong size.

    Raises struct.error or OverflowError for one that is too large, which costs less than numpy does for few numbers.
    """
    count = len(values)
    if count != math.prod(shape):
        raise InvalidRequestError(
            f"input {name!r}: data holds {count} elements, shape {list(shape)} needs {math.prod(shape)}"
        )
    dtype = DATATYPES[datatype]
    if count > _FEW:
        array = np.array(values, np.float64 if dtype.kind == "f" else dtype)
        if dtype.kind == "f" and dtype.itemsize < 8 and count and np.abs(array).max() > np.finfo(dtype).max:
            raise OverflowError
        return array.astype(dtype, copy=False).reshape(shape)
    key = dtype.itemsize, dtype.kind, count
    packer = _packers.get(key)
    if packer is None:
        if len(_packers) >= _FEW:
            _packers.clear()
        packer = _packers[key] = struct.Struct(f"<{count}{_FORMATS[dtype]}")
    return np.frombuffer(packer.pack(*values), dtype).reshape(shape)


def from_raw(raw: memoryview, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """Decode raw bytes, as a read-only view of them if they are aligned. Raises InvalidRequestError for a wrong size."""
    dtype = DATATYPES[datatype]
    if dtype.kind == "O":
        return _elements(raw, shape, name)
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequestError(
            f"input {name!r}: {len(raw)} bytes of binary data, {datatype} of shape {list(shape)} needs {expected}"
        )
    array = np.frombuffer(raw, dtype).reshape(shape)
    if dtype.kind == "b" and array.view("u1").max(initial=0) > 1:
        raise InvalidRequestError(f"input {name!r}: a BOOL is a byte of 0 or 1")
    # A runtime may read with aligned vector loads: a JSON header whose length isn't a multiple of 8 costs this copy.
    return array if array.flags.aligned else array.copy()


def to_json(array: Array) -> list[Any]:
    """Return the elements as a flat list. BYTES become text; other than UTF-8 is available only as binary data.

    NaN and infinity are still floats, which JSON is to name (`common.v2.non_finite`).
    """
    flat = (bfloat16.to_float(array) if array.dtype.kind == "V" else array).ravel().tolist()
    if array.dtype.kind in "SO":
        try:
            return [item.decode() if isinstance(item, bytes) else item for item in flat]
        except UnicodeDecodeError:
            raise InvalidRequestError("a BYTES output isn't UTF-8: ask for it with binary_data: true") from None
    return flat


def to_raw(array: Array) -> bytes | memoryview:
    """Return the elements as little-endian bytes, BYTES with a 4-byte length before each; no copy if none is needed."""
    if array.dtype.kind == "S":
        return _fixed_elements(array.ravel())
    if array.dtype.kind in "UO":
        encoded = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        return b"".join([part for item in encoded for part in (struct.pack("<I", len(item)), item)])
    if array.nbytes <= _FEW and array.dtype in _NAMES:
        return array.tobytes()  # a copy of so little costs less than to avoid it
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view("u1").data


def as_text(array: Array, name: str) -> Array:
    """Decode BYTES to `str`. Raises InvalidRequestError if an element isn't UTF-8."""
    try:
        texts = [item.decode() for item in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise InvalidRequestError(f"input {name!r}: an element isn't UTF-8") from None
    result = np.empty(len(texts), object)
    result[:] = texts
    return result.reshape(array.shape)


def as_text_or_bytes(array: Array, name: str) -> Array:
    """Decode as `as_text` does; if an element isn't UTF-8 all are bytes, each ended by a NUL, as ONNX Runtime wants it.

    Raises InvalidRequestError if there is a NUL in one then.
    """
    try:
        return as_text(array, name)
    except InvalidRequestError:
        items = array.ravel().tolist()
        if any(b"\0" in item for item in items):
            raise InvalidRequestError(
                f"input {name!r}: an element is neither UTF-8 nor free of NUL bytes; ONNX Runtime takes no other text"
            ) from None
        return array.astype(f"S{max(map(len, items)) + 1}")


def all_finite(array: Array) -> bool:
    """Return False if a float array holds NaN or infinity; other arrays can't."""
    if array.dtype.kind != "f":
        return array.dtype.kind != "V" or bfloat16.all_finite(array)
    finite = np.isfinite(array)
    # numpy's own way to ask costs three times this for a small array.
    return b"\0" not in finite.tobytes() if array.size <= _FEW else bool(finite.all())


def _elements_of(text: bytes, kind: str, depth: int) -> Any:
    """Decode the elements in JSON, nested `depth` deep; of floats also those that only have a name, as text, and None for NaN."""
    try:
        return _decoder(kind, depth).decode(text)
    except msgspec.ValidationError as error:
        if kind in "fV":
            with contextlib.suppress(msgspec.ValidationError):
                return _decoder("named", depth).decode(text)
        raise error from None


def _decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    """Return a decoder for lists nested `depth` deep, which is cached: creating one costs more than using it."""
    decoder = _decoders.get((kind, depth))
    if decoder is None:
        shape: Any = _ELEMENTS[kind]
        for _ in range(depth):
            shape = list[shape]
        decoder = _decoders[kind, depth] = msgspec.json.Decoder(shape)
    return decoder


def _strings(values: list[Any], shape: tuple[int, ...]) -> Array:
    """Return an array of `bytes` from nested lists of text."""
    for _ in shape[1:]:
        values = [item for part in values for item in part]
    if len(values) != math.prod(shape):
        raise ValueError(f"it holds {len(values)} elements")
    array = np.empty(len(values), object)
    array[:] = [item.encode() for item in values]
    return array.reshape(shape)


def _elements(raw: memoryview, shape: tuple[int, ...], name: str) -> Array:
    count, offset = math.prod(shape), 0
    items: list[bytes] = []
    while offset + 4 <= len(raw) and len(items) < count:
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4 + length
        items.append(bytes(raw[offset - length : offset]))
    if len(items) != count or offset != len(raw):
        raise InvalidRequestError(
            f"input {name!r}: {len(raw)} bytes of binary data are not {count} BYTES, each behind its 4-byte length"
        )
    array = np.empty(count, object)
    array[:] = items
    return array.reshape(shape)


def _fixed_elements(flat: Array) -> bytes:
    """Encode an 'S' array as BYTES, no Python per element: each row is length, text, padding; the padding is masked out."""
    width = flat.dtype.itemsize
    lengths = np.char.str_len(flat).astype("<u4")
    rows = np.empty((len(flat), 4 + width), np.uint8)
    rows[:, :4] = lengths.view("u1").reshape(-1, 4)
    rows[:, 4:] = np.ascontiguousarray(flat).view("u1").reshape(-1, width)
    kept: bytes = rows[np.arange(4 + width) < (4 + lengths)[:, None]].tobytes()
    return kept
