"""Memory for a body, aligned so that the model can read its tensors where they are."""

import numpy as np

from podpair.inference.http1.request_head import parse_byte_count

# Tensors begin at a multiple of this if that can be chosen: vector instructions prefer it.
_ALIGNED = 64


def aligned_buffer(length: int, header_length: str) -> memoryview:
    """Return uninitialised memory for a body, in which what follows `header_length` bytes of JSON is aligned."""
    before = parse_byte_count(header_length) or 0
    memory = np.empty(length + _ALIGNED, np.uint8)
    start = -(memory.__array_interface__["data"][0] + min(before, length)) % _ALIGNED
    return memory[start : start + length].data
