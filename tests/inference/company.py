"""Clients of a V2 server over its three ways, and what plain ONNX Runtime answers to the same input alone."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import ml_dtypes
import numpy as np
import onnxruntime as ort

from podpair.inference.core import bfloat16
from podpair.inference.core.row_values import same
from podpair.inference.core.tensors import DATATYPES, Array, datatype_of, from_raw, to_raw
from podpair.inference.grpc.proto import open_inference_pb2 as pb


class Alone:
    """The model in plain ONNX Runtime, and what a client may ask it."""

    def __init__(self, folder: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        self._session = ort.InferenceSession(folder / "1/model.onnx", options)
        self.inputs = self._session.get_inputs()
        self.names = [node.name for node in self._session.get_outputs()]

    def request(self, draw: np.random.Generator) -> dict[str, Array]:
        """Inputs of one to three rows; dimensions of one name have one size, and the others of any size are as long."""
        sizes: dict[Any, int] = {}
        first, inner = int(draw.integers(1, 4)), 5
        arrays = {}
        for node in self.inputs:
            shape = []
            for place, size in enumerate(node.shape):
                if not isinstance(size, int):
                    size = (
                        sizes.setdefault(size, first if place == 0 else inner)
                        if size
                        else first
                        if not place
                        else inner
                    )
                shape.append(size)
            arrays[node.name] = self._array(node.type, shape, draw)
        return arrays

    def _array(self, kind: str, shape: list[int], draw: np.random.Generator) -> Array:
        if "string" in kind:
            words = np.array(["Xanadu", "Kubla", "other"], object)
            return words[draw.integers(0, 3, shape)]
        if "int64" in kind:
            return draw.integers(0, 2, shape)
        # Each client's numbers have a size of their own.
        values = draw.standard_normal(shape) * draw.choice([0.3, 1, 30])
        return values.astype(np.float16 if "float16" in kind else np.float32)

    def answer(self, arrays: dict[str, Array]) -> list[Array]:
        return self._session.run(self.names, arrays)


def unlike(answers: Sequence[Array], expected: Sequence[Array]) -> bool:
    return not all(map(same, map(np.asarray, answers), expected))


def told(array: Array) -> tuple[str, Array]:
    """V2's datatype, and the elements as bytes where they are text."""
    if array.dtype == object:
        return "BYTES", np.array([text.encode() for text in array.ravel()], object).reshape(array.shape)
    if array.dtype == ml_dtypes.bfloat16:
        return "BF16", array.view(bfloat16.DTYPE)
    return datatype_of(array.dtype), array


def of_json(tensor: dict[str, Any]) -> Array:
    if tensor["datatype"] == "BF16":
        return bfloat16.from_float(np.array(tensor["data"], np.float32)).reshape(tensor["shape"])
    kind = object if tensor["datatype"] == "BYTES" else DATATYPES[tensor["datatype"]]
    return np.array(tensor["data"], kind).reshape(tensor["shape"])


def _in_json(array: Array) -> np.dtype[Any]:
    return np.dtype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array.dtype


async def ask_json(client: aiohttp.ClientSession, model: str, arrays: dict[str, Array]) -> list[Array]:
    inputs = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": told(array)[0],
            "data": array.astype(_in_json(array)).ravel().tolist(),
        }
        for name, array in arrays.items()
    ]
    body = io.BytesIO(json.dumps({"inputs": inputs}).encode())
    headers = {"Content-Type": "application/json"}
    async with client.post(f"/v2/models/{model}/infer", data=body, headers=headers) as answer:
        document = await answer.json()
        assert answer.status == 200, document
    return [of_json(tensor) for tensor in document["outputs"]]


async def ask_raw(client: aiohttp.ClientSession, model: str, arrays: dict[str, Array]) -> list[Array]:
    inputs, raw = [], b""
    for name, array in arrays.items():
        datatype, values = told(array)
        data = bytes(to_raw(values))
        size = {"binary_data_size": len(data)}
        inputs.append({"name": name, "shape": array.shape, "datatype": datatype, "parameters": size})
        raw += data
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    async with client.post(f"/v2/models/{model}/infer", data=io.BytesIO(head + raw), headers=headers) as answer:
        body = await answer.read()
        assert answer.status == 200, body
        start = int(answer.headers["Inference-Header-Content-Length"])
    found = []
    for tensor in json.loads(body[:start])["outputs"]:
        end = start + tensor["parameters"]["binary_data_size"]
        found.append(from_raw(memoryview(body)[start:end], tensor["datatype"], tuple(tensor["shape"]), "y"))
        start = end
    return found


async def ask_grpc(channel: grpc.aio.Channel, model: str, arrays: dict[str, Array]) -> list[Array]:
    request = pb.ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        datatype, values = told(array)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(bytes(to_raw(values)))
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    answer = await call(request, timeout=60)
    return [
        from_raw(memoryview(raw), tensor.datatype, tuple(tensor.shape), "y")
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    ]
