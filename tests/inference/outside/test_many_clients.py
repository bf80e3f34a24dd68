"""Many clients at once, over all three ways: each gets what plain ONNX Runtime says of its own input alone.

The models are onnx's node cases with rows of any number, scikit-learn's, those of wheels, and those that are told apart by their
rows. One case of each sequence of operators here; `make test-models`: all of them, 10,000 requests and more.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import onnx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.cnn import SHAPE, write_cnn
from inference import row_models
from inference.company import Alone, ask_grpc, ask_json, ask_raw, unlike
from inference.outside import sklearn_models, wheel_models
from inference.outside.backend_suite import ALL, Case, cases, with_rows
from inference.outside.plain import BFLOAT16, Plain, in_bytes, sent
from inference.outside.tally import Tally
from podpair.inference.core import bfloat16
from podpair.inference.core.tensors import Array

CLIENTS = 8
# Requests of each client to each model.
VARIANT, MODEL = (2, 12) if ALL else (1, 2)
PATIENCE = 600
# Elements of a request past which there are fewer of them: pixels in JSON take their time.
MIN_COUNTED_BYTES, FEW = 20_000, 1
# Bursts until some of a row-wise model's requests have shared a run.
BURSTS = 50
ROW_WISE = [
    *(name for name in sklearn_models.MAKERS if name != "neighbours"),
    "perceptron",
    *(wheel_models.ROW_WISE if ALL else ()),
]

Request = Callable[[np.random.Generator], dict[str, Array]]


@dataclass(frozen=True)
class Subject:
    """A model, and what a client may ask it."""

    name: str
    plain: Plain
    request: Request

    def draw(self, draw: np.random.Generator) -> tuple[dict[str, Array], list[Array]] | None:
        """A request, and its answer alone; None: it takes none that was drawn."""
        for _ in range(8):
            arrays = self.request(draw)
            try:
                answers = self.plain.answer(arrays).values()
            except Exception:
                continue
            return {key: sent(array) for key, array in arrays.items()}, [
                a.view(bfloat16.DTYPE) if a.dtype == BFLOAT16 else a for a in answers
            ]
        return None


class Clients:
    """Those of one server."""

    def __init__(self, http: aiohttp.ClientSession, channel: grpc.aio.Channel) -> None:
        self._ways = cycle([(ask_raw, http), (ask_grpc, channel), (ask_json, http)])
        self._http = http

    async def burst(self, subject: Subject, seed: int, requests: int) -> tuple[int, int]:
        """All clients at once, each its requests one after the other; how many were answered, and how many of them wrongly."""
        draw = np.random.default_rng(seed)
        drawn = [[subject.draw(draw) for _ in range(requests)] for _ in range(CLIENTS)]

        async def client(mine: list[Any]) -> list[bool]:
            found = []
            for pair in mine:
                if pair is not None:
                    ask, via = next(self._ways)
                    answers = await ask(via, subject.name, pair[0])  # type: ignore[arg-type]
                    found.append(unlike([in_bytes(np.asarray(answer)) for answer in answers], pair[1]))
            return found

        wrong = [each for one in await asyncio.gather(*map(client, drawn)) for each in one]
        return len(wrong), sum(wrong)

    async def runs(self, model: str) -> tuple[int, int]:
        """How many runs the server made for clients' requests, and rows in all of them, as its metrics say."""
        async with self._http.get("/metrics") as answer:
            text = await answer.text()
        samples = {
            sample.name: int(sample.value)
            for family in text_string_to_metric_families(text)
            if family.name == "inference_batch_size"
            for sample in family.samples
            if sample.labels.get("model") == model
        }
        return samples.get("inference_batch_size_count", 0), samples.get("inference_batch_size_sum", 0)


@asynccontextmanager
async def clients_of(server: Any) -> AsyncIterator[Clients]:
    async with (
        aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(PATIENCE)) as http,
        grpc.aio.insecure_channel(server.record("gRPC is ready")["address"]) as channel,
    ):
        yield Clients(http, channel)


async def ask_all(server: Any, subjects: list[Subject], requests: int) -> tuple[int, dict[str, int]]:
    """How many requests were answered, and how many of them wrongly, by model."""
    total, wrong = 0, {}
    async with clients_of(server) as clients:
        for seed, subject in enumerate(subjects):
            size = sum(array.size for array in subject.request(np.random.default_rng(seed)).values())
            answered, unalike = await clients.burst(subject, seed, requests if size < MIN_COUNTED_BYTES else FEW)
            total += answered
            if unalike:
                wrong[subject.name] = unalike
    return total, wrong


def _rows_of(case: Case) -> Request:
    """Rows of the case's own inputs, other ones by a scale."""

    def request(draw: np.random.Generator) -> dict[str, Array]:
        count, found = int(draw.integers(1, 4)), {}
        for name, array in case.inputs.items():
            rows = array[draw.integers(0, array.shape[0], count)]
            if array.dtype.kind == "f" or array.dtype == BFLOAT16:
                scales = draw.uniform(0.3, 3, (count, *(1 for _ in array.shape[1:])))
                rows = (rows * scales + 0.3 * draw.standard_normal(rows.shape)).astype(array.dtype)
            found[name] = rows
        return found

    return request


def variants(repository: Path) -> list[Subject]:
    """onnx's node cases with rows of any number."""
    found = []
    for case in cases():
        arrays = list(case.inputs.values())
        changed = with_rows(case.model)
        if case.kind != "node" or case.draws_lots or changed is None or not arrays:
            continue
        if any(array is None or not array.ndim or not array.shape[0] for array in arrays):
            continue
        if any(
            (array.dtype.kind == "f" or array.dtype == BFLOAT16) and not np.isfinite(array).all() for array in arrays
        ):
            continue
        try:
            plain = Plain(changed.SerializeToString())
        except Exception:
            continue
        file = repository / case.name / "1/model.onnx"
        file.parent.mkdir(parents=True)
        onnx.save(changed, file)
        found.append(Subject(case.name, plain, _rows_of(case)))
    return found


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
async def test_variants_of_the_suite(tmp_path: Path, serve: Callable[..., Any], tally: Tally) -> None:
    subjects = variants(tmp_path)
    with serve(tmp_path, within=PATIENCE) as server:
        decisions = Counter(server.get(f"/v2/models/{subject.name}").json["parameters"]["rows"] for subject in subjects)
        total, wrong = await ask_all(server, subjects, VARIANT)
    assert wrong == {}
    assert decisions["independent"] > decisions["dependent"] > 10
    assert total >= (8_000 if ALL else 800)
    tally.asked(f"onnx's cases with rows of any number ({len(subjects)} models)", total)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Subject]]:
    """Models that people have, and those that are told apart by their rows."""
    folder = tmp_path_factory.mktemp("models")
    found = []

    def add(name: str, request: Request) -> None:
        found.append(Subject(name, Plain(folder / name / "1/model.onnx"), request))

    for make in (*row_models.INDEPENDENT, *row_models.DEPENDENT, *row_models.WITHOUT):
        if make is not row_models.noise:
            add(make.__name__, Alone(row_models.save(folder, make)).request)
    for name in sklearn_models.MAKERS:
        sklearn_models.save(folder, name)
        add(name, sklearn_models.request)
    write_cnn(folder)
    add("cnn", lambda draw: {"x": draw.random((int(draw.integers(1, 3)), *SHAPE), np.float32)})
    if ALL:
        for name in wheel_models.link(folder):
            add(name, wheel_models.requests_to(name))
    return folder, found


@pytest.fixture(scope="module")
def server(subjects: tuple[Path, list[Subject]], serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(subjects[0], within=PATIENCE) as running:
        yield running


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
async def test_models_that_people_have(server: Any, subjects: tuple[Path, list[Subject]], tally: Tally) -> None:
    total, wrong = await ask_all(server, subjects[1], MODEL)
    assert wrong == {}
    assert total >= (4_000 if ALL else 400)
    tally.asked(f"models of scikit-learn, of wheels and of tests ({len(subjects[1])} models)", total)


@pytest.mark.filterwarnings("ignore")
def test_a_convolutional_model_may_share_runs(server: Any) -> None:
    """Whether its rows get cheaper together is found out at work."""
    assert server.get("/v2/models/cnn").json["parameters"]["rows"] == "independent"


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROW_WISE)
async def test_rows_still_share_runs(server: Any, subjects: tuple[Path, list[Subject]], name: str) -> None:
    """What answers row by row is known to, and its requests go together as they come together."""
    subject = next(subject for subject in subjects[1] if subject.name == name)
    told = server.get(f"/v2/models/{name}").json["parameters"]
    assert told["rows"] == "independent", told
    async with clients_of(server) as clients:
        before, _ = await clients.runs(name)
        asked = 0
        for seed in range(BURSTS):
            answered, wrong = await clients.burst(subject, seed, 2)
            asked += answered
            assert wrong == 0
            runs = (await clients.runs(name))[0] - before
            if runs < asked:
                return
    pytest.fail(f"{asked} requests made {runs} runs")
