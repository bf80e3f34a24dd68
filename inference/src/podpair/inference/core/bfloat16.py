"""BF16 in numpy, which has no such type: its arrays are of two opaque bytes (`V2`), and computed with as FP32.

Source of the format: the upper half of an IEEE 754 binary32; V2 and Triton send it little-endian, as raw bytes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPE = np.dtype("V2")
# Sign and mantissa aside: what NaN and infinity have.
_EXPONENT = 0x7F80


def to_float(array: NDArray[Any]) -> NDArray[np.float32]:
    """Convert to FP32, exactly."""
    wide = array.view("<u2").astype("<u4") << np.uint32(16)
    return wide.view(np.float32)


def from_float(array: NDArray[Any]) -> NDArray[Any]:
    """Round FP32 to the nearest BF16, ties to even, as ONNX's Cast does; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).reshape(array.shape).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(array), quiet, rounded).astype("<u2").view(DTYPE)


def all_finite(array: NDArray[Any]) -> bool:
    """Return whether there is neither NaN nor infinity."""
    return not ((array.view("<u2") & np.uint16(_EXPONENT)) == _EXPONENT).any()
