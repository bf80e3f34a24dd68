"""Which gRPC server is used: the setting's, or grpc.aio's where grpcio's core isn't what it was."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.v2 import WAYS, infer

# What another grpcio may bring, made of the one that is here.
CHANGES = {
    "a name that has gone": ("del cygrpc.SendStatusFromServerOperation", "no SendStatusFromServerOperation"),
    "an enumeration that has gone": ("del cygrpc.CompletionType", "CompletionType"),
    "other arguments, in a release that nobody tried": (
        "grpc.__version__ = '1.99.0'; known = cygrpc.SendMessageOperation; "
        "cygrpc.SendMessageOperation = lambda message: known(message, 0)",
        "the trial of grpcio 1.99.0 failed",
    ),
    "another way to end, in a release that nobody tried": (
        "grpc.__version__ = '1.99.0'; cygrpc.Server = lambda *arguments: os._exit(9)",
        "the trial of grpcio 1.99.0 failed: exit status 9",
    ),
}
# Imported by each Python process that is started with it on its path, before anything else. grpc.aio, which is to work still,
# has what it needs of the core by then.
HEAD = "import os, sys, grpc, grpc.aio\nimport grpc._cython.cygrpc as cygrpc\n"


@pytest.fixture
def repository(tmp_path: Path, save_model: Callable[..., None]) -> Path:
    shape = {"x": (TensorProto.FLOAT, ["n", 2])}, {"y": (TensorProto.FLOAT, ["n", 2])}
    save_model(tmp_path / "models/m/1", [helper.make_node("Abs", ["x"], ["y"])], *shape)
    return tmp_path / "models"


def changed(folder: Path, change: str) -> dict[str, str]:
    """An environment in which grpcio is another."""
    path = folder / "changed"
    path.mkdir()
    (path / "sitecustomize.py").write_text(HEAD + change)
    return {"PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}


def answers(server: Any) -> None:
    for way in WAYS:
        assert infer(server, "m", {"x": np.array([[-1, 2]], np.float32)}, way)["y"].tolist() == [[1, 2]]


def warnings(server: Any) -> list[dict[str, Any]]:
    server.record("gRPC is ready")
    return [r for r in server.records if "gRPC is served by grpc.aio" in r["message"]]


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_a_grpcio_whose_core_has_changed_starts_with_aio_and_a_warning(
    tmp_path: Path, repository: Path, start: Callable[..., Any], change: str, why: str
) -> None:
    server = start(repository, PODPAIR_GRPC__SERVER="core", **changed(tmp_path, change))
    (told,) = warnings(server)
    assert told["level"] == "WARNING"
    assert why in told["why"]
    assert "set grpc.server: aio" in told["message"]
    answers(server)
    assert server.terminate() == 0


@pytest.mark.parametrize("change", ["", "grpc.__version__ = '1.99.0'"])
def test_a_core_that_does_what_is_needed_is_used(
    tmp_path: Path, repository: Path, start: Callable[..., Any], change: str
) -> None:
    server = start(repository, PODPAIR_GRPC__SERVER="core", **changed(tmp_path, change))
    assert warnings(server) == []
    answers(server)


def test_aio_is_asked_for_without_a_warning(tmp_path: Path, repository: Path, start: Callable[..., Any]) -> None:
    # Whatever its core is.
    server = start(repository, PODPAIR_GRPC__SERVER="aio", **changed(tmp_path, "del cygrpc.SendMessageOperation"))
    assert warnings(server) == []
    answers(server)


@pytest.mark.process
@pytest.mark.parametrize(("kind", "name"), [("http2", "grpc"), ("aio", "podpair.inference.grpc.core_server")])
def test_nothing_of_another_server_is_imported(kind: str, name: str) -> None:
    code = (
        "import asyncio, sys; from podpair.inference.core.memory_budget import MemoryBudget;"
        "from podpair.inference.grpc import selection, server; from podpair.inference.metrics import Metrics;"
        "calls = server.Calls(Metrics(), MemoryBudget(1));"
        f"asyncio.run(selection.make_server({kind!r}, {{}}, calls)); print({name!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
