"""A model that is exchanged for one of another shape, under load: a request is answered by one or the other."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.v2 import WAYS, RefusedError, infer
from podpair.inference.grpc.proto import open_inference_pb2 as pb

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
SHAPES = [
    (F32, ["n", 2]),
    (F32, ["n", 3]),
    (F32, []),
    (F32, [4]),
    (I64, ["n", 2]),
    (F32, ["n", "a", "b"]),
    (F32, ["n"]),
]
ARRAYS = [
    np.full((1, 2), -1, np.float32), np.full((2, 3), -2, np.float32), np.array(-3, np.float32),
    np.full(4, -4, np.float32), np.full((1, 2), -5, np.int64), np.full((1, 2, 2), -6, np.float32),
    np.full(3, -7, np.float32),
]  # fmt: skip
ABS = helper.make_node("Abs", ["x"], ["y"])


@pytest.mark.parametrize("core", ["core", "aio"])
def test_answers_fit_the_model_that_was_asked(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any], core: str
) -> None:
    def put(spec: Any) -> None:
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        save_model(tmp_path / "m/1", [ABS], {"x": spec}, {"y": spec})

    put(SHAPES[0])
    server = start(tmp_path, PODPAIR_GRPC__SERVER=core)
    stop = threading.Event()
    answered, wrong = [0] * 6, []

    def ask(client: int) -> None:
        i = client
        while not stop.is_set():
            i += 1
            array = ARRAYS[i % len(ARRAYS)]
            try:
                found = infer(server, "m", {"x": array}, WAYS[client % 3])["y"]
            except RefusedError as error:
                if error.status not in (400, "INVALID_ARGUMENT"):
                    wrong.append(str(error))
            else:
                answered[client] += 1
                if found.shape != array.shape or found.dtype != array.dtype or (found != -array).any():
                    wrong.append(f"{array} was answered by {found}")

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(6)]
    for thread in threads:
        thread.start()
    try:
        with grpc.insecure_channel(server.record("gRPC is ready")["address"]) as channel:
            service = "/inference.GRPCInferenceService"
            load = channel.unary_unary(
                f"{service}/RepositoryModelLoad", pb.RepositoryModelLoadRequest.SerializeToString
            )
            about = channel.unary_unary(
                f"{service}/ModelMetadata",
                pb.ModelMetadataRequest.SerializeToString,
                pb.ModelMetadataResponse.FromString,
            )
            for i in range(3 * len(SHAPES)):
                put(SHAPES[i % len(SHAPES)])
                load(pb.RepositoryModelLoadRequest(model_name="m"), timeout=60)
                # The same channel sees it at once.
                (tensor,) = about(pb.ModelMetadataRequest(name="m"), timeout=60).inputs
                expected = [size if isinstance(size, int) else -1 for size in SHAPES[i % len(SHAPES)][1]]
                assert list(tensor.shape) == expected
                array = ARRAYS[i % len(ARRAYS)]
                assert infer(server, "m", {"x": array}, "grpc")["y"].tolist() == (-array).tolist()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(answered) > 0
