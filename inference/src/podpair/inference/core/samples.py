"""Synthetic inputs, to run a model with before the first request."""

import numpy as np

from podpair.inference.core import bfloat16
from podpair.inference.core.tensors import DATATYPES, Array


def zeros(datatype: str, shape: tuple[int, ...], rows: int, size: int = 1) -> Array:
    """Return a tensor of so many rows, if it has rows; other dimensions of any size are `size`.

    BYTES are the text 0: a number and JSON, too, and no empty prompt, which language models can't go on from.
    """
    sizes = [size if known < 0 else known for known in shape]
    if shape[:1] == (-1,):
        sizes[0] = rows
    if datatype == "BF16":
        return np.zeros(sizes, "<u2").view(bfloat16.DTYPE)
    return np.full(sizes, b"0" if datatype == "BYTES" else 0, DATATYPES[datatype])
