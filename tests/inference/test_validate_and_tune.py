"""`podpair-inference validate` and `tune`: what is wrong with models, all at once, and how they run best on this machine."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from podpair.inference.cli.main import main
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.tuning import Cell, Layout, best, hopeless, layouts, sizes

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "models/digits"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def cell(instances: int, rows: int, rate: float, taken: float) -> Cell:
    return Cell(Layout(instances, 1), rows, (rate,), (taken,))


def test_check_tells_how_each_version_is_served() -> None:
    line = "digits/1  onnxruntime_onnx  pixels FP32[-1, 64] -> probabilities FP32[-1, 10], label BYTES[-1]"
    for folder in (DIGITS, EXAMPLES / "models"):
        found = run("validate", folder)
        told, rows = found.stdout.splitlines()
        assert (found.exit_code, told, found.stderr) == (0, line, "")
        assert rows.startswith("  rows: independent, requests share runs (probe: answers to random rows (normal, ")


@pytest.mark.process
def test_check_tells_every_fault_of_every_model_at_once(tmp_path: Path, save_model: Callable[..., None]) -> None:
    spec = (TensorProto.FLOAT, ["n", 2])
    save_model(tmp_path / "good/1", [helper.make_node("Abs", ["x"], ["y"])], {"x": spec}, {"y": spec})
    # A model.yaml that can't be used, and behind it a file that can't be loaded.
    (tmp_path / "twice/1").mkdir(parents=True)
    (tmp_path / "twice/1/model.onnx").write_bytes(b"nonsense")
    (tmp_path / "twice/2").mkdir()
    (tmp_path / "twice/model.yaml").write_text("batching: {max_itmes: 3, queue_size: 0}")
    # Two versions that fail in the user's code, each in its own way.
    for version, code in enumerate(("import nothing_like_it\n", "class M:\n    def predict(self, batch)\n"), 1):
        (tmp_path / f"user/{version}").mkdir(parents=True)
        (tmp_path / f"user/{version}/model.py").write_text(code)
    # An input that the model hasn't, known only once it is loaded.
    save_model(
        tmp_path / "wrong/1",
        [helper.make_node("Abs", ["x"], ["y"])],
        {"x": spec},
        {"y": spec},
        None,
        {"inputs": [{"name": "z", "datatype": "FP32", "shape": [-1, 2]}]},
    )
    found = run("validate", tmp_path)
    assert found.exit_code == 1
    assert found.stdout.splitlines()[0] == "good/1  onnxruntime_onnx  x FP32[-1, 2] -> y FP32[-1, 2]"
    assert len(found.stdout.splitlines()) == 2
    faults = found.stderr.splitlines()
    assert faults[0] == "podpair-inference: 7 faults:"
    for expected in (
        "twice/model.yaml: batching.max_itmes",
        "twice/model.yaml: batching.queue_size",
        "twice/2: it holds neither model.onnx, model.ort, model.py nor workflow.yaml",
        "twice/1/model.onnx: ONNX Runtime can't load it",
        "user/1/model.py:1: ModuleNotFoundError",
        "user/2/model.py:2: SyntaxError",
        "wrong/model.yaml: inputs.z: the model has no such input; it has x",
    ):
        assert len([fault for fault in faults if expected in fault]) == 1, (expected, found.stderr)


def test_check_of_what_isn_t_there(tmp_path: Path) -> None:
    assert "no such folder" in run("validate", tmp_path / "none").stderr
    assert "no model in it" in run("validate", tmp_path).stderr
    assert "it is [name=]module:Class" in run("validate", "module:").stderr


@pytest.mark.process
def test_check_and_bench_take_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / "python")
    told, rows = run("validate", "sentiment:Sentiment").stdout.splitlines()
    assert told == "sentiment/1  python  input BYTES[-1] -> output BYTES[-1]"
    assert rows == "  rows: independent, requests share runs (class: predict answers each element of the batch)"
    lines = run("tune", "sentiment:Sentiment", "--rounds", 1, "--seconds", 0.001, "--threads", 2, "--max-items", 2)
    assert lines.exit_code == 0
    # A run of a class has no threads inside.
    assert "intra_op" not in lines.stdout.partition("model.yaml:")[2]


def measured(result: Result) -> tuple[list[list[str]], ModelConfig]:
    assert result.exit_code == 0, result.stderr
    rows, _, config = result.stdout.partition("\nmodel.yaml:\n")
    return [line.split() for line in rows.splitlines()[2:]], ModelConfig.model_validate(yaml.safe_load(config))


def test_bench_measures_layouts_and_batches_and_says_what_to_write() -> None:
    request = EXAMPLES / "digits/request.json"
    options = ("--request", request, "--threads", 2, "--max-items", 3, "--rounds", 2, "--seconds", 0.001)
    lines, config = measured(run("tune", DIGITS, *options))
    cells = [tuple(map(int, line[:3])) for line in lines]
    assert cells == [(i, t, n) for i, t in ((1, 1), (2, 1), (1, 2)) for n in (1, 2, 3)]
    assert all(float(line[3]) > 0 and float(line[4]) > 0 for line in lines)
    (chosen,) = [line for line in lines if line[-1] == "<"]
    found = (config.runtime.instances, config.runtime.intra_op_threads, config.batching.max_items)
    assert found == tuple(map(int, chosen[:3]))


def test_bench_decodes_images_and_refuses_what_the_model_can_t_take(
    tmp_path: Path, save_model: Callable[..., None]
) -> None:
    image = (TensorProto.FLOAT, ["n", 3, 8, 8])
    config = {"preprocess": [{"op": "image", "output": "x"}]}
    save_model(tmp_path / "m/1", [helper.make_node("Abs", ["x"], ["y"])], {"x": image}, {"y": image}, None, config)
    png = cv2.imencode(".png", np.zeros((9, 7, 3), np.uint8))[1].tobytes()
    file = tmp_path / "request.json"
    options = ("--request", file, "--threads", 1, "--max-items", 1, "--rounds", 1, "--seconds", 0.001)

    def write(data: str) -> Any:
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [data]}
        file.write_text(json.dumps({"inputs": [tensor]}))
        return run("tune", tmp_path / "m", *options)

    assert len(measured(write(base64.b64encode(png).decode()))[0]) == 1
    for data, complaint in ((base64.b64encode(b"no image").decode(), "request.json: "), ("?", "request.json: ")):
        refused = write(data)
        assert refused.exit_code == 1
        assert complaint in refused.stderr
    assert "there is no version 7; there are 1" in run("tune", tmp_path / "m", "--version", 7).stderr
    assert "can't be read" in run("tune", tmp_path / "m", "--request", tmp_path / "none").stderr


def test_layouts_use_the_threads_side_by_side_inside_a_run_and_both() -> None:
    assert layouts(1, intra_op=True) == [Layout(1, 1)]
    assert layouts(6, intra_op=True) == [Layout(1, 1), Layout(6, 1), Layout(3, 2), Layout(1, 4), Layout(1, 6)]
    assert layouts(6, intra_op=False) == [Layout(1, 1), Layout(2, 1), Layout(4, 1), Layout(6, 1)]
    assert sizes(1) == [1]
    assert sizes(24) == [1, 2, 4, 8, 16, 24]


def test_of_what_is_as_fast_the_shortest_run_is_best() -> None:
    cells = [cell(1, 1, 500, 2.0), cell(2, 1, 960, 2.1), cell(2, 8, 1000, 16.0), cell(2, 64, 900, 140.0)]
    assert best(cells) == cells[1]
    assert best([*cells, cell(1, 64, 2000, 32.0)]).rows == 64
    # A median: one round beside a noisy neighbour says little.
    noisy = Cell(Layout(1, 1), 2, (3000, 400, 500), (1.0, 5.0, 4.0))
    assert (noisy.rate, noisy.median_ms) == (500, 4.0)


def test_larger_batches_are_given_up_only_after_two_that_were_far_behind() -> None:
    assert not hopeless([100, 20])
    assert not hopeless([100, 20, 90])
    assert hopeless([100, 70, 79])
