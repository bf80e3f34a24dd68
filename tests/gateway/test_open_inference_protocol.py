"""V2 over HTTP goes to the model next door as it is, and its answer comes back as it is."""

import gzip
import json
from typing import Any

import aiohttp
import numpy as np
import pytest

from gateway.conftest import ROW
from harness.pair import Gateway, token

BODY = {"id": "v2", "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": ROW}]}
GOOD = {"Authorization": f"Bearer {token()}"}


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v2/models/digits/versions/1/infer"])
async def test_json(pair: Gateway, http: aiohttp.ClientSession, path: str) -> None:
    async with http.post(pair.url + path, json=BODY, headers=GOOD) as answer:
        assert answer.status == 200
        body = await answer.json()
    assert (body["id"], body["model_name"]) == ("v2", "digits")
    assert [o["name"] for o in body["outputs"]] == ["probabilities", "label"]


async def test_binary_tensors_both_ways(pair: Gateway, http: aiohttp.ClientSession) -> None:
    values = np.zeros((2, 64), np.float32).tobytes()
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [2, 64], "parameters": {"binary_data_size": len(values)}}
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [pixels], "outputs": wanted}).encode()
    headers = GOOD | {
        "Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream",
    }  # fmt: skip
    async with http.post(pair.url + "/v2/models/digits/infer", data=head + values, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        length = int(answer.headers["Inference-Header-Content-Length"])
        body = await answer.read()
    (output,) = json.loads(body[:length])["outputs"]
    probabilities = np.frombuffer(body[length:], np.float32).reshape(output["shape"])
    assert probabilities.shape == (2, 10)
    assert probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)


async def test_a_compressed_body(pair: Gateway, http: aiohttp.ClientSession) -> None:
    headers = GOOD | {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    data = gzip.compress(json.dumps(BODY).encode())
    async with http.post(pair.url + "/v2/models/digits/infer", data=data, headers=headers) as answer:
        assert answer.status == 200, await answer.text()


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/digits", "/v2/models/digits/ready",
     "/v2/models/digits/versions/1"],
)  # fmt: skip
async def test_metadata_and_health(pair: Gateway, http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(pair.url + path, headers=GOOD) as answer:
        assert answer.status == 200, await answer.text()


BAD: dict[str, tuple[str, str, Any, dict[str, str], int, str]] = {
    "no token": ("POST", "/v2/models/digits/infer", BODY, {}, 401, "no token"),
    "no token for metadata": ("GET", "/v2/models/digits", None, {}, 401, "no token"),
    "unknown model": ("POST", "/v2/models/nobody/infer", BODY, GOOD, 404, "nobody"),
    "unknown version": ("POST", "/v2/models/digits/versions/9/infer", BODY, GOOD, 404, "9"),
    "no such path": ("GET", "/v2/nothing", None, GOOD, 404, "there is no /v2/nothing"),
    "wrong method": ("GET", "/v2/models/digits/infer", None, GOOD, 405, "does not take GET"),
    "not V2": ("POST", "/v2/models/digits/infer", {"rows": []}, GOOD, 400, ""),
}


@pytest.mark.parametrize("name", BAD)
async def test_errors_have_the_form_of_v2(pair: Gateway, http: aiohttp.ClientSession, name: str) -> None:
    method, path, body, headers, status, said = BAD[name]
    async with http.request(method, pair.url + path, json=body, headers=headers) as answer:
        assert answer.status == status
        found = await answer.json()
    assert list(found) == ["error"]
    assert said in found["error"]


async def test_a_model_that_is_away_is_503(before_model: Gateway, model: Any, http: aiohttp.ClientSession) -> None:
    model.ready = False
    async with http.post(before_model.url + "/v2/models/fake/infer", json={}, headers=GOOD) as answer:
        pass  # it may be answered before the gateway has noticed
    while answer.status != 503:
        async with http.post(before_model.url + "/v2/models/fake/infer", json={}, headers=GOOD) as answer:
            found = await answer.json()
    async with http.post(before_model.url + "/v2/models/fake/infer", json={}, headers=GOOD) as answer:
        found = await answer.json()
    assert (answer.status, found) == (503, {"error": "the model is not ready"})
    assert int(answer.headers["Retry-After"]) >= 1
