"""KServe's clients against a server: `kserve_clients.py HTTP_ADDRESS GRPC_ADDRESS`; fails by assertion.

Runs in its own environment. The server has `digits` and `logarithm`.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

ZEROS = np.zeros((2, 64), np.float32)


def request(binary: bool, name: str = "pixels", outputs: bool = True) -> InferRequest:
    pixels = InferInput(name, list(ZEROS.shape), "FP32")
    pixels.set_data_from_numpy(ZEROS, binary_data=binary)
    parameters = {"binary_data": binary}
    wanted = [RequestedOutput(n, parameters=dict(parameters)) for n in ("label", "probabilities")] if outputs else None
    return InferRequest("digits", [pixels], request_id="r-1", request_outputs=wanted)


def logarithm(binary: bool) -> InferRequest:
    """Of 0, a negative number, and NaN, which the client sends as null in JSON."""
    x = InferInput("x", [3], "FP32")
    x.set_data_from_numpy(np.array([0, -1, np.nan], np.float32), binary_data=binary)
    wanted = [RequestedOutput("y", parameters={"binary_data": binary})]
    return InferRequest("logarithm", [x], request_outputs=wanted)


def check(answer: Any, names: list[str]) -> None:
    assert answer.id == "r-1"
    assert answer.model_name == "digits"
    assert [output.name for output in answer.outputs] == names
    probabilities = answer.get_output_by_name("probabilities").as_numpy()
    assert probabilities.shape == (2, 10)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    labels = answer.get_output_by_name("label").as_numpy().ravel().tolist()
    assert [(item if isinstance(item, str) else item.decode()).isdigit() for item in labels] == [True, True]


async def failure(call: Awaitable[Any]) -> Exception | None:
    """How a call ends that should fail."""
    try:
        await call
    except Exception as error:
        return error
    return None


async def rest(address: str) -> None:
    url = f"http://{address}"
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "digits")
        assert not await client.is_model_ready(url, "none")
        for binary in (True, False):
            check(await client.infer(url, request(binary), model_name="digits"), ["label", "probabilities"])
        check(await client.infer(url, request(False, outputs=False), model_name="digits"), ["probabilities", "label"])
        for binary in (True, False):
            found = (await client.infer(url, logarithm(binary), model_name="logarithm")).outputs[0].as_numpy()
            np.testing.assert_array_equal(found, np.array([-np.inf, np.nan, np.nan], np.float32))
        error = await failure(client.infer(url, request(False, "wrong"), model_name="digits"))
        assert isinstance(error, httpx.HTTPStatusError)
        assert error.response.status_code == 400
        assert "no input 'wrong'" in str(error)


async def remote(address: str) -> None:
    async with InferenceGRPCClient(address, retries=2) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits")
        for binary in (True, False):
            check(await client.infer(request(binary), timeout=30), ["label", "probabilities"])
        error = await failure(client.infer(request(True, "wrong")))
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


if __name__ == "__main__":
    # The client logs the failures that are meant here.
    logging.getLogger("kserve").setLevel(logging.CRITICAL)
    asyncio.run(rest(sys.argv[1]))
    asyncio.run(remote(sys.argv[2]))
    print("ok")  # noqa: T201
