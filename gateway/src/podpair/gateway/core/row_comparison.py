"""Compares the answers to rows in one call with those that the rows got alone.

Numbers are compared within a tolerance, relative to the largest of the row's tensor, since a matrix product of one row adds up in
another order than that of many; all else is the same or not. Answers that are equal for all rows show nothing, and neither do
labels: a scale that is taken over a whole call changes numbers first.
"""

import math
from collections.abc import Sequence

from podpair.gateway.core.tensors import Output

_TOLERANCES = {"FP16": 2e-2, "FP32": 1e-4, "FP64": 1e-9}


def rows_match(alone: Sequence[Sequence[Output]], together: Sequence[Output], rows: Sequence[int]) -> bool:
    """Return whether a call with the rows of several requests, one behind the other, gave each what it got alone.

    `alone`: the outputs of each request; `rows`: how many rows each has.
    """
    start = 0
    for outputs, count in zip(alone, rows, strict=True):
        if len(outputs) != len(together):
            return False
        for single, whole in zip(outputs, together, strict=True):
            if single.shape[:1] != (count,) or single.shape[1:] != whole.shape[1:] or whole.shape[:1] != (sum(rows),):
                return False
            width = math.prod(whole.shape[1:])
            if not _same(single.values, whole.values[start * width : (start + count) * width], single.datatype):
                return False
        start += count
    return True


def is_conclusive(alone: Sequence[Sequence[Output]]) -> bool:
    """Return whether an output of floats differs from request to request."""
    first = alone[0]
    return any(
        output.datatype in _TOLERANCES and not _same(output.values, outputs[i].values, output.datatype)
        for outputs in alone[1:]
        for i, output in enumerate(first)
    )


def _same(left: Sequence[object], right: Sequence[object], datatype: str) -> bool:
    if len(left) != len(right):
        return False
    tolerance = _TOLERANCES.get(datatype)
    if tolerance is None:
        return list(left) == list(right)
    try:
        pairs = [(float(a), float(b)) for a, b in zip(left, right, strict=True)]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return list(left) == list(right)
    largest = max((abs(value) for pair in pairs for value in pair if math.isfinite(value)), default=0.0)
    return all(a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance * largest for a, b in pairs)
