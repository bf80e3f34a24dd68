"""Asks a V2 server in three ways: REST with binary tensors, REST with JSON, gRPC; the same arrays in, the same arrays out.

Written on its own, without podpair's code: what both sides got wrong in the same way would pass unseen.
"""

import json
import struct
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from podpair.inference.grpc.proto import open_inference_pb2 as pb

WAYS = ("binary", "json", "grpc")
Array = NDArray[Any]

_DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}


class RefusedError(Exception):
    """The server refused it: its status, or gRPC's code, and what it said."""

    def __init__(self, status: int | str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


def infer(
    server: Any,
    model: str,
    inputs: Mapping[str, Array],
    way: str,
    *,
    outputs: Sequence[str | tuple[str, dict[str, Any]]] = (),
    bf16: Sequence[str] = (),
) -> dict[str, Array]:
    """A model's outputs, by name. outputs: those that are asked for, with parameters of theirs. bf16: inputs that are sent as
    BF16. BF16 comes back as FP32. Raises RefusedError."""
    asked = [(name, {}) if isinstance(name, str) else name for name in outputs]
    sent = {name: (_datatype(array, name in bf16), array) for name, array in inputs.items()}
    if way == "grpc":
        return _grpc(server, model, sent, asked)
    return _rest(server, model, sent, asked, way == "binary")


def _datatype(array: Array, bf16: bool) -> str:
    if bf16:
        return "BF16"
    return "BYTES" if array.dtype.kind in "OSU" else _NAMES[array.dtype]


def _rest(server: Any, model: str, sent: Any, asked: Any, binary: bool) -> dict[str, Array]:
    tensors, raw = [], []
    for name, (datatype, array) in sent.items():
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if binary:
            raw.append(_encode(array, datatype))
            tensor["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            tensor["data"] = [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()]
        tensors.append(tensor)
    document: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": binary}}
    if asked:
        document["outputs"] = [{"name": name, "parameters": parameters} for name, parameters in asked]
    header = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))} if binary else {}
    request = urllib.request.Request(
        f"{server.url}/v2/models/{model}/infer", header + b"".join(raw), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            body, length = answer.read(), answer.headers.get("Inference-Header-Content-Length")
    except urllib.error.HTTPError as error:
        with error:
            raise RefusedError(error.code, json.loads(error.read())["error"]) from None
    end = int(length) if length else len(body)
    found, offset = {}, end
    for tensor in json.loads(body[:end])["outputs"]:
        shape, datatype = tensor["shape"], tensor["datatype"]
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is not None:
            found[tensor["name"]] = _decode(body[offset : offset + size], datatype, shape)
            offset += size
        else:
            dtype = object if datatype == "BYTES" else _DTYPES.get(datatype, "<f4")
            values = np.empty(len(tensor["data"]), dtype)
            values[:] = [v.encode() for v in tensor["data"]] if datatype == "BYTES" else tensor["data"]
            found[tensor["name"]] = values.reshape(shape)
    assert offset == len(body)
    return found


def _grpc(server: Any, model: str, sent: Any, asked: Any) -> dict[str, Array]:
    request = pb.ModelInferRequest(model_name=model)
    for name, (datatype, array) in sent.items():
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(_encode(array, datatype))
    for name, parameters in asked:
        output = request.outputs.add(name=name)
        for key, value in parameters.items():
            output.parameters[key].int64_param = value
    with grpc.insecure_channel(server.record("gRPC is ready")["address"]) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        try:
            answer = call(request, timeout=60)
        except grpc.RpcError as error:
            raise RefusedError(error.code().name, error.details()) from None
    return {
        tensor.name: _decode(raw, tensor.datatype, list(tensor.shape))
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def _encode(array: Array, datatype: str) -> bytes:
    if datatype == "BF16":
        return bytes((array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes())  # as tritonclient does
    if datatype == "BYTES":
        items = [v.encode() if isinstance(v, str) else v for v in array.ravel().tolist()]
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    return array.tobytes()


def _decode(raw: bytes, datatype: str, shape: list[int]) -> Array:
    if datatype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    if datatype != "BYTES":
        return np.frombuffer(raw, _DTYPES[datatype]).reshape(shape)
    items, offset = [], 0
    while offset < len(raw):
        (length,) = struct.unpack_from("<I", raw, offset)
        items.append(raw[offset + 4 : offset + 4 + length])
        offset += 4 + length
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)
