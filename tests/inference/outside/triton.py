"""tritonclient against a server: `triton.py HTTP_ADDRESS GRPC_ADDRESS`. Runs in its own environment; fails by assertion.

The server has `digits`, `logarithm`, and `chat`: a class that answers in capitals and streams word by word.
"""

import asyncio
import queue
import sys
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio

ZEROS = np.zeros((2, 64), np.float32)


def tensors(module: ModuleType, **options: Any) -> tuple[list[Any], list[Any]]:
    """The digits' input and outputs, as a module's classes."""
    pixels = module.InferInput("pixels", list(ZEROS.shape), "FP32")
    pixels.set_data_from_numpy(ZEROS, **options)
    return [pixels], [module.InferRequestedOutput(name) for name in ("label", "probabilities")]


def check(result: Any) -> None:
    assert result.as_numpy("probabilities").shape == (2, 10)
    assert [label.decode().isdigit() for label in result.as_numpy("label")] == [True, True]


def check_classes(module: ModuleType, infer: Any) -> None:
    """The classification extension, which these clients call `class_count`."""
    (pixels,), _ = tensors(module)
    result = infer("digits", [pixels], outputs=[module.InferRequestedOutput("probabilities", class_count=3)])
    found = result.as_numpy("probabilities")
    assert found.shape == (2, 3)
    score, index, label = found[0, 0].decode().split(":")
    assert (0 < float(score) <= 1, label) == (True, index)


def text(module: ModuleType, value: str) -> list[Any]:
    tensor = module.InferInput("input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value.encode()], object))
    return [tensor]


def control(client: Any) -> None:
    """Health, metadata and the repository: the same calls over both protocols."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert not client.is_model_ready("none")
    for call in (client.get_server_metadata, client.get_inference_statistics, client.get_model_repository_index):
        assert call()
    assert client.get_model_metadata("digits")
    assert client.get_model_config("digits")
    client.unload_model("digits")
    assert not client.is_model_ready("digits")
    client.load_model("digits")
    assert client.is_model_ready("digits", "1")


def sync_http(address: str) -> None:
    with triton_http.InferenceServerClient(address, concurrency=4) as client:
        control(client)
        # Sent as bare tokens, answered by name.
        for binary in (True, False):
            x = triton_http.InferInput("x", [4], "FP32")
            x.set_data_from_numpy(np.array([0, -1, np.inf, np.nan], np.float32), binary_data=binary)
            wanted = [triton_http.InferRequestedOutput("y", binary_data=binary)]
            found = client.infer("logarithm", [x], outputs=wanted).as_numpy("y")
            np.testing.assert_array_equal(found, np.array([-np.inf, np.nan, np.inf, np.nan], np.float32))
        for binary in (True, False):
            inputs, outputs = tensors(triton_http, binary_data=binary)
            check(client.infer("digits", inputs, outputs=outputs, request_id="r"))
            check(client.async_infer("digits", inputs, outputs=outputs).get_result())
        check_classes(triton_http, client.infer)
        for algorithm in ("gzip", "deflate"):
            check(client.infer("digits", inputs, request_compression_algorithm=algorithm))


def sync_grpc(address: str) -> None:
    with triton_grpc.InferenceServerClient(address) as client:
        control(client)
        inputs, outputs = tensors(triton_grpc)
        check(client.infer("digits", inputs, outputs=outputs, client_timeout=30))
        check(client.infer("digits", inputs, compression_algorithm="gzip"))
        check_classes(triton_grpc, client.infer)
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("chat", text(triton_grpc, "a b c"), enable_empty_final_response=True)
        parts = [answers.get(timeout=30) for _ in range(4)]
        client.stop_stream()
        assert [error for _, error in parts] == [None] * 4
        assert [result.as_numpy("output")[0] for result, _ in parts[:3]] == [b"a", b"b", b"c"]
        assert parts[3][0].get_response().parameters["triton_final_response"].bool_param


async def aio(http_address: str, grpc_address: str) -> None:
    async with triton_http_aio.InferenceServerClient(http_address) as client:
        inputs, outputs = tensors(triton_http_aio)
        check(await client.infer("digits", inputs, outputs=outputs))
    async with triton_grpc_aio.InferenceServerClient(grpc_address) as client:
        inputs, outputs = tensors(triton_grpc_aio)
        check(await client.infer("digits", inputs, outputs=outputs))

        async def requests() -> Any:
            yield {"model_name": "chat", "inputs": text(triton_grpc_aio, "x y")}

        answers = [answer async for answer in client.stream_infer(requests())]
        assert [result.as_numpy("output")[0] for result, _ in answers] == [b"x", b"y"]


if __name__ == "__main__":
    sync_http(sys.argv[1])
    sync_grpc(sys.argv[2])
    asyncio.run(aio(*sys.argv[1:]))
    print("ok")  # noqa: T201
