"""The classification extension: instead of an output's values the largest of them, as text, `value:index` or `value:index:label`.

Labels are those of an `argmax` over the same scores, or the keys of the map that the scores come from.

Source: Triton's "classification extension" of the Open Inference Protocol V2 (the output parameter `classification`); values
are written as its server writes them, with six decimals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from podpair.inference.core import bfloat16
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.maps import LABELS
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array, TensorSpec

PARAMETER = "classification"


@dataclass(frozen=True, slots=True)
class Classification:
    """A request for the `count` largest values of an output. Labels are known, or another output of the model."""

    count: int
    # Whether each row has its own; else the whole tensor is one.
    by_row: bool
    labels: tuple[str, ...] = ()
    labels_from: int | None = None


def classification(index: int, parameters: Mapping[str, Any], signature: Signature) -> Classification | None:
    """Parse the `classification` of an output's parameters; None if its values are wanted. Raises InvalidRequestError."""
    count = parameters.get(PARAMETER)
    if count is None:
        return None
    spec = signature.outputs[index]
    if type(count) is not int or not 0 < count < 1 << 31:
        raise InvalidRequestError(
            f"output {spec.name!r}: classification is {count!r}; it is how many classes are wanted"
        )
    if spec.datatype in ("BYTES", "BOOL"):
        raise InvalidRequestError(f"output {spec.name!r} is {spec.datatype}: only numbers can be classified")
    names = [output.name for output in signature.outputs]
    beside = spec.name + LABELS
    return Classification(
        count,
        signature.has_rows,
        signature.labels.get(spec.name, ()),
        names.index(beside) if beside in names else None,
    )


def classified(
    wanted: Classification, spec: TensorSpec, array: Array, arrays: Sequence[Array]
) -> tuple[TensorSpec, Array]:
    """Return the output as text: [rows, count], or [count] for a model without rows; fewer if there are fewer values."""
    by_row = wanted.by_row and array.ndim > 0
    rows, columns = (len(array), math.prod(array.shape[1:])) if by_row else (1, array.size)
    values = (bfloat16.to_float(array) if spec.datatype == "BF16" else array).reshape((rows, columns))
    # Of equal values the first comes first; NaN is no largest value.
    keys = values.astype(np.float64) if values.dtype.kind == "f" else values
    order = np.argsort(keys[:, ::-1], axis=-1, kind="stable")[:, ::-1]
    order = columns - 1 - order
    if values.dtype.kind == "f":
        order = np.take_along_axis(
            order, np.argsort(np.isnan(np.take_along_axis(values, order, -1)), axis=-1, kind="stable"), -1
        )
    order = order[:, : wanted.count]
    labels = [list(wanted.labels)] * rows
    if wanted.labels_from is not None:
        labels = arrays[wanted.labels_from].reshape(rows, columns).tolist()
    found = np.empty(order.shape, object)
    for row, indices in enumerate(order.tolist()):
        for place, index in enumerate(indices):
            label = labels[row][index] if index < len(labels[row]) else None
            found[row, place] = f"{values[row, index]:f}:{index}".encode() + _suffix(label)
    result = found if by_row else found[0]
    return TensorSpec(spec.name, "BYTES", result.shape), result


def _suffix(label: Any) -> bytes:
    if label is None:
        return b""
    return b":" + (label if isinstance(label, bytes) else str(label).encode())
