"""Whether requests may share runs is established at the load, and said everywhere; model.yaml overrules it in both directions."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper

from inference.row_models import (
    DEPENDENT,
    F32,
    INDEPENDENT,
    WITHOUT,
    Graph,
    clip,
    dynamic_quantisation,
    perceptron,
    save,
    sound,
)
from podpair.common.faults import FaultsError
from podpair.inference.cli.main import main
from podpair.inference.core.onnx_graph import NotOnnxError, read_model
from podpair.inference.core.row_decision import RowDecision, Rows
from podpair.inference.core.row_hazards import row_hazards
from podpair.inference.core.row_probe import Finding, Hints, ProbedInput, RowProbe
from podpair.inference.core.row_values import same
from podpair.inference.core.tensors import Array, TensorSpec
from podpair.inference.grpc.proto import open_inference_pb2 as pb
from podpair.inference.runtime.loader import load_runtime, load_version
from podpair.inference.runtime.repository import read_model as read_folder


def decided(folder: Path) -> RowDecision:
    return load_version(read_folder(folder), 1, load_runtime).signature.decision


@pytest.mark.parametrize("make", INDEPENDENT, ids=lambda make: make.__name__)
def test_rows_that_answer_for_themselves_share_runs(tmp_path: Path, make: Callable[[], Graph]) -> None:
    found = decided(save(tmp_path, make))
    assert (found.rows, found.by) == (Rows.INDEPENDENT, "probe"), found.reason


@pytest.mark.parametrize("make", DEPENDENT, ids=lambda make: make.__name__)
def test_rows_that_answer_to_each_other_run_alone(tmp_path: Path, make: Callable[[], Graph]) -> None:
    found = decided(save(tmp_path, make))
    assert found.rows is Rows.DEPENDENT, found.reason


@pytest.mark.parametrize("make", WITHOUT, ids=lambda make: make.__name__)
def test_models_without_rows_are_found_out(tmp_path: Path, make: Callable[[], Graph]) -> None:
    found = decided(save(tmp_path, make))
    assert found.rows is Rows.NONE, found.reason


@pytest.mark.parametrize(
    ("make", "says"),
    [
        ("dynamic_quantisation", "DynamicQuantizeLinear takes its scale over all rows"),
        ("quantisation_by_hand", "QuantizeLinear has a scale or zero point that is computed of all rows"),
        ("label_beside_the_mean", "ReduceMean computes over axis 0, which is the rows"),
        ("recurrent_over_rows", "RNN runs along axis 0, which is the rows"),
        ("noise", "RandomNormalLike draws at random"),
        # The probe's alone: the graph has nothing that is certain.
        ("position_in_the_batch", "y of a row differs with the number of rows"),
        ("against_the_first_row", "y of a row among 8 differs from its answer alone"),
    ],
)
def test_the_reason_names_what_it_is(tmp_path: Path, make: str, says: str) -> None:
    (found,) = [made for made in DEPENDENT if made.__name__ == make]
    assert says in decided(save(tmp_path, found)).reason


def test_a_batch_normalisation_in_training_mode_is_seen_in_the_graph(tmp_path: Path) -> None:
    """ONNX Runtime may not even run it: what is certain needs no run."""

    def training() -> Graph:
        node = helper.make_node("BatchNormalization", list("xsbmv"), ["y", "m1", "v1"], training_mode=1)
        ones = {name: np.ones(3, np.float32) for name in "sbmv"}
        return [node], {"x": (F32, ["n", 3])}, {"y": (F32, ["n", 3])}, ones

    data = (save(tmp_path, training) / "1/model.onnx").read_bytes()
    assert row_hazards(read_model(memoryview(data))) == ["BatchNormalization normalises over all rows (training_mode)"]
    for cut in range(0, len(data), 7):
        try:
            row_hazards(read_model(memoryview(data)[:cut]))
        except NotOnnxError:
            continue


@pytest.mark.parametrize(
    ("make", "rows", "decision"),
    [
        (dynamic_quantisation, "independent", Rows.INDEPENDENT),
        (perceptron, "dependent", Rows.DEPENDENT),
        (perceptron, "none", Rows.NONE),
        (clip, "none", Rows.NONE),
    ],
)
def test_model_yaml_overrules_it_in_both_directions(
    tmp_path: Path, make: Callable[[], Graph], rows: str, decision: Rows
) -> None:
    assert decided(save(tmp_path, make, f"rows: {rows}")) == RowDecision(decision, "model.yaml", "model.yaml says so")


def test_rows_can_t_be_said_of_what_has_none(tmp_path: Path) -> None:
    def fixed() -> Graph:
        return [helper.make_node("Abs", ["x"], ["y"])], {"x": (F32, [2, 3])}, {"y": (F32, [2, 3])}, {}

    folder = save(tmp_path, fixed, "rows: independent")
    with pytest.raises(FaultsError, match=r"rows: independent, but x is \[2, 3\]: its first dimension is of one size"):
        decided(folder)
    (folder / "model.yaml").write_text("rows: some")
    with pytest.raises(FaultsError, match="rows: input should be 'auto', 'independent', 'dependent' or 'none'"):
        decided(folder)


def test_an_output_that_isn_t_served_doesn_t_matter(tmp_path: Path) -> None:
    def two() -> Graph:
        nodes = [helper.make_node("Abs", ["x"], ["y"]), helper.make_node("ReduceSum", ["x"], ["loss"], keepdims=0)]
        return nodes, {"x": (F32, ["n", 3])}, {"y": (F32, ["n", 3]), "loss": (F32, [])}, {}

    assert decided(save(tmp_path, two)).rows is Rows.NONE
    served = "outputs: [{name: y, datatype: FP32, shape: [-1, 3]}]"
    assert decided(save(tmp_path / "served", two, served)).rows is Rows.INDEPENDENT


def test_check_says_it_and_what_to_write(tmp_path: Path) -> None:
    for make in (perceptron, dynamic_quantisation, sound):
        save(tmp_path, make)
    lines = CliRunner().invoke(main, ["validate", str(tmp_path)]).stdout.splitlines()
    told = {lines[i].split("/")[0]: lines[i + 1] for i in range(0, len(lines), 2)}
    assert told["perceptron"].startswith("  rows: independent, requests share runs (probe: answers to random rows (")
    assert told["dynamic_quantisation"] == (
        "  rows: dependent, each request runs alone (graph: DynamicQuantizeLinear takes its scale over all rows, MatMulInteger "
        "has a scale or zero point that is computed of all rows); if each row's answer is its own all the same, write "
        "`rows: independent` in model.yaml"
    )
    assert told["sound"].startswith("  rows: none, each request runs alone (probe: 1 row is answered with y [2]")


def test_the_log_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    decided(save(tmp_path, dynamic_quantisation))
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "dynamic_quantisation/1: each request runs alone (rows: dependent), by its graph: Dynamic" in warning.message
    assert "write `rows: independent` in model.yaml" in warning.message
    caplog.clear()
    decided(save(tmp_path, perceptron))
    (told,) = [record for record in caplog.records if record.message == "rows established"]
    assert (vars(told)["rows"], vars(told)["by"]) == ("independent", "probe")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any]) -> Any:
    repository = tmp_path_factory.mktemp("rows")
    for make in (perceptron, dynamic_quantisation, clip):
        save(repository, make)
    shares = "versions: [{version: 1, weight: 9}, {version: 2, weight: 1}]"
    save(repository, perceptron, shares, name="mixed")
    version = save(tmp_path_factory.mktemp("other"), dynamic_quantisation)
    (version / "1").rename(repository / "mixed/2")
    with serve(repository) as running:
        yield running


@pytest.mark.parametrize(
    ("model", "rows", "largest", "dims"),
    [
        ("perceptron", "independent", 64, [8]),
        ("dynamic_quantisation", "dependent", 1, [8]),
        ("clip", "none", 0, [-1, 4]),
    ],
)
def test_metadata_and_configuration_say_it(server: Any, model: str, rows: str, largest: int, dims: list[int]) -> None:
    about = server.get(f"/v2/models/{model}").json["parameters"]
    assert about["rows"] == rows
    assert about["rows_by"] in ("probe", "graph")
    assert about["rows_reason"]
    config = server.get(f"/v2/models/{model}/config").json
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (largest, dims)
    assert config["parameters"]["rows"] == {"string_value": rows}
    assert ("dynamic_batching" in config) is (rows == "independent")
    with grpc.insecure_channel(server.record("gRPC is ready")["address"]) as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelConfig",
            request_serializer=pb.ModelConfigRequest.SerializeToString,
            response_deserializer=pb.ModelConfigResponse.FromString,
        )
        told = ask(pb.ModelConfigRequest(name=model), timeout=30).config
    assert (told.max_batch_size, told.parameters["rows"].string_value) == (largest, rows)


def test_of_several_versions_the_most_careful_speaks_for_all(server: Any) -> None:
    """Requests that name no version are dealt out among them: joined, they would be joined for each."""
    about = server.get("/v2/models/mixed").json["parameters"]
    assert (about["rows"], about["rows_reason"].split(":")[0]) == ("dependent", "version 2")
    assert server.get("/v2/models/mixed/versions/1/config").json["max_batch_size"] == 64


@pytest.mark.process
def test_a_python_class_answers_row_by_row_by_its_contract(tmp_path: Path) -> None:
    (tmp_path / "echo/1").mkdir(parents=True)
    (tmp_path / "echo/1/model.py").write_text(
        "class Echo:\n    def predict(self, batch):\n        return list(batch)\n"
    )
    found = decided(tmp_path / "echo")
    assert (found.rows, found.by) == (Rows.INDEPENDENT, "class")
    (tmp_path / "echo/model.yaml").write_text("rows: none")
    assert decided(tmp_path / "echo").rows is Rows.NONE


class Costly:
    """A model by its cost: each row takes as long on the clock as it says."""

    def __init__(self, seconds: float, answer: Callable[[Array], Array] = np.abs) -> None:
        self.seconds, self.answer = seconds, answer
        self.now = 0.0
        self.rows: list[int] = []

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        self.rows.append(len(arrays[0]))
        self.now += self.seconds * len(arrays[0])
        return [self.answer(arrays[0])]

    def find(self) -> Finding:
        inputs = [ProbedInput(TensorSpec("x", "FP32", (-1, 3)), ("n", None))]
        return RowProbe(self, inputs, ["y"], lambda: self.now, Hints(0.1)).find()


def test_a_probe_costs_a_large_model_no_more_than_five_runs() -> None:
    model = Costly(2.0)
    assert model.find().rows is Rows.INDEPENDENT
    assert model.now <= 5 * model.seconds
    dependent = Costly(2.0, lambda x: x - x.mean(axis=0))
    assert dependent.find().rows is Rows.DEPENDENT
    assert dependent.now <= 6 * dependent.seconds


def test_a_probe_takes_its_time_where_runs_are_short() -> None:
    model = Costly(0.0001)
    assert model.find().rows is Rows.INDEPENDENT
    assert 0.02 < model.now < 0.15
    assert {1, 2, 3, 5, 8, 64} <= set(model.rows)


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        # Only among many: a threshold on the number of rows.
        (lambda x: np.abs(x) * (1 if len(x) < 60 else 2), Rows.DEPENDENT),
        # Only of large numbers.
        (lambda x: np.abs(x) + (np.abs(x).max() > 200), Rows.DEPENDENT),
        # Only of equal rows.
        (lambda x: np.abs(x) + len(np.unique(x, axis=0)), Rows.DEPENDENT),
        # Only the last.
        (lambda x: np.abs(x) + (np.arange(len(x)) == 4)[:, None], Rows.DEPENDENT),
        # The sign of rounding, which a normalisation of almost nothing magnifies: no company of others does it.
        (lambda x: np.abs(x) + (np.abs(x).max() < 2.1) * np.float32(0.01) * (len(x) > 1), Rows.INDEPENDENT),
        (lambda x: np.zeros_like(x), Rows.DEPENDENT),
        (lambda x: np.abs(x).sum(axis=0), Rows.NONE),
    ],
)
def test_what_shows_in_some_companies_only_is_found(answer: Callable[[Array], Array], rows: Rows) -> None:
    assert Costly(0.0001, answer).find().rows is rows


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (np.array([[1, 1000]], np.float32), np.array([[1.05, 1000]], np.float32), True),
        (np.array([[1, 1000]], np.float32), np.array([[1.2, 1000]], np.float32), False),
        (np.array([[np.nan, np.inf]], np.float32), np.array([[np.nan, np.inf]], np.float32), True),
        (np.array([[np.nan, np.inf]], np.float32), np.array([[np.nan, -np.inf]], np.float32), False),
        (np.array([[1]], np.int64), np.array([[2]], np.int64), False),
        (np.array([["a"]], object), np.array([["a"]], object), True),
        (np.array([[1.0]], np.float64), np.array([[1.0 + 1e-6]], np.float64), False),
        (np.array([[1.0]], np.float16), np.array([[1.01]], np.float16), True),
    ],
)
def test_answers_are_compared_within_what_rounding_does(a: Array, b: Array, alike: bool) -> None:
    assert same(a, b) is alike
