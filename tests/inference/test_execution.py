"""Where a model computes: providers and their order, bound inputs and outputs, cores."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from podpair.common.faults import FaultsError
from podpair.inference.core.model_config import ProviderConfig, RuntimeConfig
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


def test_providers_fall_back_in_the_order_that_is_given(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a machine with a GPU: those that are there, in the order and with the options that are asked for."""
    asked: list[Any] = []
    session = onnxruntime.InferenceSession

    def open_session(path: Path, options: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        return session(path, options, providers=["CPUExecutionProvider"])

    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    order = ("OpenVINO", "CUDA", ProviderConfig(name="trt", options={"device_id": 1}), "CPU")
    with caplog.at_level("INFO"):
        OnnxRuntime(model, RuntimeConfig(providers=order))
    wanted = [
        ("CUDAExecutionProvider", {}),
        ("TensorrtExecutionProvider", {"device_id": "1"}),
        ("CPUExecutionProvider", {}),
    ]
    assert asked == wanted
    assert [record.provider for record in caplog.records if "isn't available" in record.message] == ["OpenVINO"]


def test_threads_and_their_cores_reach_the_session(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: given.append(options) or session(path, options),
    )
    cpus = tuple(sorted(os.sched_getaffinity(0)))[:1] if hasattr(os, "sched_getaffinity") else (0,)
    OnnxRuntime(model, RuntimeConfig(intra_op_threads=3, inter_op_threads=2, cpus=cpus))
    (options,) = given
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    # ONNX Runtime counts cores from 1, and binds the threads that it makes: all but the one that calls.
    affinities = options.get_session_config_entry("session.intra_op_thread_affinities")
    assert affinities == ";".join([str(cpus[0] + 1)] * 2)


def test_no_provider_that_is_there_is_a_fault_that_names_those_that_are(model: Path) -> None:
    with pytest.raises(
        FaultsError, match=r"none of runtime\.providers \(Abacus, QNN\) is available; use .*CPUExecution"
    ):
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


@pytest.mark.parametrize("bound", [False, True])
def test_scalars_stay_scalars(tmp_path: Path, save_model: Callable[..., None], bound: bool) -> None:
    """Also where inputs are bound: a scalar that became [1] would make the answer's shape another, and fail a Scan's state."""
    f32 = TensorProto.FLOAT
    save_model(
        tmp_path / "scalars/1",
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["sum", "x"], ["y"])],
        {"a": (f32, []), "b": (f32, []), "x": (f32, [3])},
        {"sum": (f32, []), "y": (f32, [3])},
    )
    runtime = OnnxRuntime(tmp_path / "scalars/1/model.onnx", RuntimeConfig(io_binding=bound))
    a, x = np.array(2, np.float32), np.arange(6, dtype=np.float32)[::2]
    total, product = runtime.run([a, a, x])
    assert (total.shape, total.tolist(), product.tolist()) == ((), 4.0, [0.0, 8.0, 16.0])


@pytest.mark.parametrize("bound", [False, True])
def test_a_scan_with_a_scalar_state(tmp_path: Path, save_model: Callable[..., None], bound: bool) -> None:
    f32 = TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "x"], ["next"]), helper.make_node("Identity", ["next"], ["seen"])],
        "body",
        [helper.make_tensor_value_info(name, f32, []) for name in ("state", "x")],
        [helper.make_tensor_value_info(name, f32, []) for name in ("next", "seen")],
    )
    node = helper.make_node("Scan", ["start", "xs"], ["end", "all"], body=body, num_scan_inputs=1)
    inputs = {"start": (f32, []), "xs": (f32, [4])}
    save_model(tmp_path / "scan/1", [node], inputs, {"end": (f32, []), "all": (f32, [4])})
    runtime = OnnxRuntime(tmp_path / "scan/1/model.onnx", RuntimeConfig(io_binding=bound))
    end, sums = runtime.run([np.array(1, np.float32), np.arange(4, dtype=np.float32)])
    assert (end.shape, end.tolist(), sums.tolist()) == ((), 7.0, [1.0, 2.0, 4.0, 7.0])


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
