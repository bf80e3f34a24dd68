"""V2's inference messages, between their encoded bytes and arrays; raw tensors are views of the message."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from podpair.common.v2.datatypes import CONTENTS
from podpair.inference.core import wire
from podpair.inference.core.classification import Classification, classification, classified
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import DATATYPES, Array, TensorSpec, from_raw, to_raw
from podpair.inference.core.v2 import InferRequest
from podpair.inference.grpc.proto import open_inference_pb2 as pb

# Field numbers of the raw contents.
_RAW_INPUTS = pb.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_RAW_OUTPUTS = pb.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
# Heads of requests and answers that are remembered, and the largest of such a request.
_KNOWN, _KNOWN_BYTES = 256, 1024


class Layout(NamedTuple):
    """What a request says besides its raw tensors, as one model takes it."""

    signature: Signature
    # Index among the signature's inputs, datatype, shape and name of each raw tensor.
    tensors: list[tuple[int, str, tuple[int, ...], str]]
    wanted: list[tuple[int, bool]]
    parameters: dict[str, Any]
    classes: dict[int, Classification] | None


class Head:
    """A ModelInferRequest without its raw tensors. Calls that are alike but for these share it: nothing of it may be changed."""

    __slots__ = ("id", "layout", "model", "request", "version")

    def __init__(self, rest: bytes) -> None:
        """Parse it. Raises InvalidRequestError."""
        try:
            self.request = pb.ModelInferRequest.FromString(rest)
        except Exception as error:  # protobuf's DecodeError has no stable home
            raise InvalidRequestError(f"the message is no ModelInferRequest: {error}") from None
        self.model: str = self.request.model_name
        self.version: str = self.request.model_version
        self.id: str = self.request.id
        # Of the model that was asked last.
        self.layout: Layout | None = None


def parse(message: bytes) -> tuple[Head, list[memoryview]]:
    """Parse a ModelInferRequest. Return it without its raw tensors, and these. Raises InvalidRequestError."""
    rest, raw = wire.split_fields(message, _RAW_INPUTS)
    return _known_head(rest) if raw and len(rest) <= _KNOWN_BYTES else Head(rest), raw


_known_head = lru_cache(_KNOWN)(Head)


def decode(head: Head, raw: Sequence[memoryview], signature: Signature) -> InferRequest:
    """Decode a request and check it against the model. Raises InvalidRequestError."""
    layout = head.layout
    if layout is None or layout.signature is not signature or len(layout.tensors) != len(raw):
        return _decode(head, raw, signature)
    arrays: list[Array | None] = [None] * len(signature.inputs)
    for (index, datatype, shape, name), data in zip(layout.tensors, raw, strict=True):
        array = from_raw(data, datatype, shape, name)
        signature.check_values(index, array)
        arrays[index] = array
    return InferRequest(
        head.id or None, signature.complete(arrays), layout.wanted, dict(layout.parameters), layout.classes
    )


def _decode(head: Head, raw: Sequence[memoryview], signature: Signature) -> InferRequest:
    """Decode a request whose head was not seen before, or with other tensors, and keep what it says."""
    request = head.request
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    arrays: list[Array | None] = [None] * len(signature.inputs)
    tensors = []
    for i, tensor in enumerate(request.inputs):
        index = signature.by_name.get(tensor.name)
        if index is None:
            raise InvalidRequestError(f"no input {tensor.name!r}; the model takes {', '.join(signature.by_name)}")
        if arrays[index] is not None:
            raise InvalidRequestError(f"input {tensor.name!r} is there twice")
        if "shared_memory_region" in tensor.parameters:
            raise InvalidRequestError(f"input {tensor.name!r}: shared memory is not served")
        shape = signature.check_header(index, tensor.datatype, tuple(tensor.shape))
        if any(size < 0 for size in shape):
            raise InvalidRequestError(f"input {tensor.name!r}: a size in {list(shape)} is negative")
        array = from_raw(raw[i], tensor.datatype, shape, tensor.name) if raw else _typed(tensor, shape)
        signature.check_values(index, array)
        arrays[index] = array
        tensors.append((index, tensor.datatype, shape, tensor.name))
    given = signature.complete(arrays)
    wanted, classes = _wanted(request, signature)
    said = parameters(request.parameters)
    if raw:
        head.layout = Layout(signature, tensors, wanted, dict(said), classes)
    return InferRequest(head.id or None, given, wanted, said, classes)


def encode(
    model: str,
    version: str,
    request: InferRequest,
    specs: Sequence[TensorSpec],
    arrays: Sequence[Array],
    more: Mapping[str, bool] | None = None,
) -> bytes:
    """Return the encoded ModelInferResponse, all tensors raw. more: its parameters."""
    # Encoded messages one after the other are one message, which has what each of them has.
    heads, raw = [_answer_head(model, version, request.id or "")], []
    for index, _ in request.wanted:
        spec, array = specs[index], arrays[index]
        if request.classes is not None and index in request.classes:
            spec, array = classified(request.classes[index], spec, array, arrays)
        heads.append(_output_head(spec.name, spec.datatype, array.shape))
        raw.append(to_raw(array))
    if more:
        parameters = pb.ModelInferResponse()
        for name, value in more.items():
            parameters.parameters[name].bool_param = value
        heads.append(parameters.SerializeToString())
    return wire.append_fields(b"".join(heads), _RAW_OUTPUTS, raw)


@lru_cache(_KNOWN)
def _answer_head(model: str, version: str, identity: str) -> bytes:
    encoded: bytes = pb.ModelInferResponse(model_name=model, model_version=version, id=identity).SerializeToString()
    return encoded


@lru_cache(_KNOWN)
def _output_head(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    response = pb.ModelInferResponse()
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    encoded: bytes = response.SerializeToString()
    return encoded


def parameters(given: Any) -> dict[str, Any]:
    """Convert a map of InferParameter to Python values."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in given.items()
    }


def _typed(tensor: Any, shape: tuple[int, ...]) -> Array:
    """Decode the tensor in `contents`. Raises InvalidRequestError."""
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidRequestError(f"input {tensor.name!r}: {tensor.datatype} goes into raw_input_contents only")
    values = getattr(tensor.contents, field)
    if len(values) != math.prod(shape):
        raise InvalidRequestError(
            f"input {tensor.name!r}: {field} holds {len(values)} elements, shape {list(shape)} needs {math.prod(shape)}"
        )
    try:
        array = np.array(list(values), DATATYPES[tensor.datatype])
    except OverflowError as error:
        raise InvalidRequestError(f"input {tensor.name!r}: {error}") from None
    return array.reshape(shape)


def _wanted(request: Any, signature: Signature) -> tuple[list[tuple[int, bool]], dict[int, Classification] | None]:
    """Return the requested outputs, each once, and those of them that are to be classified."""
    if not request.outputs:
        return [(index, True) for index in range(len(signature.outputs))], None
    names = {spec.name: index for index, spec in enumerate(signature.outputs)}
    wanted: dict[int, bool] = {}
    classes = {}
    for output in request.outputs:
        index = names.get(output.name)
        if index is None:
            raise InvalidRequestError(f"no output {output.name!r}; the model gives {', '.join(names)}")
        wanted[index] = True
        found = classification(index, parameters(output.parameters), signature)
        if found is not None:
            classes[index] = found
    return list(wanted.items()), classes or None
