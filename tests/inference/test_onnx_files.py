"""Files that ONNX Runtime is given: too new, damaged, in its own format, with operators of others; what is said about them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from harness import environments
from harness.v2 import WAYS, infer
from podpair.common.faults import FaultsError
from podpair.inference.cli.main import main
from podpair.inference.core.model_config import RuntimeConfig
from podpair.inference.core.onnx_header import OnnxHeader, read_header
from podpair.inference.runtime.loader import runtime_loader
from podpair.inference.runtime.onnx import OnnxRuntime
from podpair.inference.runtime.onnx_session import limits

HERE = Path(__file__).parent
ABS = helper.make_node("Abs", ["x"], ["y"])
PAIR = {"x": (TensorProto.FLOAT, ["n", 2])}, {"y": (TensorProto.FLOAT, ["n", 2])}
UPPER = helper.make_node("StringUpper", ["x"], ["y"], domain="ai.onnx.contrib")
TEXTS = {"x": (TensorProto.STRING, ["n"])}, {"y": (TensorProto.STRING, ["n"])}


def refused(path: Path) -> str:
    with pytest.raises(FaultsError) as error:
        OnnxRuntime(path, RuntimeConfig())
    (fault,) = error.value.faults
    assert str(path) in fault
    assert "onnxruntime_src" not in fault
    return fault


def test_the_limits_are_those_of_the_runtime_itself() -> None:
    ir_version, opset = map(int, limits())
    for changes, loads in (
        ({"ir_version": ir_version}, True),
        ({"ir_version": ir_version + 1}, False),
        ({"opset": opset}, True),
        ({"opset": opset + 1}, False),
    ):
        graph = helper.make_graph(
            [ABS], "g", *[[helper.make_tensor_value_info(n, *s) for n, s in specs.items()] for specs in PAIR]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", changes.get("opset", 17))])
        model.ir_version = changes.get("ir_version", 8)
        if loads:
            onnxruntime.InferenceSession(model.SerializeToString())
        else:
            with pytest.raises(Exception, match=r"supported IR version|under development"):
                onnxruntime.InferenceSession(model.SerializeToString())
    shown = CliRunner().invoke(main, ["--version"]).output
    assert f"IR version {ir_version} and opset {opset} at most" in shown


@pytest.mark.parametrize("changes", [{"ir_version": 99}, {"opset": 99}, {"ir_version": 99, "opset": 99}])
def test_a_model_that_is_too_new_is_told_its_versions_the_runtime_s_and_what_to_do(
    tmp_path: Path, save_model: Callable[..., None], changes: dict[str, int]
) -> None:
    save_model(tmp_path / "m/1", [ABS], *PAIR, **changes)
    fault = refused(tmp_path / "m/1/model.onnx")
    ir_version, opset = limits()
    assert f"IR version {changes.get('ir_version', 8)} and opset {changes.get('opset', 17)}" in fault
    assert f"takes IR version {ir_version} and opset {opset} at most" in fault
    assert "export it anew" in fault
    # As a new user would, where the operators are older than the file says: what the message says.
    if "opset" not in changes:
        model = onnx.load(tmp_path / "m/1/model.onnx")
        model.ir_version = int(ir_version)
        onnx.save(model, tmp_path / "m/1/model.onnx")
        assert OnnxRuntime(tmp_path / "m/1/model.onnx", RuntimeConfig()).outputs


def test_operators_of_others_name_the_setting_that_brings_them(tmp_path: Path, save_model: Callable[..., None]) -> None:
    save_model(tmp_path / "m/1", [UPPER], *TEXTS, domain=("ai.onnx.contrib", 1))
    fault = refused(tmp_path / "m/1/model.onnx")
    assert "ai.onnx.contrib" in fault
    assert "PODPAIR_MODELS__CUSTOM_OP_LIBRARIES='[\"onnxruntime_extensions\"]'" in fault


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "`git lfs pull`"),
        (b"not a model", "ONNX Runtime can't load it"),
        (b"\x08\x08\x3a\xff\xff\xff\xff", "ONNX Runtime can't load it"),
    ],
)
def test_what_is_no_model(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert complaint in refused(path)


def test_a_header_is_read_or_it_is_none() -> None:
    graph = helper.make_graph([ABS], "g", [], [])
    model = helper.make_model(
        graph,
        producer_name="pytorch",
        producer_version="2.9",
        opset_imports=[helper.make_opsetid("ai.onnx", 20), helper.make_opsetid("com.example", 3)],
    )
    model.ir_version = 9
    data = model.SerializeToString()
    header = read_header(data)
    assert header == OnnxHeader(9, {"": 20, "com.example": 3}, "pytorch 2.9")
    assert header.foreign_domains == ["com.example"]
    for end in range(len(data)):
        read_header(data[:end])  # whatever it is, it isn't an error
    assert read_header(b"\xff" * 20) is None


@pytest.mark.parametrize("way", WAYS)
def test_a_model_in_ort_s_own_format(tmp_path: Path, save_model: Callable[..., None], start: Any, way: str) -> None:
    save_model(tmp_path / "source/1", [ABS], *PAIR)
    options = onnxruntime.SessionOptions()
    target = tmp_path / "models/m/1/model.ort"
    target.parent.mkdir(parents=True)
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(tmp_path / "source/1/model.onnx", options)
    server = start(tmp_path / "models")
    assert infer(server, "m", {"x": np.array([[-1, 2]], np.float32)}, way)["y"].tolist() == [[1, 2]]
    assert "neither model.onnx, model.ort, model.py nor workflow.yaml" in _checked(tmp_path / "models/m", target)


def _checked(model: Path, file: Path) -> str:
    assert CliRunner().invoke(main, ["validate", str(model)]).exit_code == 0
    file.unlink()
    return CliRunner().invoke(main, ["validate", str(model)]).stderr


@pytest.mark.timeout(600)  # the environment is made where there is none yet
def test_custom_operators_come_from_a_library_that_is_allowed(
    tmp_path: Path, save_model: Callable[..., None], start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = environments.python(HERE / "custom_ops.lock")
    (library,) = python.parents[1].glob("lib/python*/site-packages/onnxruntime_extensions/_extensions_pydll*.so")
    save_model(tmp_path / "upper/1", [UPPER], *TEXTS, domain=("ai.onnx.contrib", 1))
    save_model(tmp_path / "plain/1", [ABS], *PAIR)
    setting = f'["{library}"]'
    server = start(tmp_path, PODPAIR_MODELS__CUSTOM_OP_LIBRARIES=setting)
    for way in WAYS:
        assert infer(server, "upper", {"x": np.array(["ab"], object)}, way)["y"].tolist() == [b"AB"]
    monkeypatch.setenv("PODPAIR_MODELS__CUSTOM_OP_LIBRARIES", setting)
    assert CliRunner().invoke(main, ["validate", str(tmp_path)]).exit_code == 0
    monkeypatch.undo()
    # Without the setting it is refused, and the other model served.
    without = start(tmp_path)
    assert without.get("/v2/models/upper/ready").status == 503
    assert infer(without, "plain", {"x": np.array([[-1, 2]], np.float32)}, "json")["y"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("library", "complaint"),
    [
        ("/nowhere/lib.so", "no such file"),
        ("not_installed_at_all", "install it beside podpair-inference"),
        ("json", "no get_library_path"),
    ],
)
def test_a_library_that_cannot_be_used(
    tmp_path: Path, save_model: Callable[..., None], library: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "upper/1", [UPPER], *TEXTS, domain=("ai.onnx.contrib", 1))
    monkeypatch.setenv("PODPAIR_MODELS__CUSTOM_OP_LIBRARIES", f'["{library}"]')
    found = CliRunner().invoke(main, ["validate", str(tmp_path)])
    assert found.exit_code == 1
    assert f"models.custom_op_libraries: {library}" in found.stderr
    assert complaint in found.stderr
    assert runtime_loader([]) is not runtime_loader([library])


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("disabled", "ORT_DISABLE_ALL"),
        ("basic", "ORT_ENABLE_BASIC"),
        ("extended", "ORT_ENABLE_EXTENDED"),
        ("layout", "ORT_ENABLE_LAYOUT"),
        ("all", "ORT_ENABLE_ALL"),
    ],
)
def test_the_graph_s_optimisation_is_the_model_s_to_say(
    tmp_path: Path, save_model: Callable[..., None], level: Any, expected: str
) -> None:
    save_model(tmp_path / "m/1", [ABS], *PAIR)
    runtime = OnnxRuntime(tmp_path / "m/1/model.onnx", RuntimeConfig(graph_optimization_level=level))
    found = runtime._session.get_session_options().graph_optimization_level
    assert found == getattr(onnxruntime.GraphOptimizationLevel, expected)


@pytest.mark.parametrize("way", WAYS)
def test_bf16_goes_in_and_out(tmp_path: Path, save_model: Callable[..., None], start: Any, way: str) -> None:
    b16, f32 = TensorProto.BFLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=f32),
        helper.make_node("Add", ["wide", "f"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=b16),
    ]
    save_model(
        tmp_path / "m/1",
        nodes,
        {"x": (b16, ["n", 2]), "f": (f32, ["n", 2])},
        {"y": (b16, ["n", 2]), "sum": (f32, ["n", 2])},
    )
    server = start(tmp_path)
    x, f = np.array([[1.5, -2.25], [3, 4]], np.float32), np.array([[0.5, 1], [1 / 3, 1e30]], np.float32)
    found = infer(server, "m", {"x": x, "f": f}, way, bf16=["x"])
    np.testing.assert_array_equal(found["sum"], x + f)
    # Rounded to eight bits of mantissa.
    np.testing.assert_allclose(found["y"], x + f, rtol=2**-8)
    assert found["y"].tolist()[0] == [2.0, -1.25]
    assert server.get("/v2/models/m").json["inputs"][0]["datatype"] == "BF16"
    assert server.get("/v2/models/m/config").json["input"][0]["data_type"] == "TYPE_BF16"
    if way != "json":
        with pytest.raises(Exception, match="NaN or infinity"):
            infer(server, "m", {"x": np.full((1, 2), np.inf, np.float32), "f": f[:1]}, way, bf16=["x"])
