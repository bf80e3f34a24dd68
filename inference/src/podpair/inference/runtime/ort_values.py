"""Tensors of types that ONNX Runtime has and numpy hasn't, passed as bits.

V2 has BF16. An FP8 is a UINT8 there, whose bits it has; integers of 4 and 2 bits are one byte each.
"""

import ctypes
from typing import Any, NamedTuple

import numpy as np

from podpair.inference.core import bfloat16, narrow
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.tensors import Array


class Carried(NamedTuple):
    """How a type is passed."""

    # V2's
    datatype: str
    # ONNX's number of the type (onnx.proto, TensorProto.DataType).
    number: int
    bits: int = 8


# By ONNX Runtime's name.
CARRIED = {
    "tensor(bfloat16)": Carried("BF16", 16, 16),
    "tensor(float8e4m3fn)": Carried("UINT8", 17),
    "tensor(float8e4m3fnuz)": Carried("UINT8", 18),
    "tensor(float8e5m2)": Carried("UINT8", 19),
    "tensor(float8e5m2fnuz)": Carried("UINT8", 20),
    "tensor(float8e8m0)": Carried("UINT8", 24),
    "tensor(uint4)": Carried("UINT8", 21, 4),
    "tensor(int4)": Carried("INT8", 22, 4),
    "tensor(uint2)": Carried("UINT8", 25, 2),
    "tensor(int2)": Carried("INT8", 26, 2),
}


def to_value(ort_value: Any, array: Array, type_name: str, name: str) -> Any:
    """Return an OrtValue of the type. Raises InvalidRequestError if an element is too large for it."""
    carried = CARRIED.get(type_name)
    if carried is None:
        return ort_value.ortvalue_from_numpy(array)
    if carried.bits < 8:
        try:
            packed = narrow.pack(array, carried.bits, carried.datatype == "INT8")
        except ValueError as error:
            raise InvalidRequestError(f"input {name!r}: {error}") from None
        # As many bytes as elements, of which ONNX Runtime reads the first.
        bits = np.zeros(array.shape, np.uint8)
        bits.reshape(-1)[: packed.size] = packed
    else:
        bits = np.asarray(array.view("<u2" if carried.bits == 16 else "u1"), order="C")
    return ort_value.ortvalue_from_numpy_with_onnx_type(bits if bits.flags.aligned else bits.copy(), carried.number)


def from_value(value: Any) -> Array:
    """Return the content of an OrtValue."""
    carried = CARRIED.get(value.data_type())
    if carried is None:
        found: Array = value.numpy()
        return found
    shape, size = tuple(value.shape()), value.tensor_size_in_bytes()
    content = ctypes.string_at(value.data_ptr(), size) if size else b""
    if carried.bits < 8:
        return narrow.unpack(content, carried.bits, carried.datatype == "INT8", shape)
    return np.frombuffer(content, bfloat16.DTYPE if carried.bits == 16 else np.uint8).reshape(shape)
