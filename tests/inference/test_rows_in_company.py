"""Eight clients at once, each answer compared with what plain ONNX Runtime says of its input alone.

Over REST, raw and in JSON, and over gRPC.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest

from inference.company import Alone, ask_grpc, ask_json, ask_raw, unlike
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
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.loader import load_runtime, load_version
from podpair.inference.runtime.repository import read_model
from podpair.inference.runtime.scheduler import Scheduler

CLIENTS, REQUESTS = 8, 12
# Its answers have nothing to compare with.
MODELS = [make for make in (*INDEPENDENT, *DEPENDENT, *WITHOUT) if make.__name__ != "noise"]


@pytest.mark.parametrize("make", [dynamic_quantisation, softmax_over_rows, perceptron, clip])
@pytest.mark.parametrize("forced", [False, True])
async def test_requests_of_one_turn_get_what_they_would_get_alone(
    tmp_path: Path, make: Callable[[], Graph], forced: bool
) -> None:
    """And the comparison finds it out where they don't, as a model does whose author is wrong about its rows."""
    # With a size that is given: one that is learnt may be 1 where the machine is busy, and all run alone.
    folder = save(tmp_path, make, "rows: independent\nbatching: {max_items: 32}" if forced else "")
    alone, loaded = Alone(folder), load_version(read_model(folder), 1, load_runtime)
    config = read_model(folder).config
    sut = Scheduler("m", loaded.runtime, loaded.signature, config, Metrics().for_model("m"), loaded.times)
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
