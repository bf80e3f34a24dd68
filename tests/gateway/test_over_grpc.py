"""A model that is asked over gRPC: what its clients see is what they see over REST."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from gateway.conftest import ROW, Client, Connect
from harness.pair import MODELS, Gateway, Inference, token
from harness.waiting import soon

pytestmark = pytest.mark.process

BEARER = {"Authorization": f"Bearer {token()}"}
TENSOR = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": ROW}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("socket")
    config = folder / "inference.yaml"
    config.write_text(yaml.safe_dump({"grpc": {"socket": str(folder / "grpc.sock")}}))
    return config


@pytest.fixture(scope="module")
def digits(config: Path) -> Iterator[Inference]:
    running = Inference(0, MODELS, "--config", config)
    assert running.grpc.startswith("unix:")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(digits: Inference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = {"kafka": {"embedded": True}, "inference": {"url": digits.grpc, "probe_seconds": 0.1}}
    running = Gateway(tmp_path_factory.mktemp("grpc"), settings)
    running.wait_ready()
    yield running
    running.stop()


async def next_answer(client: Client) -> dict[str, Any]:
    return await client.event("result")


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_rows_and_tensors(gateway: Gateway, connect: Connect, route: str) -> None:
    client = await connect(gateway)
    await client.infer("row", model="digits", data=ROW, route=route)
    row = await client.answer("row")
    assert len(row["data"]["probabilities"]) == 10
    assert (row["model"], row["model_version"]) == ("digits", "1")
    await client.infer("tensors", model="digits", data=None, inputs=[TENSOR], route=route)
    outputs = {output["name"]: output for output in (await client.answer("tensors"))["outputs"]}
    assert outputs["probabilities"]["data"] == pytest.approx(row["data"]["probabilities"])


async def test_cached_answers(digits: Inference, tmp_path: Path, connect: Connect, http: aiohttp.ClientSession) -> None:
    """They are one cache with those of sessions: a call over HTTP becomes a request like theirs."""
    settings = {
        "kafka": {"embedded": True},
        "inference": {"url": digits.grpc},
        "cache": {"models": [{"model": "digits", "scope": "subject"}]},
    }
    gateway = Gateway(tmp_path, settings)
    try:
        gateway.wait_ready()
        client = await connect(gateway)
        for request_id, cached in ("a", None), ("b", "hit"):
            await client.infer(request_id, model="digits", data=None, inputs=[TENSOR])
            assert (await client.answer(request_id)).get("cache") == cached
        url = f"{gateway.url}/v2/models/digits/infer"
        for subject, cached in ("user", "podpair; hit"), ("another", None), ("another", "podpair; hit"):
            bearer = {"Authorization": f"Bearer {token(subject)}"}
            async with http.post(url, json={"id": "x", "inputs": [TENSOR]}, headers=bearer) as response:
                assert (response.status, response.headers.get("Cache-Status")) == (200, cached)
                assert (await response.json())["id"] == "x"
    finally:
        gateway.kill()


async def test_requests_share_calls_and_each_gets_its_own(gateway: Gateway, connect: Connect) -> None:
    client = await connect(gateway)
    rows = [[float(n)] * 64 for n in range(16)]
    for n in (0, 1):
        for i, row in enumerate(rows):
            await client.infer(f"{n}-{i}", model="digits", data=row)
    answers = {answer["id"]: answer["data"] for answer in [await next_answer(client) for _ in range(32)]}
    for i in range(16):
        assert answers[f"0-{i}"]["probabilities"] == pytest.approx(answers[f"1-{i}"]["probabilities"], abs=1e-5)
    assert gateway.metric("upstream_calls_total", mode="batch") < gateway.metric("upstream_rows_total")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"model": "absent", "data": ROW}, "not_found"),
        ({"model": "digits", "data": None, "inputs": [TENSOR | {"shape": [1, 63]}]}, "invalid"),
        ({"model": "digits", "data": None, "inputs": [TENSOR | {"datatype": "FP31"}]}, "invalid"),
        ({"model": "digits", "data": None, "inputs": [TENSOR | {"name": "picture"}]}, "invalid"),
        ({"model": "digits", "data": ROW, "parameters": {"nested": {"a": 1}}}, "invalid"),
    ],
)
async def test_what_the_model_refuses(gateway: Gateway, connect: Connect, asked: dict[str, object], code: str) -> None:
    client = await connect(gateway)
    await client.infer("r", **asked)
    assert (await client.answer("r"))["code"] == code


async def test_v2_over_http_is_translated(gateway: Gateway, http: aiohttp.ClientSession) -> None:
    url = gateway.url + "/v2/models/digits"
    async with http.post(url + "/infer", json={"id": "r", "inputs": [TENSOR]}, headers=BEARER) as answer:
        found = await answer.json()
        assert answer.status == 200, found
    assert (found["id"], found["model_name"], found["model_version"]) == ("r", "digits", "1")
    assert {output["name"] for output in found["outputs"]} >= {"probabilities"}
    async with http.get(url, headers=BEARER) as answer:
        described = await answer.json()
        assert (described["name"], described["inputs"][0]["shape"]) == ("digits", [-1, 64])
    async with http.post(gateway.url + "/v2/models/absent/infer", json={"inputs": [TENSOR]}, headers=BEARER) as answer:
        assert answer.status == 404
    async with http.post(url + "/infer", data=b"[", headers=BEARER) as answer:
        assert answer.status == 400
    async with http.get(gateway.url + "/v2/health/ready", headers=BEARER) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("deadline", "status"),
    [
        ("4102444800000", 200), ("4102444800000.5", 200), ("9223372036854775807", 200), ("0", 504),
        ("9" * 20, 400), ("9" * 400, 400), ("9" * 5000, 400), ("4_102_444_800_000", 400), ("+4102444800000", 400),
        ("-1", 400), ("4e12", 400), ("inf", 400), ("nan", 400), ("", 400),
    ],
)  # fmt: skip
async def test_a_deadline_of_v2_is_a_time_or_refused(
    gateway: Gateway, http: aiohttp.ClientSession, deadline: str, status: int
) -> None:
    url, headers = gateway.url + "/v2/models/digits/infer", BEARER | {"podpair-deadline": deadline}
    async with http.post(url, json={"inputs": [TENSOR]}, headers=headers) as answer:
        assert answer.status == status, await answer.text()


async def test_a_model_that_goes_away_makes_the_pair_unready_until_it_is_back(
    gateway: Gateway, connect: Connect, digits: Inference, config: Path
) -> None:
    client = await connect(gateway)
    digits.kill()
    await soon(lambda: gateway.get("/readyz")[0] == 503)
    await client.infer("waits", model="digits", data=ROW)
    assert (await client.event("accepted", id="waits"))["route"] == "queue"
    again = Inference(0, MODELS, "--config", config)
    try:
        assert (await client.answer("waits"))["type"] == "result"
        await asyncio.to_thread(gateway.wait_ready)
    finally:
        again.stop()
