"""One row as V2's generate extension has it: inputs as plain members by name, and outputs the same way.

Source: Triton's "generate extension" of the Open Inference Protocol V2.
"""

import math
from typing import Any

import msgspec

from podpair.common.v2.non_finite import decode, encode
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest, shorthand_of
from podpair.gateway.core.tensors import Output, nest

_MESSAGE = 1000  # characters of what an error says
_OUTER = frozenset({"id", "model_name", "model_version", "error"})
_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    data: list[Any]


class StreamFailed(Exception):
    """An event of the stream says that the model failed. `status`: as which response it would have been, if that is known."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


def generate_body(request: InferenceRequest, model: Model) -> bytes:
    """Build the request's body. Raises Fault(invalid) if the request is more than one row."""
    members: dict[str, Any] = {"id": request.id}
    if request.inputs:
        try:
            given = msgspec.json.decode(request.inputs, type=list[_Tensor])
        except (msgspec.DecodeError, RecursionError) as error:
            raise Fault(Code.INVALID, f"inputs are not V2 tensors: {error}") from None
        for tensor in given:
            members[tensor.name] = _row(tensor, model)
    else:
        members[model.only_input().name] = msgspec.Raw(shorthand_of(request))
    if request.parameters:
        members["parameters"] = msgspec.Raw(request.parameters)
    return _encode(members)


def _row(tensor: _Tensor, model: Model) -> Any:
    shape = tensor.shape
    if model.batchable:
        if shape[:1] != [1]:
            raise Fault(Code.INVALID, f"a streamed request is one row; input {tensor.name!r} has shape {shape}")
        shape = shape[1:]
    if tensor.data and isinstance(tensor.data[0], list):
        return tensor.data[0] if model.batchable else tensor.data
    if len(tensor.data) != math.prod(shape):
        raise Fault(Code.INVALID, f"input {tensor.name!r} holds {len(tensor.data)} elements for shape {tensor.shape}")
    return tensor.data[0] if math.prod(shape) == 1 else nest(tensor.data, shape)


def chunk_of_event(event: bytes) -> tuple[bytes, str | None]:
    """Return a chunk's data and the model's version. Raises StreamFailed, or ValueError if it is not the extension's."""
    try:
        found = decode(_members, event)
        message = msgspec.json.decode(found["error"]) if "error" in found else None
        status = msgspec.json.decode(found.get("status", b"500"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if "error" in found:
        raise StreamFailed(str(message)[:_MESSAGE], status if isinstance(status, int) else 500)
    version = msgspec.json.decode(found["model_version"], type=str) if "model_version" in found else None
    return _only({name: value for name, value in found.items() if name not in _OUTER}), version


def chunk_of_outputs(outputs: list[Output], model: Model) -> bytes:
    """Return the data of a chunk that came as tensors of one row."""
    values: dict[str, Any] = {}
    for output in outputs:
        shape = output.shape[1:] if model.batchable else output.shape
        values[output.name] = output.values[0] if len(output.values) == 1 else nest(output.values, shape)
    return _only(values)


def _only(values: dict[str, Any]) -> bytes:
    """Return the value of the only output, or an object of all outputs."""
    return encode(next(iter(values.values())) if len(values) == 1 else values)
