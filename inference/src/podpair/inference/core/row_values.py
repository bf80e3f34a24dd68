"""Random rows for a model whose inputs are known by datatype and shape alone, and whether two answers are the same.

Values of several ranges, for none suits all models: a detector finds something only in large numbers, an embedding refuses
indices that its table doesn't have, rows that are equal or hold few values show what sorts, counts and compares. Each row has
a magnitude of its own, so that a scale which is taken over the batch shows.

Answers are compared within a tolerance, relative to the largest number of the row's tensor: a matrix product of one row is
another kernel than that of many, and adds up in another order. Measured differences of models that do compute row by row are
around 1e-6 of it in FP32 (docs/models.md), those of one int8 scale for several rows 1e-3 and more. Integers, booleans and texts
are the same or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from podpair.inference.core import bfloat16
from podpair.inference.core.tensors import DATATYPES, Array, TensorSpec

TOLERANCES = {2: 2e-2, 4: 1e-4, 8: 1e-9}  # bytes of a float → share of the largest number

_WORDS = (b"a", b"good", b"bad", b"a good day", b"1", b"2.5", b"")


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of random numbers."""

    name: str
    # Of floats: `normal` around 0, `unit` from 0 to 1, `few`: 0, 1 or 2.
    floats: str
    # By which a row is multiplied at most.
    scale: float
    # Integers from the one to the other.
    integers: tuple[int, int]


# In this order, as far as there is time: the first ones suit most models.
PROFILES = (
    Profile("normal", "normal", 3.0, (0, 1)),
    Profile("few values", "few", 1.0, (0, 3)),
    Profile("unit", "unit", 1.0, (1, 3)),
    Profile("large", "normal", 300.0, (0, 99)),
)


def random_rows(
    spec: TensorSpec,
    rows: int,
    inner: Sequence[int],
    profile: Profile,
    words: Sequence[bytes],
    draw: np.random.Generator,
) -> Array:
    """Return a tensor of so many random rows, each of shape `inner`."""
    shape = (rows, *inner)
    dtype = DATATYPES[spec.datatype]
    if dtype.kind == "O":
        known = (*words, *_WORDS)
        picked = np.empty(shape, object)
        picked.reshape(-1)[:] = [known[i] for i in draw.integers(0, len(known), picked.size)]
        return picked
    if dtype.kind == "b":
        return draw.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        low, high = profile.integers
        if dtype.itemsize == 1 and profile.scale > 1:  # quantised values and pixels use the whole range
            low, high = (0, 127) if dtype.kind == "i" else (0, 255)
        return draw.integers(low, high, shape, endpoint=True).astype(dtype)
    if profile.floats == "few":
        return _as(dtype, draw.integers(0, 2, shape, endpoint=True).astype(np.float32))
    wide = np.float64 if dtype.itemsize == 8 else np.float32
    values = draw.standard_normal(shape, wide) if profile.floats == "normal" else draw.random(shape, wide)
    if profile.scale > 100:
        # Some rows whose numbers all have one sign: a threshold may answer to nothing else.
        np.abs(values[::2], out=values[::2])
    if profile.scale > 1:
        # The rows' magnitudes lie apart by what matters, in whatever order.
        scales = draw.permutation(np.geomspace(profile.scale / 30, profile.scale, rows))
        values *= scales.reshape(rows, *(1 for _ in inner)).astype(wide)
    return _as(dtype, values)


def _as(dtype: np.dtype[Any], values: Array) -> Array:
    return bfloat16.from_float(values) if dtype == bfloat16.DTYPE else values.astype(dtype, copy=False)


def same(a: Array, b: Array) -> bool:
    """Return whether two answers are the same; NaN equals NaN, and infinity infinity."""
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
        return False
    size = a.dtype.itemsize
    if a.dtype == bfloat16.DTYPE:
        a, b = bfloat16.to_float(a), bfloat16.to_float(b)
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    wide = np.float64
    left, right = a[finite].astype(wide), b[finite].astype(wide)
    if not left.size:
        return True
    return bool(np.abs(left - right).max() <= TOLERANCES[size] * max(np.abs(left).max(), np.abs(right).max()))
