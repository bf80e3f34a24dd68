"""`data` instead of V2 tensors: for a model with one input a client sends a row, and reads names instead of tensors."""

from typing import Any, NamedTuple

import msgspec

from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.tensors import count_of


class InputSpec(NamedTuple):
    """The only input of a model. `shape` includes the batch dimension; -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Tensor(msgspec.Struct):
    """An output tensor of a V2 response in JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


_tensors = msgspec.json.Decoder(list[Tensor])


def expand(data: bytes, spec: InputSpec) -> tuple[bytes, bool]:
    """Convert shorthand `data` (JSON) to V2's `inputs`; also return whether one row was given without its batch dimension.

    A row has the rank of the model's input less one, a list of rows the same rank. Where a row is one value (`[N,1]`), the
    value stands for it, alone and in a list of rows; a list of one value is a row, as anywhere. Raises Fault(invalid) if
    the shape can't be the model's.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Fault(Code.INVALID, f"data is not JSON: {error}") from None
    except RecursionError:
        raise Fault(Code.INVALID, "data is nested too deep") from None
    shape = _shape(value)
    rank = len(spec.shape)
    single = len(shape) == rank - 1
    full = (1, *shape) if single else shape
    if value is not None and stand_for_rows(shape, spec.shape):
        single, full = not shape, (*(shape or (1,)), *spec.shape[1:])
    if len(full) != rank or any(want not in (-1, got) for want, got in zip(spec.shape, full, strict=True)):
        want = "x".join("?" if n < 0 else str(n) for n in spec.shape[1:]) or "one value"
        raise Fault(
            Code.INVALID,
            f"data has shape {list(shape)}, but a row of input {spec.name!r} is {want}: send a row or a list of rows",
        )
    flat = data if single and len(shape) <= 1 and shape else msgspec.json.encode(value)
    if not shape:
        flat = b"[" + data + b"]"
    tensor = {"name": spec.name, "datatype": spec.datatype, "shape": list(full), "data": msgspec.Raw(flat)}
    return msgspec.json.encode([tensor]), single


def stand_for_rows(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether values of this shape stand for rows of one value each, of an input whose shape is `wanted`."""
    if len(wanted) < 2 or any(size != 1 for size in wanted[1:]):
        return False
    rows = shape or (1,)
    return wanted[0] in (-1, *rows) and (not shape or (len(shape) == 1 and shape[0] > 1))


def _shape(value: object) -> tuple[int, ...]:
    """Return the shape of nested lists. Raises Fault(invalid) if they are ragged or empty."""
    shape: list[int] = []
    level = [value]
    while isinstance(level[0], list):
        lists = [item for item in level if isinstance(item, list)]
        widths = {len(item) for item in lists}
        if len(lists) != len(level) or len(widths) != 1:
            raise Fault(Code.INVALID, f"data is ragged at depth {len(shape)}: its lists differ in length")
        width = widths.pop()
        if width == 0:
            raise Fault(Code.INVALID, "data is empty")
        shape.append(width)
        level = [inner for item in lists for inner in item]
    if any(isinstance(item, list) for item in level):
        raise Fault(Code.INVALID, f"data is ragged at depth {len(shape)}: numbers beside lists")
    if any(isinstance(item, dict) for item in level):
        raise Fault(Code.INVALID, "data must be numbers, texts or booleans, or lists of them")
    return tuple(shape)


def collapse(outputs: bytes, *, single: bool) -> bytes:
    """Convert V2's `outputs` (JSON) to an object of name → value; `single` drops the batch dimension of each.

    Raises Fault(upstream) if they are not tensors in JSON.
    """
    named: dict[str, Any] = {}
    try:
        tensors = _tensors.decode(outputs)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Fault(Code.UPSTREAM, f"the model's outputs are not V2 tensors: {error}") from None
    for tensor in tensors:
        try:
            count_of(tensor.shape)
        except ValueError as error:
            raise Fault(Code.UPSTREAM, f"the model's outputs are not V2 tensors: {error}") from None
        value = _nest(tensor.data, tensor.shape)
        named[tensor.name] = value[0] if single and isinstance(value, list) and len(value) == 1 else value
    return msgspec.json.encode(named)


def _nest(flat: list[Any], shape: list[int]) -> Any:
    if len(shape) <= 1 or (flat and isinstance(flat[0], list)):
        return flat
    for width in reversed(shape[1:]):
        flat = [flat[i : i + width] for i in range(0, len(flat), width)] if width else [[] for _ in range(shape[0])]
    return flat
