"""Models that packages on PyPI carry: served without a model.yaml, answered as by plain ONNX Runtime, their rows known.

A selection of them; `make test-models`: all.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.outside.asking import Triton, compare, refused, triton
from inference.outside.backend_suite import ALL
from inference.outside.plain import Plain
from inference.outside.tally import Tally
from inference.outside.test_many_clients import CLIENTS, PATIENCE, Subject, clients_of
from inference.outside.wheel_models import MODELS, QUICK, carried, link, requests_to

NAMES = tuple(MODELS) if ALL else QUICK
REQUESTS = 4
# Making the environments takes its time where there are none yet.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    link(folder, NAMES)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(repository, within=PATIENCE) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Triton]:
    with triton(server) as running:
        yield running


@pytest.mark.process
def test_each_model_that_a_wheel_carries_is_named() -> None:
    assert {model.file for model in MODELS.values()} == carried()


def test_all_are_served_without_a_model_yaml(server: Any, tally: Tally) -> None:
    assert refused(server) == {}
    for _ in NAMES:
        tally.saw("models of wheels", loads=True, served=True)


def test_what_their_rows_are(server: Any) -> None:
    told = {name: server.get(f"/v2/models/{name}").json["parameters"] for name in NAMES}
    assert {name: about["rows"] for name, about in told.items()} == {name: MODELS[name].rows for name in NAMES}
    assert "DynamicQuantizeLinear takes its scale over all rows" in told["voice"]["rows_reason"]
    assert server.get("/v2/models/magika/config").json["max_batch_size"] == 64


@pytest.mark.parametrize("name", NAMES)
def test_one_client_gets_what_onnx_runtime_answers(client: Triton, repository: Path, name: str) -> None:
    plain, draw = Plain(repository / name / "1/model.onnx"), np.random.default_rng(1)
    for _ in range(3):
        assert compare(client, name, plain, requests_to(name)(draw)) == []


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("nudenet", "finding", "captcha", "captcha_finding")]
)
async def test_eight_clients_get_what_they_would_get_alone(server: Any, repository: Path, name: str) -> None:
    subject = Subject(name, Plain(repository / name / "1/model.onnx"), requests_to(name))
    async with clients_of(server) as clients:
        assert await clients.burst(subject, 1, REQUESTS) == (CLIENTS * REQUESTS, 0)
