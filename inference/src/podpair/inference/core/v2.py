"""The V2 protocol's inference request and response, between bytes and arrays.

A request is JSON, or JSON followed by raw tensors in the order of the inputs that declare `binary_data_size`; the
JSON's length is then in the header `Inference-Header-Content-Length`. A response is the same the other way round.

Source: Open Inference Protocol V2 ("Inference"), and Triton's "binary tensor data extension".
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec

from podpair.common.v2.non_finite import decode, named
from podpair.inference.core.classification import Classification, classification, classified
from podpair.inference.core.errors import InvalidRequestError, ModelError
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import (
    DATATYPES,
    Array,
    TensorSpec,
    datatype_of,
    from_json,
    from_numbers,
    from_raw,
    to_json,
    to_raw,
)

Data = TypeVar("Data")


class _Input(msgspec.Struct, Generic[Data]):
    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data: Data | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct, Generic[Data]):
    inputs: list[_Input[Data]]
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
    # Outputs whose largest values are wanted, as text.
    classes: Mapping[int, Classification] | None = None


# Data is decoded by its datatype in a second pass, or, if it is a flat list of numbers as is mostly so, at once.
_any = msgspec.json.Decoder(_Request[msgspec.Raw])
_flat: dict[str, msgspec.json.Decoder[Any]] = {
    "f": msgspec.json.Decoder(_Request[list[float]]),
    "i": msgspec.json.Decoder(_Request[list[int]]),
}
_encoder = msgspec.json.Encoder()

# JSON before raw tensors that is remembered: so many, none longer than this.
_REMEMBERED, _SHORT = 256, 1024


class _Raw(NamedTuple):
    """An input in raw bytes, all checked but its values."""

    input: int
    datatype: str
    shape: tuple[int, ...]
    name: str
    start: int
    end: int


class _Plan(NamedTuple):
    """What the JSON before raw tensors says."""

    request: InferRequest
    tensors: tuple[_Raw, ...]


class RequestDecoder:
    """Reads the requests to one model version."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        kinds = {DATATYPES[spec.tensor.datatype].kind.replace("u", "i") for spec in signature.inputs}
        self._flat = _flat.get(next(iter(kinds))) if len(kinds) == 1 else None
        self._plans: dict[bytes, _Plan] = {}
        # The default of `outputs`: all of them, in JSON or raw.
        self._all = [[(index, binary) for index in range(len(signature.outputs))] for binary in (False, True)]

    def __call__(self, body: bytes | bytearray | memoryview, header_length: int | None) -> InferRequest:
        """The request in `body`, checked against the model.

        header_length: length of the JSON if raw tensors follow it. The arrays are views of `body`. Raises
        InvalidRequestError.
        """
        if header_length is not None:
            return self._read_mixed(memoryview(body), header_length)
        if self._flat is not None:
            try:
                return self._read_flat(self._flat.decode(body))
            except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, struct.error, RecursionError):
                pass  # it is nested or wrong: the other way finds out
        return self._read(memoryview(body), len(body))

    def _read_flat(self, request: _Request[Any]) -> InferRequest:
        """Decode flat lists of numbers, which are finite: struct refuses numbers that are too large for their datatype."""
        signature = self._signature
        arrays: list[Array | None] = [None] * len(signature.inputs)
        for tensor in request.inputs:
            index, shape = self._check(tensor, arrays)
            values = tensor.data
            if isinstance(values, msgspec.UnsetType) or "binary_data_size" in tensor.parameters:
                raise msgspec.DecodeError
            arrays[index] = from_numbers(values, tensor.datatype, shape, tensor.name)
        return self._complete(request, arrays)

    def _read_mixed(self, view: memoryview, header_length: int) -> InferRequest:
        """Decode JSON and raw tensors. JSON that came before isn't decoded again: only the tensors' bytes are new."""
        if not 0 <= header_length <= len(view):
            raise InvalidRequestError(
                f"Inference-Header-Content-Length is {header_length}, the body has {len(view)} bytes"
            )
        if header_length > _SHORT:
            return self._read(view, header_length)
        header = bytes(view[:header_length])
        plan = self._plans.get(header)
        if plan is None or (plan.tensors and plan.tensors[-1].end != len(view)):
            return self._read(view, header_length, header)
        signature = self._signature
        arrays: list[Any] = [None] * len(plan.tensors)
        for index, datatype, shape, name, start, end in plan.tensors:
            array = arrays[index] = from_raw(view[start:end], datatype, shape, name)
            signature.check_values(index, array)
        known = plan.request
        return InferRequest(known.id, tuple(arrays), known.wanted, dict(known.parameters), known.classes)

    def _read(self, view: memoryview, end: int, header: bytes | None = None) -> InferRequest:
        """Decode any request. header: its JSON, if it may be remembered."""
        try:
            request = decode(_any, view[:end])
        except msgspec.ValidationError as error:
            raise InvalidRequestError(f"not a V2 inference request: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequestError(f"the request is not JSON: {error}") from None
        signature = self._signature
        arrays: list[Array | None] = [None] * len(signature.inputs)
        offset, raw = end, []
        for tensor in request.inputs:
            index, shape = self._check(tensor, arrays)
            start = offset
            array, offset = _array(tensor, shape, view, offset)
            signature.check_values(index, array)
            arrays[index] = array
            if offset > start:
                raw.append(_Raw(index, tensor.datatype, shape, tensor.name, start, offset))
        if offset != len(view):
            raise InvalidRequestError(f"{len(view) - offset} bytes of binary data belong to no input")
        found = self._complete(request, arrays)
        if header is not None and len(raw) == len(arrays):
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
            self._plans[header] = _Plan(
                InferRequest(found.id, (), found.wanted, dict(found.parameters), found.classes), tuple(raw)
            )
        return found

    def _check(self, tensor: _Input[Any], arrays: Sequence[Array | None]) -> tuple[int, tuple[int, ...]]:
        """Return which input it is, and its shape."""
        signature = self._signature
        index = signature.by_name.get(tensor.name)
        if index is None:
            known = ", ".join(signature.by_name)
            raise InvalidRequestError(f"no input {tensor.name!r}; the model takes {known}")
        if arrays[index] is not None:
            raise InvalidRequestError(f"input {tensor.name!r} is there twice")
        if tensor.datatype not in DATATYPES:
            raise InvalidRequestError(
                f"input {tensor.name!r}: no datatype {tensor.datatype!r}; there are {', '.join(DATATYPES)}"
            )
        return index, signature.check_header(index, tensor.datatype, tuple(tensor.shape))

    def _complete(self, request: _Request[Any], arrays: list[Array | None]) -> InferRequest:
        given = self._signature.complete(arrays)
        if not request.outputs:
            wanted = self._all[request.parameters.get("binary_data_output") is True]
            return InferRequest(request.id, given, wanted, request.parameters)
        wanted, classes = _wanted(request, self._signature)
        return InferRequest(request.id, given, wanted, request.parameters, classes)


def encode_response(
    model: str, version: str, request: InferRequest, specs: Sequence[TensorSpec], arrays: Sequence[Array]
) -> tuple[list[bytes | memoryview], int | None]:
    """Return the response as segments of a body, and the length of its JSON if raw tensors follow (else None)."""
    tensors, raw = [], []
    for index, binary in request.wanted:
        spec, array = specs[index], arrays[index]
        if request.classes is not None and index in request.classes:
            spec, array = classified(request.classes[index], spec, array, arrays)
        tensor = _ResultTensor(spec.name, spec.datatype, array.shape)
        if binary:
            data = to_raw(array)
            raw.append(data)
            tensor.parameters = {"binary_data_size": len(data)}
        else:
            tensor.data = to_json(array)
        tensors.append(tensor)
    header = _encoder.encode(_Result(model, version, tensors, request.id))
    if b"null" in header:
        # What msgspec makes of NaN and infinity; to look for it costs less than to look at the numbers.
        for tensor in tensors:
            tensor.data = None if tensor.data is None else named(tensor.data)
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


def _array(tensor: _Input[msgspec.Raw], shape: tuple[int, ...], view: memoryview, offset: int) -> tuple[Array, int]:
    """Return the array of one input, and where the next raw tensor begins."""
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


def _wanted(
    request: _Request[Any], signature: Signature
) -> tuple[list[tuple[int, bool]], dict[int, Classification] | None]:
    """Return the requested outputs, each once, and those of them that are to be classified."""
    binary = request.parameters.get("binary_data_output") is True
    names = {spec.name: index for index, spec in enumerate(signature.outputs)}
    wanted: dict[int, bool] = {}
    classes = {}
    for output in request.outputs:
        index = names.get(output.name)
        if index is None:
            raise InvalidRequestError(f"no output {output.name!r}; the model gives {', '.join(names)}")
        wanted[index] = output.parameters.get("binary_data", binary) is True
        found = classification(index, output.parameters, signature)
        if found is not None:
            classes[index] = found
    return list(wanted.items()), classes or None
