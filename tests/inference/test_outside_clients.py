"""Clients that others wrote, each in an environment of its own: their protobuf isn't the server's."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import environments
from harness.machine import require_library
from harness.processes import ROOT, output_of
from inference.row_models import LOGARITHM, logarithm, save

HERE = Path(__file__).parent
CHAT = """
class Chat:
    def predict(self, batch):
        return [text.upper() for text in batch]

    async def stream(self, request):
        for word in request.split():
            yield word
"""


@pytest.fixture(scope="module", params=["http2", "core", "aio"])
def server(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any], request: pytest.FixtureRequest
) -> Iterator[Any]:
    """The digits, a class that streams, and a logarithm, whose answers aren't all finite."""
    repository = tmp_path_factory.mktemp("outside")
    (repository / "digits").symlink_to(ROOT / "examples/models/digits")
    (repository / "chat/1").mkdir(parents=True)
    (repository / "chat/1/model.py").write_text(CHAT)
    save(repository, logarithm, LOGARITHM)
    with serve(repository, PODPAIR_GRPC__SERVER=request.param) as running:
        yield running


# Making the environments takes its time where there are none yet.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("lock", "program"), [("clients.lock", "triton.py"), ("kserve.lock", "kserve_clients.py")])
def test_clients_of_others_find_a_v2_server(server: Any, lock: str, program: str) -> None:
    """tritonclient and KServe's clients: HTTP and gRPC, binary and JSON; tritonclient sync and asyncio, packed, streaming."""
    python = environments.python(HERE / lock)
    addresses = [server.url.removeprefix("http://"), server.record("gRPC is ready")["address"]]
    assert output_of(python, HERE / "outside" / program, *addresses).strip() == "ok"


# perf_analyzer waits until its figures are stable; with a count of requests it does not.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("how", "grpc"), [(("-i", "http"), False), (("-i", "grpc"), True), (("-i", "grpc", "--streaming"), True)]
)
def test_perf_analyzer_measures_it(server: Any, tmp_path: Path, how: tuple[str, ...], grpc: bool) -> None:
    """Triton's own load generator finds the model by its metadata and configuration, asks, and reads the server's statistics."""
    require_library("libb64.so.0d")
    python = environments.python(HERE / "perf_analyzer.lock")
    (cuda,) = python.parents[1].glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")
    address = server.record("gRPC is ready")["address"] if grpc else server.url.removeprefix("http://")
    told = tmp_path / "told.csv"
    command = [python.parent / "perf_analyzer", "-m", "digits", "-u", address, *how]
    counted = ["--concurrency-range", "4", "--request-count", "200", "--verbose-csv", "-f", told]
    output_of(*command, *counted, env={"LD_LIBRARY_PATH": str(cuda)})
    (row,) = csv.DictReader(told.read_text().splitlines())
    assert float(row["Inferences/Second"]) > 0
    # The time that the model took is the server's word, by its ModelStatistics.
    assert float(row["Server Compute Infer"]) > 0
