"""V2's inference messages over gRPC, between their encoded bytes and what the gateway asks and answers with.

Tensors go raw, as V2 has them: little-endian, row-major, BYTES behind its length. A server may answer in typed contents.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from podpair.common.v2.datatypes import CONTENTS
from podpair.common.v2.non_finite import encode, numbers
from podpair.gateway.core.model_errors import Failed
from podpair.gateway.core.models import Model, model_of
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.tensors import FLOATS, NotPackable, Output, count_of, flatten, pack, unpack
from podpair.gateway.upstream.proto import v2_pb2 as pb
from podpair.gateway.upstream.responses import error_of_chunk

SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse with status SERVING
_FINAL = "triton_final_response"
_STATUS = "podpair_status"  # of an error: HTTP's
_encode = msgspec.json.Encoder().encode


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


_tensors = msgspec.json.Decoder(list[_Tensor])


def ready_of(message: bytes) -> bool:
    """Decode ServerReady's response. Raises Failed."""
    return bool(_parse(pb.ServerReadyResponse, message).ready)


def about_model(name: str) -> bytes:
    """Encode a request for a model's metadata, or for its configuration."""
    return bytes(pb.ModelRequest(name=name).SerializeToString())


def model_of_messages(name: str, metadata: bytes, config: bytes | None) -> Model:
    """Build the model from ModelMetadata and, if the server has it, ModelConfig. Raises Failed."""
    found = _parse(pb.ModelMetadataResponse, metadata)
    document = {
        "versions": list(found.versions),
        "platform": found.platform,
        **{
            side: [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(found, side)]
            for side in ("inputs", "outputs")
        },
    }
    says: dict[str, Any] | None = None
    if config is not None:
        known = _parse(pb.ModelConfigResponse, config).config
        says = {
            "max_batch_size": known.max_batch_size,
            "instance_group": [{"count": group.count or 1} for group in known.instance_group],
            "model_transaction_policy": {"decoupled": known.model_transaction_policy.decoupled},
            "parameters": {name: {"string_value": value.string_value} for name, value in known.parameters.items()},
            "sequence_batching": {} if known.HasField("sequence_batching") else None,
        }
    try:
        return model_of(name, _encode(document), None if says is None else _encode(says))
    except ValueError as error:
        raise Failed(f"its metadata of {name} is not V2's: {error}") from None


def request(
    model: str,
    tensors: Iterable[tuple[str, str, Sequence[int]]],
    raw: Sequence[bytes],
    parameters: bytes,
    request_id: str,
    version: str = "",
) -> bytes:
    """Encode a ModelInferRequest; `tensors` are name, datatype and shape of each. Raises Fault(invalid)."""
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id, raw_input_contents=raw)
    for name, datatype, shape in tensors:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    for name, value in (msgspec.json.decode(parameters) if parameters else {}).items():
        _set_parameter(message.parameters[name], name, value)
    return bytes(message.SerializeToString())


def _set_parameter(parameter: Any, name: str, value: object) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        if value < 1 << 63:
            parameter.int64_param = value
        else:
            parameter.uint64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    else:
        message = f"parameter {name!r}: the model is asked over gRPC, which takes booleans, numbers and texts only"
        raise Fault(Code.INVALID, message)


def request_of_inputs(
    model: str, inputs: bytes, parameters: bytes, request_id: str, *, version: str = "", one_row: bool = False
) -> bytes:
    """Encode a ModelInferRequest from V2's `inputs` in JSON. Raises Fault(invalid)."""
    try:
        given = _tensors.decode(inputs)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"inputs are not V2 tensors: {error}") from None
    raw = []
    for tensor in given:
        if one_row and tensor.shape[:1] != (1,):
            shape = list(tensor.shape)
            raise Fault(Code.INVALID, f"a streamed request is one row; input {tensor.name!r} has shape {shape}")
        try:
            values = _flat(tensor.data)
            if len(values) != math.prod(tensor.shape):
                raise NotPackable(f"{len(values)} elements for shape {list(tensor.shape)}")
            raw.append(pack(numbers(values) if tensor.datatype in FLOATS else values, tensor.datatype))
        except KeyError:
            raise Fault(Code.INVALID, f"input {tensor.name!r}: there is no datatype {tensor.datatype!r}") from None
        except NotPackable as error:
            raise Fault(Code.INVALID, f"input {tensor.name!r} is not {tensor.datatype}: {error}") from None
    return request(model, [(t.name, t.datatype, t.shape) for t in given], raw, parameters, request_id, version)


def _flat(values: list[Any]) -> list[Any]:
    depth, inner = 1, values
    while inner and isinstance(inner[0], list):
        depth, inner = depth + 1, inner[0]
    return flatten(values, depth)[0] if depth > 1 else values


def outputs_of(message: bytes) -> tuple[list[Output], str | None]:
    """Decode the tensors of a ModelInferResponse, and the model's version. Raises Failed."""
    return _outputs(_parse(pb.ModelInferResponse, message))


def part_of_stream(message: bytes) -> tuple[list[Output], str | None, bool]:
    """Decode the tensors of one response in a stream, the model's version, and whether it is the last. Raises the error that
    it says, or Failed.
    """
    found = _parse(pb.ModelStreamInferResponse, message)
    answer = found.infer_response
    if found.error_message:
        status = answer.parameters[_STATUS].int64_param if _STATUS in answer.parameters else 500
        raise error_of_chunk(status, found.error_message)
    last = _FINAL in answer.parameters and bool(answer.parameters[_FINAL].bool_param)
    return *_outputs(answer), last


def _outputs(answer: Any) -> tuple[list[Output], str | None]:
    raw = answer.raw_output_contents
    if raw and len(raw) != len(answer.outputs):
        raise Failed(f"its answer is not V2: {len(raw)} raw_output_contents for {len(answer.outputs)} outputs")
    found = []
    for index, tensor in enumerate(answer.outputs):
        shape = tuple(tensor.shape)
        try:
            count = count_of(shape)
            values = unpack(raw[index], tensor.datatype, count) if raw else _typed(tensor)
        except (KeyError, ValueError) as error:
            raise Failed(f"its answer is not V2: output {tensor.name!r}: {error}") from None
        if len(values) != count:
            raise Failed(f"its answer is not V2: output {tensor.name!r} has {len(values)} elements for {list(shape)}")
        found.append(Output(tensor.name, tensor.datatype, shape, values))
    return found, answer.model_version or None


def _typed(tensor: Any) -> Sequence[Any]:
    values = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
    return [value.decode() for value in values] if tensor.datatype == "BYTES" else values


def outputs_json(outputs: Sequence[Output]) -> bytes:
    """Encode V2's `outputs` in JSON."""
    return encode([{"name": o.name, "datatype": o.datatype, "shape": o.shape, "data": list(o.values)} for o in outputs])


def _parse(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise Failed(f"its answer is not V2: {error}") from None
