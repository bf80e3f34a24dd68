"""What real models and their clients ask for: single values, no rows, classes, bytes that are no text, initialisers as inputs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from harness.v2 import WAYS, RefusedError, infer
from podpair.inference.cli.main import main

F32, I64, TEXT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
LENGTHS = """
class Lengths:
    def predict(self, batch):
        assert len(batch), "an empty batch"
        return [[len(text), 0] for text in batch]
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., None]) -> Path:
    path = tmp_path_factory.mktemp("odd")
    node = helper.make_node
    # A rate beside the samples, as voice detectors have it; the model gives both back.
    nodes = [node("Mul", ["x", "rate"], ["y"]), node("Identity", ["rate"], ["used"])]
    shapes = {"x": (F32, ["n", 2]), "rate": (F32, [])}, {"y": (F32, ["n", 2]), "used": (F32, [])}
    save_model(path / "scaled/1", nodes, *shapes)
    save_model(path / "word/1", [node("Identity", ["x"], ["y"])], {"x": (TEXT, [])}, {"y": (TEXT, [])})
    # Weights that are inputs as well, as exporters of IR 3 wrote all of them; one is declared in model.yaml.
    nodes = [node("Mul", ["x", "w"], ["scaled"]), node("Add", ["scaled", "b"], ["y"])]
    save_model(
        path / "linear/1",
        nodes,
        {"x": (F32, ["n", 2]), "w": (F32, [2]), "b": (F32, [2])},
        {"y": (F32, ["n", 2])},
        {"w": np.array([10, 100], np.float32), "b": np.array([1, 2], np.float32)},
        {"inputs": [{"name": "w", "datatype": "FP32", "shape": [2]}]},
    )
    spec = {"x": (F32, ["n", 3])}, {"y": (F32, ["n", 3])}
    save_model(path / "plus/1", [node("Abs", ["x"], ["y"])], *spec)
    steps = [
        {"op": "softmax", "input": "y", "output": "p"},
        {"op": "argmax", "input": "y", "output": "label", "labels": ["cat", "dog", "élan"]},
    ]
    save_model(path / "labelled/1", [node("Neg", ["x"], ["y"])], *spec, None, {"postprocess": steps})
    save_model(path / "whole/1", [node("Neg", ["x"], ["y"])], {"x": (F32, [2, 2])}, {"y": (F32, [2, 2])})
    save_model(
        path / "open/1", [node("Abs", ["x"], ["y"])], {"x": (F32, ["n", "a", "b"])}, {"y": (F32, ["n", "a", "b"])}
    )
    save_model(path / "echo/1", [node("Identity", ["x"], ["y"])], {"x": (TEXT, ["n"])}, {"y": (TEXT, ["n"])})
    save_model(
        path / "known/1",
        [node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a", "é"], values_int64s=[7, 9])],
        {"x": (TEXT, ["n"])},
        {"y": (I64, ["n"])},
        domain=("ai.onnx.ml", 2),
    )  # fmt: skip
    # The same output named twice.
    save_model(path / "twice/1", [node("Abs", ["x"], ["y"])], *spec)
    model = onnx.load(path / "twice/1/model.onnx")
    model.graph.output.append(model.graph.output[0])
    onnx.save(model, path / "twice/1/model.onnx")
    (path / "lengths/1").mkdir(parents=True)
    (path / "lengths/1/model.py").write_text(LENGTHS)
    (path / "lengths/model.yaml").write_text("outputs: [{name: sizes, datatype: INT64, shape: [-1, 2]}]")
    return path


@pytest.fixture(scope="module")
def server(repository: Path, serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(repository) as running:
        yield running


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


# Single values.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_value_without_dimensions_may_be_sent_with_some(server: Any, way: str, shape: tuple[int, ...]) -> None:
    found = infer(server, "scaled", {"x": row(1, 2), "rate": np.full(shape, 3, np.float32)}, way)
    assert found["y"].tolist() == [[3, 6]]
    assert (found["used"].shape, found["used"].item()) == ((), 3)
    word = np.full(shape, "a]b", object)
    found = infer(server, "word", {"x": word}, way)
    assert (found["y"].shape, found["y"].item()) == ((), b"a]b")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(2,), (0,), (1, 2)])
def test_several_values_are_not_one(server: Any, way: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(RefusedError, match=r"shape \[.*\], the model takes one value, \[\] or \[1\]") as error:
        infer(server, "scaled", {"x": row(1, 2), "rate": np.zeros(shape, np.float32)}, way)
    assert error.value.status in (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(("shape", "data"), [([], 2), ([], [2]), ([1], [2]), ([1], [[2]]), ([1, 1], [[2]])])
def test_a_value_in_json_may_stand_in_any_lists(server: Any, shape: list[int], data: Any) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2]]}
    body = {"inputs": [x, {"name": "rate", "datatype": "FP32", "shape": shape, "data": data}]}
    answer = server.post("/v2/models/scaled/infer", body)
    assert (answer.status, answer.json["outputs"][0]["data"]) == (200, [2, 4])
    one = server.post("/v2/models/scaled/generate", {"x": [[1, 2]], "rate": 2}).json
    assert (one["y"], one["used"]) == ([[2, 4]], 2)


def test_bench_runs_a_model_with_single_values(repository: Path, tmp_path: Path) -> None:
    options = ["--threads", "1", "--rounds", "1", "--seconds", "0.001"]
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
        {"name": "rate", "datatype": "FP32", "shape": [1], "data": [2]},
    ]
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"inputs": tensors}))
    for model, more in (("scaled", []), ("word", []), ("linear", []), ("scaled", ["--request", str(request)])):
        found = CliRunner().invoke(main, ["tune", str(repository / model), *options, *more])
        assert (found.exit_code, found.stderr) == (0, "")
        assert "max_items: 1}" in found.stdout


# Initialisers that are inputs.


@pytest.mark.parametrize("way", WAYS)
def test_an_initialiser_that_is_declared_may_be_sent_or_left_to_the_model(server: Any, way: str) -> None:
    assert infer(server, "linear", {"x": row(1, 1)}, way)["y"].tolist() == [[11, 102]]
    w = np.array([2, 3], np.float32)
    assert infer(server, "linear", {"x": row(1, 1), "w": w}, way)["y"].tolist() == [[3, 5]]
    with pytest.raises(RefusedError, match="no input 'b'"):
        infer(server, "linear", {"x": row(1, 1), "b": w}, way)
    with pytest.raises(RefusedError, match="input 'x' is missing"):
        infer(server, "linear", {"w": w}, way)


def test_what_may_be_left_out_is_told_and_nothing_is_shared_with_it(server: Any) -> None:
    config = server.get("/v2/models/linear/config").json
    assert [(tensor["name"], tensor.get("optional", False)) for tensor in config["input"]] == [
        ("x", False),
        ("w", True),
    ]
    assert config["max_batch_size"] == 0
    assert server.post("/v2/models/linear/generate", {"x": [[1, 1]]}).json["y"] == [[11, 102]]


def test_what_is_never_batched_claims_no_batching(server: Any) -> None:
    for model, batches in (("scaled", False), ("whole", False), ("plus", True), ("lengths", True)):
        config = server.get(f"/v2/models/{model}/config").json
        assert (config["max_batch_size"] > 0, "dynamic_batching" in config) == (batches, batches), model


# No rows.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("plus", {"x": np.zeros((0, 3), np.float32)}, {"y": (0, 3)}),
        ("labelled", {"x": np.zeros((0, 3), np.float32)}, {"p": (0, 3), "label": (0,)}),
        ("known", {"x": np.zeros(0, object)}, {"y": (0,)}),
        ("lengths", {"input": np.zeros(0, object)}, {"sizes": (0, 2)}),
        ("open", {"x": np.zeros((2, 0, 3), np.float32)}, {"y": (2, 0, 3)}),
        ("open", {"x": np.zeros((0, 4, 0), np.float32)}, {"y": (0, 4, 0)}),
    ],
)
def test_no_rows_have_no_answers(server: Any, way: str, model: str, inputs: Any, outputs: Any) -> None:
    found = infer(server, model, inputs, way)
    assert {name: array.shape for name, array in found.items()} == outputs
    assert infer(server, "plus", {"x": row(-1, 2, 3)}, way)["y"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("shape", "data"),
    [([2, 0, 3], [[], []]), ([1, 0, 0], [[]]), ([0, 2, 2], []), ([2, 2, 0], [[[], []], [[], []]]), ([1, 0, 5], [])],
)
def test_nested_json_may_be_empty_inside(server: Any, shape: list[int], data: Any) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}]}
    answer = server.post("/v2/models/open/infer", body)
    assert (answer.status, answer.json.get("outputs", [{}])[0].get("shape")) == (200, shape)
    wrong = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 0, 3], "data": [[], []]}]}
    assert server.post("/v2/models/open/infer", wrong).status == 400


# Outputs.


@pytest.mark.parametrize("way", WAYS)
def test_an_output_that_is_named_twice_is_answered_once(server: Any, way: str) -> None:
    assert list(infer(server, "twice", {"x": row(-1, 2, 3)}, way)) == ["y"]
    found = infer(server, "labelled", {"x": row(-1, 2, 3)}, way, outputs=["label", "p", "label"])
    assert list(found) == ["label", "p"]
    assert [output["name"] for output in server.get("/v2/models/twice").json["outputs"]] == ["y"]


@pytest.mark.parametrize("way", WAYS)
def test_the_largest_values_are_answered_as_classes(server: Any, way: str) -> None:
    x = np.array([[1, 3, 3], [-5, 0.5, -6]], np.float32)
    found = infer(server, "plus", {"x": x}, way, outputs=[("y", {"classification": 2})])
    assert found["y"].tolist() == [[b"3.000000:1", b"3.000000:2"], [b"6.000000:2", b"5.000000:0"]]
    # With the labels that model.yaml has for the same scores; never more than there are.
    asked = [("p", {"classification": 9}), "label"]
    found = infer(server, "labelled", {"x": row(0, 0, -100)}, way, outputs=asked)
    assert found["p"].shape == (1, 3)
    assert found["p"].tolist()[0][0] == "1.000000:2:élan".encode()
    assert found["label"].tolist() == ["élan".encode()]
    # A model without rows answers as a whole.
    whole = np.array([[1, 2], [-3, 0]], np.float32)
    found = infer(server, "whole", {"x": whole}, way, outputs=[("y", {"classification": 1})])
    assert found["y"].tolist() == [b"3.000000:2"]
    assert infer(server, "plus", {"x": x[:0]}, way, outputs=[("y", {"classification": 2})])["y"].shape == (0, 2)
    for output, count, complaint in (("y", 0, "how many classes"), ("y", -1, "how many"), ("z", 1, "no output 'z'")):
        with pytest.raises(RefusedError, match=complaint):
            infer(server, "plus", {"x": x}, way, outputs=[(output, {"classification": count})])
    with pytest.raises(RefusedError, match="only numbers can be classified"):
        infer(server, "labelled", {"x": x}, way, outputs=[("label", {"classification": 1})])
    # And the same head again, which is remembered.
    again = infer(server, "plus", {"x": x}, way, outputs=[("y", {"classification": 2})])
    assert again["y"].tolist()[0] == [b"3.000000:1", b"3.000000:2"]


def test_the_extension_is_announced(server: Any) -> None:
    assert "classification" in server.get("/v2").json["extensions"]


# Bytes that aren't UTF-8.


@pytest.mark.parametrize("way", ["binary", "grpc"])
def test_bytes_that_are_not_utf_8_reach_the_model(server: Any, way: str) -> None:
    items = np.array([b"a", b"\xff\xfe", "é".encode(), b""], object)
    assert infer(server, "known", {"x": items}, way)["y"].tolist() == [7, -1, 9, -1]
    with pytest.raises(RefusedError, match="neither UTF-8 nor free of NUL") as error:
        infer(server, "known", {"x": np.array([b"\xff\0"], object)}, way)
    assert error.value.status in (400, "INVALID_ARGUMENT")
    # What the model would give back so, ONNX Runtime keeps.
    with pytest.raises(RefusedError, match="isn't UTF-8, which ONNX Runtime doesn't hand over"):
        infer(server, "echo", {"x": np.array([b"\xff"], object)}, way)
    assert infer(server, "echo", {"x": np.array([b"a\0b"], object)}, way)["y"].tolist() == [b"a\0b"]
    # A class gets text, unless it says otherwise; the message says where.
    with pytest.raises(RefusedError, match="text: false"):
        infer(server, "lengths", {"input": np.array([b"\xff"], object)}, way)


# The log.


def test_a_refused_request_leaves_no_lines_of_onnx_runtime_s_in_the_log(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any]
) -> None:
    table = {"table": np.arange(3, dtype=np.float32)}
    node = helper.make_node("Gather", ["table", "i"], ["y"])
    save_model(tmp_path / "lookup/1", [node], {"i": (I64, ["n"])}, {"y": (F32, ["n"])}, table)
    server = start(tmp_path)
    for way in WAYS:
        with pytest.raises(RefusedError, match="out of data bounds"):
            infer(server, "lookup", {"i": np.array([99])}, way)
    assert server.terminate() == 0
    server.kill()
    assert [record for record in server.records if "time" not in record] == []
    assert [record for record in server.records if "Non-zero status" in record["message"]] == []
