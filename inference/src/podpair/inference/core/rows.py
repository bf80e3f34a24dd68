"""Tensors as a Python class sees them: a batch of requests in, as many answers out.

One element of a batch is one row. A class with one input gets the values themselves: for numbers the array (n, …), which is
a sequence of rows and can be handed on whole, for BYTES of one value a row a list. With several inputs it gets `Batch`.
Nothing is copied on the way in.

A model whose inputs or outputs have no row dimension gets batches of one element, the whole tensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import msgspec
import numpy as np

from podpair.inference.core import bfloat16
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import is_batchable
from podpair.inference.core.tensors import DATATYPES, Array, TensorSpec, as_text

# Input and output of a class without declared ones: text, or anything as JSON in it.
DEFAULT_INPUT = TensorSpec("input", "BYTES", (-1,))
DEFAULT_OUTPUT = TensorSpec("output", "BYTES", (-1,))


class AnswersError(Exception):
    """The answers aren't what the model's outputs say; the message goes on after "predict"."""


class Batch(Sequence[dict[str, Any]]):
    """The rows of a model with several inputs: `batch[0]` is a row as name → value, `batch["name"]` a whole input."""

    def __init__(self, columns: dict[str, Any], rows: int) -> None:
        self.columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> "Batch": ...
    @overload
    def __getitem__(self, key: str) -> Any: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        taken = {name: column[key] for name, column in self.columns.items()}
        return Batch(taken, len(range(self._rows)[key])) if isinstance(key, slice) else taken

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(self._rows))


class Rows:
    """The way between a model's arrays and what its Python class handles."""

    def __init__(self, config: ModelConfig) -> None:
        declared = tuple(TensorSpec(t.name, t.datatype, t.shape) for t in config.inputs)
        self.inputs = declared or (DEFAULT_INPUT,)
        self.outputs = tuple(TensorSpec(t.name, t.datatype, t.shape) for t in config.outputs) or (DEFAULT_OUTPUT,)
        self.batchable = config.rows != "none" and is_batchable(self.inputs, self.outputs)
        self._texts = {t.name for t in config.inputs if t.text and t.datatype == "BYTES"} if declared else {"input"}

    def batch(self, arrays: Sequence[Array]) -> Sequence[Any]:
        """Return the batch for `predict`. Raises InvalidRequestError if text isn't UTF-8."""
        values = [self._column(spec, array) for spec, array in zip(self.inputs, arrays, strict=True)]
        if not self.batchable:
            values = [[value] for value in values]
        if len(values) == 1:
            column: Sequence[Any] = values[0]
            return column
        return Batch({spec.name: value for spec, value in zip(self.inputs, values, strict=True)}, len(values[0]))

    def arrays(self, answers: Any, rows: int) -> list[Array]:
        """Return the output tensors of as many answers as there were rows. Raises AnswersError if the answers are wrong.

        answers: a sequence with a value for each row (with several outputs: a mapping by their names), or a mapping
        from each output to such a sequence. An answer that is an exception is raised.
        """
        names = [spec.name for spec in self.outputs]
        if isinstance(answers, Mapping):
            if set(answers) != set(names):
                raise AnswersError(f"returned {_keys(answers)}; the model's outputs are {', '.join(names)}")
            columns = [_sequence(answers[name], rows) for name in names]
        else:
            answers = _sequence(answers, rows)
            columns = [answers] if len(names) == 1 else _by_name(answers, names)
        return [self._array(spec, column) for spec, column in zip(self.outputs, columns, strict=True)]

    def none(self) -> list[Array]:
        """Return the output tensors for no rows at all, without calling the class; a dimension of any size is 0 then."""
        shapes = [(0, *[max(0, size) for size in spec.shape[1:]]) for spec in self.outputs]
        return [np.empty(shape, DATATYPES[spec.datatype]) for spec, shape in zip(self.outputs, shapes, strict=True)]

    def _column(self, spec: TensorSpec, array: Array) -> Any:
        if spec.datatype == "BF16":
            return bfloat16.to_float(array)
        if spec.datatype != "BYTES":
            return array
        try:
            values = as_text(array, spec.name) if spec.name in self._texts else array
        except InvalidRequestError as error:
            raise InvalidRequestError(
                f"{error}; a class gets bytes with text: false in its model.yaml's inputs"
            ) from None
        return values.tolist() if values.ndim == 1 else values

    def _array(self, spec: TensorSpec, column: Any) -> Array:
        if not isinstance(column, np.ndarray):
            for answer in column:
                if isinstance(answer, Exception):
                    raise answer
        array = _encoded(column, spec) if spec.datatype == "BYTES" else _numbers(column, spec)
        if not self.batchable:
            array = array[0]
        expected = spec.shape[1:] if self.batchable else spec.shape
        found = array.shape[1:] if self.batchable else array.shape
        if len(found) != len(expected) or any(e not in (-1, f) for e, f in zip(expected, found, strict=True)):
            of = "for a request" if self.batchable else "as a whole"
            raise AnswersError(f"returned {spec.name!r} of shape {list(found)} {of}; declared is {list(expected)}")
        return array


def _sequence(answers: Any, rows: int) -> Any:
    """Check that the answers can be counted, and are as many as the rows."""
    if isinstance(answers, str | bytes | Mapping) or not hasattr(answers, "__iter__"):
        raise AnswersError(
            f"returned {_article(answers)}; it returns a list, one answer for each of the {rows} requests"
        )
    if not hasattr(answers, "__len__"):
        answers = list(answers)
    if len(answers) != rows:
        raise AnswersError(f"returned {len(answers)} answers for {rows} requests")
    return answers


def _by_name(answers: Any, names: list[str]) -> list[list[Any]]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, Mapping) or set(answer) != set(names):
            got = _keys(answer) if isinstance(answer, Mapping) else _article(answer)
            raise AnswersError(f"answered a request with {got}; an answer is a dict of {', '.join(names)}")
    return [[answer[name] for answer in answers] for name in names]


def _numbers(column: Any, spec: TensorSpec) -> Array:
    """Convert Python numbers, lists and arrays to the declared datatype; no float becomes an integer by itself."""
    try:
        if spec.datatype == "BF16":
            return bfloat16.from_float(np.asarray(column).astype(np.float32, casting="same_kind"))
        return np.asarray(column).astype(DATATYPES[spec.datatype], casting="same_kind", copy=False)
    except (ValueError, TypeError) as error:
        raise AnswersError(f"returned {spec.name!r} that is no {spec.datatype} {list(spec.shape)}: {error}") from None


def _encoded(column: Any, spec: TensorSpec) -> Array:
    """Encode text and bytes as they are, anything else as JSON."""
    if len(spec.shape) > 1:
        nested = np.array(column, object)
        flat, shape = nested.ravel().tolist(), nested.shape
    else:
        flat, shape = list(column), (len(column),)
    array = np.empty(len(flat), object)
    array[:] = [_bytes(value, spec.name) for value in flat]
    return array.reshape(shape)


def _bytes(value: Any, name: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except TypeError as error:
        raise AnswersError(f"returned {name!r} that is neither text nor JSON: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no JSON")


def _keys(answers: Mapping[Any, Any]) -> str:
    return f"a dict of {', '.join(map(str, answers)) or 'nothing'}"


def _article(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
