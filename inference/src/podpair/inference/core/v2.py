"""The V2 protocol's inference request and response, between bytes and arrays.

A request is JSON, or JSON followed by raw tensors in the order of the inputs that declare `binary_data_size`; the
JSON's length is then in the header `Inference-Header-Content-Length`. A response is the same the other way round.

Source: Open Inference Protocol V2 ("Inference"), and Triton's "binary tensor data extension".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from podpair.inference.core.errors import InvalidRequestError, ModelError
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import (
    DATATYPES,
    Array,
    TensorSpec,
    datatype_of,
    from_json,
    from_raw,
    to_json,
    to_raw,
)


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    # Decoded by datatype in a second pass.
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}


class _ResultTensor(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Result(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_ResultTensor]
    id: str | None = None


@dataclass(slots=True)
class InferRequest:
    """A request that fits the model. `arrays` are in the order of the signature's inputs."""

    id: str | None
    arrays: tuple[Array, ...]
    # (index among the signature's outputs, as binary data), in the order of the answer.
    wanted: Sequence[tuple[int, bool]]
    parameters: dict[str, Any]


_decoder = msgspec.json.Decoder(_Request)
_encoder = msgspec.json.Encoder()


def decode_request(
    body: bytes | bytearray | memoryview, header_length: int | None, signature: Signature
) -> InferRequest:
    """The request in `body`, checked against the model.

    header_length: length of the JSON where raw tensors follow it. The arrays are views of `body`. Raises
    InvalidRequestError.
    """
    view = memoryview(body)
    if header_length is not None and not 0 <= header_length <= len(view):
        raise InvalidRequestError(f"Inference-Header-Content-Length is {header_length}, the body has {len(view)} bytes")
    end = len(view) if header_length is None else header_length
    try:
        request = _decoder.decode(view[:end])
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"not a V2 inference request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the request is not JSON: {error}") from None
    arrays: list[Array | None] = [None] * len(signature.inputs)
    offset = end
    for tensor in request.inputs:
        index = signature.by_name.get(tensor.name)
        if index is None:
            known = ", ".join(signature.by_name)
            raise InvalidRequestError(f"no input {tensor.name!r}; the model takes {known}")
        if arrays[index] is not None:
            raise InvalidRequestError(f"input {tensor.name!r} is there twice")
        array, offset = _array(tensor, index, signature, view, offset)
        signature.check_values(index, array)
        arrays[index] = array
    if offset != len(view):
        raise InvalidRequestError(f"{len(view) - offset} bytes of binary data belong to no input")
    given = tuple(array for array in arrays if array is not None)
    if len(given) < len(arrays):
        missing = next(name for name, index in signature.by_name.items() if arrays[index] is None)
        raise InvalidRequestError(f"input {missing!r} is missing")
    return InferRequest(request.id, given, _wanted(request, signature), request.parameters)


def encode_response(
    model: str, version: str, request: InferRequest, specs: Sequence[TensorSpec], arrays: Sequence[Array]
) -> tuple[list[bytes | memoryview], int | None]:
    """The response as parts of a body, and the length of its JSON where raw tensors follow (else None)."""
    tensors, raw = [], []
    for index, binary in request.wanted:
        spec, array = specs[index], arrays[index]
        tensor = _ResultTensor(spec.name, spec.datatype, array.shape)
        if binary:
            data = to_raw(array)
            raw.append(data)
            tensor.parameters = {"binary_data_size": len(data)}
        else:
            tensor.data = to_json(array)
        tensors.append(tensor)
    header = _encoder.encode(_Result(model, version, tensors, request.id))
    return [header, *raw], len(header) if raw else None


def check_results(specs: Sequence[TensorSpec], arrays: Sequence[Array], rows: int | None) -> None:
    """Raise ModelError unless the arrays are what the specs promise, each with `rows` rows (None: unknown)."""
    for spec, array in zip(specs, arrays, strict=True):
        if datatype_of(array.dtype) != spec.datatype or (rows is not None and array.shape[:1] != (rows,)):
            raise ModelError(
                f"the model answered {spec.name!r} as {datatype_of(array.dtype)} {list(array.shape)} for {rows} rows; "
                f"its signature says {spec.datatype} {list(spec.shape)}"
            )


def _array(tensor: _Input, index: int, signature: Signature, view: memoryview, offset: int) -> tuple[Array, int]:
    """The array of one input, and where the next raw tensor begins."""
    if tensor.datatype not in DATATYPES:
        raise InvalidRequestError(
            f"input {tensor.name!r}: no datatype {tensor.datatype!r}; there are {', '.join(DATATYPES)}"
        )
    shape = tuple(tensor.shape)
    signature.check_header(index, tensor.datatype, shape)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if isinstance(tensor.data, msgspec.UnsetType):
            raise InvalidRequestError(f"input {tensor.name!r} has neither data nor binary_data_size")
        return from_json(tensor.data, tensor.datatype, shape, tensor.name), offset
    if not isinstance(tensor.data, msgspec.UnsetType):
        raise InvalidRequestError(f"input {tensor.name!r} has both data and binary_data_size")
    if type(size) is not int or not 0 <= size <= len(view) - offset:
        raise InvalidRequestError(
            f"input {tensor.name!r}: binary_data_size {size!r}, {len(view) - offset} bytes are left after the JSON "
            "(is Inference-Header-Content-Length set?)"
        )
    return from_raw(view[offset : offset + size], tensor.datatype, shape, tensor.name), offset + size


def _wanted(request: _Request, signature: Signature) -> list[tuple[int, bool]]:
    binary = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return [(index, binary) for index in range(len(signature.outputs))]
    names = {spec.name: index for index, spec in enumerate(signature.outputs)}
    wanted = []
    for output in request.outputs:
        if output.name not in names:
            raise InvalidRequestError(f"no output {output.name!r}; the model gives {', '.join(names)}")
        wanted.append((names[output.name], output.parameters.get("binary_data", binary) is True))
    return wanted
