"""Integers narrower than a byte, for which V2 has no datatypes: a byte each on the wire, packed in ONNX Runtime.

Source of the format: onnx.proto, TensorProto.DataType: elements of 4 and of 2 bits stand in a byte from its lowest bits on.
"""

import math

import numpy as np

from podpair.inference.core.tensors import Array


def pack(array: Array, bits: int, signed: bool) -> Array:
    """Pack the elements into bytes. Raises ValueError if one needs more bits."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if array.size and (array.min() < low or array.max() > high):
        raise ValueError(f"{'an INT' if signed else 'a UINT'}{bits} is a number from {low} to {high}")
    each = 8 // bits
    padded = np.zeros(-(-array.size // each) * each, np.uint8)
    padded[: array.size] = array.reshape(-1).view(np.uint8) & np.uint8((1 << bits) - 1)
    found: Array = np.bitwise_or.reduce(padded.reshape(-1, each) << _shifts(bits), axis=1).astype(np.uint8)
    return found


def unpack(packed: bytes, bits: int, signed: bool, shape: tuple[int, ...]) -> Array:
    """Unpack the elements as INT8 or UINT8."""
    values = (np.frombuffer(packed, np.uint8)[:, None] >> _shifts(bits)) & np.uint8((1 << bits) - 1)
    flat = values.reshape(-1)[: math.prod(shape)]
    if signed:
        sign = np.uint8(1 << bits - 1)
        flat = ((flat ^ sign) - sign).view(np.int8)  # wraps round
    return flat.reshape(shape)


def _shifts(bits: int) -> Array:
    return np.arange(0, 8, bits, dtype=np.uint8)
