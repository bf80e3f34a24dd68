"""Eight clients at once, each answer compared with what plain ONNX Runtime says of its input alone.

Over REST, raw and in JSON, and over gRPC.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import onnxruntime as ort
import pytest

from inference.row_models import (
    DEPENDENT,
    INDEPENDENT,
    WITHOUT,
    Graph,
    clip,
    dynamic_quantisation,
    filtered_sound,
    perceptron,
    save,
    softmax_over_rows,
    sound,
    time_major_unnamed,
    unique,
)
from podpair.inference.core.row_values import same
from podpair.inference.core.tensors import DATATYPES, Array, datatype_of, from_raw, to_raw
from podpair.inference.grpc.proto import open_inference_pb2 as pb
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.loading import load_runtime, load_version
from podpair.inference.runtime.repository import read_model
from podpair.inference.runtime.scheduler import Scheduler

CLIENTS, REQUESTS = 8, 12
# Its answers have nothing to compare with.
MODELS = [make for make in (*INDEPENDENT, *DEPENDENT, *WITHOUT) if make.__name__ != "noise"]


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


@pytest.mark.parametrize("make", [dynamic_quantisation, softmax_over_rows, perceptron, clip])
@pytest.mark.parametrize("forced", [False, True])
async def test_requests_of_one_turn_get_what_they_would_get_alone(
    tmp_path: Path, make: Callable[[], Graph], forced: bool
) -> None:
    """And the comparison finds it out where they don't, as a model does whose author is wrong about its rows."""
    folder = save(tmp_path, make, "rows: independent" if forced else "")
    alone, loaded = Alone(folder), load_version(read_model(folder), 1, load_runtime)
    config = read_model(folder).config
    sut = Scheduler("m", loaded.runtime, loaded.signature, config, Metrics().of("m"), loaded.times)
    draw = np.random.default_rng(3)
    # Of one shape each, so that nothing but the decision keeps them from sharing a run.
    requests = [alone.request(np.random.default_rng(7)) for _ in range(CLIENTS)]
    for arrays in requests:
        for array in arrays.values():
            array *= draw.uniform(0.1, 10)
    answers = await asyncio.gather(*(sut.submit(list(arrays.values())) for arrays in requests), return_exceptions=True)
    await sut.drain(30)
    wrong = [
        isinstance(answer, BaseException) or unlike(answer, alone.answer(arrays))
        for answer, arrays in zip(answers, requests, strict=True)
    ]
    assert any(wrong) is (forced and make is not perceptron), answers


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("company")
    for make in MODELS:
        save(folder, make)
    save(folder, sound, "rows: none\nbatching: {queue_size: 2}", name="short_queue")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(repository) as running:
        yield running


Ask = Callable[[str, dict[str, Array]], Any]


def told(array: Array) -> tuple[str, Array]:
    """V2's datatype, and the elements as bytes where they are text."""
    if array.dtype == object:
        return "BYTES", np.array([text.encode() for text in array.ravel()], object).reshape(array.shape)
    return datatype_of(array.dtype), array


def of_json(tensor: dict[str, Any]) -> Array:
    kind = object if tensor["datatype"] == "BYTES" else DATATYPES[tensor["datatype"]]
    return np.array(tensor["data"], kind).reshape(tensor["shape"])


async def ask_json(client: aiohttp.ClientSession, model: str, arrays: dict[str, Array]) -> list[Array]:
    inputs = [
        {"name": name, "shape": array.shape, "datatype": told(array)[0], "data": array.ravel().tolist()}
        for name, array in arrays.items()
    ]
    async with client.post(f"/v2/models/{model}/infer", json={"inputs": inputs}) as answer:
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
    async with client.post(f"/v2/models/{model}/infer", data=head + raw, headers=headers) as answer:
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


@pytest.mark.parametrize("protocol", ["json", "raw", "grpc"])
async def test_eight_clients_get_what_they_would_get_alone(server: Any, repository: Path, protocol: str) -> None:
    """All models, REQUESTS of each client to each, all clients of a model at once."""
    async with aiohttp.ClientSession(server.url) as client:
        channel = grpc.aio.insecure_channel(server.record("gRPC is ready")["address"])
        ways = {"json": (ask_json, client), "raw": (ask_raw, client), "grpc": (ask_grpc, channel)}
        ask, via = ways[protocol]
        wrong: dict[str, int] = {}
        for make in MODELS:
            name, alone = make.__name__, Alone(repository / make.__name__)

            async def one(seed: int, name: str = name, alone: Alone = alone) -> int:
                draw, unalike = np.random.default_rng(seed), 0
                for _ in range(REQUESTS):
                    arrays = alone.request(draw)
                    unalike += unlike(await ask(via, name, arrays), alone.answer(arrays))  # type: ignore[arg-type]
                return unalike

            wrong[name] = sum(await asyncio.gather(*(one(seed) for seed in range(CLIENTS))))
        await channel.close()
    assert {name: count for name, count in wrong.items() if count} == {}


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (clip, {"text": (3, 4), "image": (2, 6)}),
        (sound, {"audio": (4097,)}),
        (filtered_sound, {"audio": (48_000,)}),
        (unique, {"x": (5000,)}),
        (time_major_unnamed, {"x": (7, 5, 3)}),
    ],
)
async def test_what_has_no_rows_is_served_in_its_own_shape(
    server: Any, repository: Path, make: Callable[[], Graph], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Neither as so many rows, which would be too many, nor with one number of them for all inputs."""
    alone, draw = Alone(repository / make.__name__), np.random.default_rng(2)
    arrays = {name: draw.integers(0, 9, shape).astype(np.float32) for name, shape in shapes.items()}
    async with aiohttp.ClientSession(server.url) as client:
        for ask in (ask_json, ask_raw):
            assert not unlike(await ask(client, make.__name__, arrays), alone.answer(arrays))


async def test_queue_and_limits_count_requests_where_there_are_no_rows(server: Any) -> None:
    async with aiohttp.ClientSession(server.url) as client:
        arrays = {"audio": np.zeros(20_000, np.float32)}
        assert len((await ask_json(client, "short_queue", arrays))[0]) > 100
        # A sound in plain JSON is the whole of it, not a row.
        async with client.post("/v2/models/sound/generate", json={"audio": [0.5] * 800}) as answer:
            assert (await answer.json())["y"] == pytest.approx([0.5] * 6, abs=0.3)
        async with client.get("/v2/models/short_queue/stats") as answer:
            (stats,) = (await answer.json())["model_stats"]
        assert (stats["inference_count"], stats["execution_count"]) == (1, 1)


async def test_generate_still_takes_a_row_of_rows_that_run_alone(server: Any, repository: Path) -> None:
    alone = Alone(repository / "dynamic_quantisation")
    row = np.linspace(-1, 1, 8, dtype=np.float32)
    path = "/v2/models/dynamic_quantisation/generate"
    async with aiohttp.ClientSession(server.url) as client, client.post(path, json={"x": row.tolist()}) as answer:
        found = (await answer.json())["y"]
    np.testing.assert_allclose(found, alone.answer({"x": row[None]})[0][0], rtol=1e-5)
