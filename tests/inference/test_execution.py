"""Where a model computes: providers and their order, bound inputs and outputs, cores."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from podpair.inference.core.errors import FaultsError
from podpair.inference.core.model_config import RuntimeConfig
from podpair.inference.runtime.onnx import OnnxRuntime

Save = Callable[..., None]


@pytest.fixture
def model(tmp_path: Path, save_model: Save) -> Path:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])]
    spec = (TensorProto.FLOAT, ["n", 3])
    save_model(tmp_path / "m/1", nodes, {"a": spec, "b": spec}, {"sum": spec, "product": spec})
    return tmp_path / "m/1/model.onnx"


@pytest.mark.parametrize(
    "providers", [["CPU"], ["cpu"], ["CPUExecutionProvider"], ["CUDA", "OpenVINO", {"name": "CPU", "options": {}}]]
)
def test_providers_have_short_names_and_the_first_that_is_there_is_taken(model: Path, providers: list[Any]) -> None:
    runtime = OnnxRuntime(model, RuntimeConfig(providers=providers))
    assert runtime._session.get_providers()[-1] == "CPUExecutionProvider"


def test_no_provider_that_is_there_is_a_fault_that_names_those_that_are(model: Path) -> None:
    with pytest.raises(FaultsError, match=r"none of runtime\.providers \(Abacus, QNN\) is there; use .*CPUExecution"):
        OnnxRuntime(model, RuntimeConfig(providers=("Abacus", "QNN")))


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize(
    "threads", [{}, {"intra_op_threads": 2}, {"intra_op_threads": 2, "inter_op_threads": 2, "cpus": [0]}]
)
def test_answers_are_the_same_whatever_the_layout(model: Path, bound: bool, threads: dict[str, Any]) -> None:
    runtime = OnnxRuntime(model, RuntimeConfig(io_binding=bound, **threads))
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 2, np.float32)
    total, product = runtime.run([a, b])
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(product, a * b)


CORES = """
import os
class Cores:
    def predict(self, batch):
        return [",".join(map(str, sorted(os.sched_getaffinity(0)))) for _ in batch]
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_a_model_computes_on_the_cores_that_it_is_given(tmp_path: Path, start: Callable[..., Any]) -> None:
    core = max(os.sched_getaffinity(0))
    (tmp_path / "cores/1").mkdir(parents=True)
    (tmp_path / "cores/1/model.py").write_text(CORES)
    (tmp_path / "cores/model.yaml").write_text(f"runtime: {{cpus: [{core}]}}")
    server = start(tmp_path)
    assert server.post("/v2/models/cores/generate", {"input": "?"}).json["output"] == str(core)
    # The process itself is not bound.
    assert os.sched_getaffinity(server.process.pid) == os.sched_getaffinity(0)
