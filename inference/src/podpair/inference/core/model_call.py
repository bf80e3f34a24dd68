"""A call from one model to another, as Python values on the caller's side and as tensors on the called model's.

Python numbers and lists become the called model's datatypes, as a class's answers do: no float becomes an integer by itself, and
no number is cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from podpair.inference.core import bfloat16
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.request_context import RequestContext
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import DATATYPES, Array, TensorSpec, as_text, datatype_of

# The name of the only input, where the caller names none.
ONLY = ""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A call: a tensor for each name, with rows as the called model has them."""

    model: str
    version: str | None
    names: Sequence[str]
    arrays: Sequence[Array]
    parameters: Mapping[str, Any]
    # Of the request for which it is made.
    context: RequestContext


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The answer to a call: a tensor for each output."""

    names: Sequence[str]
    arrays: Sequence[Array]


def given_arrays(inputs: Any) -> tuple[list[str], list[Array]]:
    """Return names and tensors of a mapping of inputs, or of the only input's value. Raises InvalidRequestError."""
    given = inputs if isinstance(inputs, Mapping) else {ONLY: inputs}
    return [str(name) for name in given], [_array(str(name), value) for name, value in given.items()]


def answered_values(answer: ModelAnswer, text: bool) -> dict[str, Any]:
    """Return the outputs by name: arrays of numbers; lists (or arrays) of `str`, or without `text` of `bytes`.

    Raises InvalidRequestError if text isn't UTF-8.
    """
    return {name: _value(name, array, text) for name, array in zip(answer.names, answer.arrays, strict=True)}


def request_arrays(call: ModelCall, signature: Signature) -> tuple[Array, ...]:
    """Return a call's tensors in the order of the called model's inputs. Raises InvalidRequestError."""
    arrays: list[Array | None] = [None] * len(signature.inputs)
    for name, array in zip(call.names, call.arrays, strict=True):
        index = 0 if name == ONLY and len(signature.inputs) == 1 else signature.by_name.get(name)
        if index is None:
            named = f"no input {name!r}" if name != ONLY else "the inputs need names"
            raise InvalidRequestError(f"{named}; the model takes {', '.join(signature.by_name)}")
        spec = signature.inputs[index].tensor
        shape = signature.check_header(index, spec.datatype, array.shape)
        arrays[index] = _cast(array, spec).reshape(shape)
        signature.check_values(index, arrays[index])  # type: ignore[arg-type]
    return signature.complete(arrays)


def _array(name: str, value: Any) -> Array:
    try:
        numeric = _is_numeric(value)
        array = np.asarray(value) if numeric else _bytes_array(value)
        if numeric == (datatype_of(array.dtype) == "BYTES"):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise InvalidRequestError(
            f"input {name or 'of the model'}: a {type(value).__name__} that is no tensor of numbers, text or bytes"
        ) from None
    return array


def _is_numeric(value: Any) -> bool:
    """Return whether the elements aren't text or bytes, by the first of them."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "OSU"
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return not isinstance(value, str | bytes)


def _bytes_array(value: Any) -> Array:
    nested = np.array([value] if isinstance(value, str | bytes) else value, object)
    array = np.empty(nested.size, object)
    array[:] = [item if isinstance(item, bytes) else item.encode() for item in nested.ravel().tolist()]
    return array.reshape(nested.shape)


def _value(name: str, array: Array, text: bool) -> Any:
    if array.dtype.kind == "V":
        return bfloat16.to_float(array)
    if array.dtype.kind not in "OSU":
        return array
    flat = _bytes_array(array)
    try:
        values = as_text(flat, name) if text else flat
    except InvalidRequestError:
        raise InvalidRequestError(f"output {name!r}: an element isn't UTF-8; call with text=False") from None
    return values.tolist() if values.ndim == 1 else values


def _cast(array: Array, spec: TensorSpec) -> Array:
    """Return the tensor in the model's datatype. Raises InvalidRequestError if a value would be another one."""
    target = DATATYPES[spec.datatype]
    if array.dtype == target:
        return array
    kinds = array.dtype.kind + target.kind
    if spec.datatype == "BF16" and array.dtype.kind in "iuf":
        return bfloat16.from_float(array.astype(np.float32))
    if kinds in ("if", "uf", "ff", "bi", "bu", "bf"):
        with np.errstate(over="ignore"):  # a float too large becomes infinite, and is judged as such
            return array.astype(target)
    if kinds in ("ii", "iu", "ui", "uu"):
        cast = array.astype(target)
        if np.array_equal(cast, array) and np.array_equal(cast < 0, array < 0):
            return cast
        raise InvalidRequestError(f"input {spec.name!r}: a number is too large for {spec.datatype}")
    raise InvalidRequestError(
        f"input {spec.name!r}: datatype {datatype_of(array.dtype)}, the model takes {spec.datatype}"
    )
