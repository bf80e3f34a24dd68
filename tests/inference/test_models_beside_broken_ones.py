"""A model that can't be loaded takes nothing from the others; one that can't be warmed up is served."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from harness.processes import BIN
from harness.v2 import WAYS, RefusedError, infer
from podpair.inference.cli.main import main
from podpair.inference.grpc.proto import open_inference_pb2 as pb

F32 = TensorProto.FLOAT
ABS = helper.make_node("Abs", ["x"], ["y"])
ONE = np.ones((1, 2), np.float32)


def good(repository: Path, save_model: Callable[..., None], name: str = "good") -> None:
    save_model(repository / name / "1", [ABS], {"x": (F32, ["n", 2])}, {"y": (F32, ["n", 2])})


def not_onnx(path: Path) -> str:
    (path / "1").mkdir(parents=True)
    (path / "1/model.onnx").write_bytes(b"not a model")
    return "ONNX Runtime can't load it"


def no_version(path: Path) -> str:
    path.mkdir()
    return "no version in it"


def bad_yaml(path: Path) -> str:
    not_onnx(path)
    (path / "model.yaml").write_text("batching: {max_itmes: 3}")
    return "did you mean max_items?"


def bad_code(path: Path) -> str:
    (path / "1").mkdir(parents=True)
    (path / "1/model.py").write_text("import nothing_like_it\n")
    return "model.py:1: ModuleNotFoundError"


def one_bad_version(path: Path) -> str:
    (path / "1").mkdir(parents=True)
    (path / "1/model.py").write_text("class M:\n    def predict(self, batch):\n        return list(batch)\n")
    (path / "2").mkdir()
    (path / "2/model.py").write_text(
        "class M:\n    def __init__(self):\n        raise OSError('no weights')\n    predict = stream = id\n"
    )
    return "model.py:3: OSError: no weights"


BROKEN = [not_onnx, no_version, bad_yaml, bad_code, one_bad_version]


@pytest.mark.parametrize("breaks", BROKEN)
def test_the_others_are_served_and_it_says_why_it_is_not(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any], breaks: Callable[[Path], str]
) -> None:
    good(tmp_path, save_model)
    why = breaks(tmp_path / "broken")
    server = start(tmp_path)
    for way in WAYS:
        assert infer(server, "good", {"x": -ONE}, way)["y"].tolist() == [[1, 1]]
        with pytest.raises(RefusedError) as error:
            infer(server, "broken", {"x": ONE}, way)
        assert error.value.status in (404, "NOT_FOUND")
        assert why in error.value.message
    # Its readiness, over both protocols; the server is ready, and so is the other one.
    assert [server.get(path).status for path in ("/v2/health/ready", "/v2/models/good/ready")] == [200, 200]
    ready = server.get("/v2/models/broken/ready")
    assert ready.status == 503
    assert why in ready.json["error"]
    with grpc.insecure_channel(server.record("gRPC is ready")["address"]) as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            pb.ModelReadyRequest.SerializeToString,
            pb.ModelReadyResponse.FromString,
        )
        assert [ask(pb.ModelReadyRequest(name=name), timeout=30).ready for name in ("good", "broken")] == [True, False]
    # The index, the metrics, and one line in the log.
    index = {entry["name"]: entry for entry in server.post("/v2/repository/index", {}).json}
    assert (index["good"]["state"], index["broken"]["state"]) == ("READY", "UNAVAILABLE")
    assert why in index["broken"]["reason"]
    metrics = server.get("/metrics").body.decode()
    assert 'inference_model_ready{model="good"} 1.0' in metrics
    assert 'inference_model_ready{model="broken"} 0.0' in metrics
    told = [record for record in server.records if record["message"] == "a model can't be served, the others are"]
    assert [record["model"] for record in told] == ["broken"]
    assert why in "".join(told[0]["faults"])


@pytest.mark.process
@pytest.mark.parametrize("breaks", [not_onnx, bad_yaml, one_bad_version])
@pytest.mark.parametrize("how", ["option", "setting", "watched", "alone"])
def test_to_be_strict_or_where_there_is_no_other_it_ends(
    tmp_path: Path, save_model: Callable[..., None], breaks: Callable[[Path], str], how: str
) -> None:
    if how != "alone":
        good(tmp_path, save_model)
    why = breaks(tmp_path / "broken")
    command = [str(BIN / "podpair-inference"), "serve", "--models", str(tmp_path), "--port", "0"]
    environment = dict(os.environ)
    if how == "option":
        command.append("--exit-on-error")
    elif how != "alone":
        environment["PODPAIR_MODELS__EXIT_ON_ERROR"] = "true"
    if how == "watched":
        environment["PODPAIR_MODELS__WATCH"] = "true"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode in (1, 2)
    assert why in done.stderr


def test_what_is_mended_is_served_then(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any]
) -> None:
    good(tmp_path, save_model)
    bad_code(tmp_path / "broken")
    watching = {"PODPAIR_MODELS__WATCH": "true", "PODPAIR_MODELS__POLL_SECONDS": "0.05"}
    server = start(tmp_path, **watching)
    assert server.get("/v2/models/broken/ready").status == 503
    good(tmp_path, save_model, "mended")
    (tmp_path / "broken/1/model.py").write_text("class M:\n    def predict(self, batch):\n        return list(batch)\n")
    loaded = [server.record("model loaded")]
    while len(loaded) < 2 or server.get("/v2/models/broken/ready").status != 200:
        assert server.process.poll() is None
        loaded = [r for r in server.records if r["message"] == "model loaded" and "versions" in r]
    assert infer(server, "mended", {"x": -ONE}, "binary")["y"].tolist() == [[1, 1]]
    assert 'inference_model_ready{model="broken"} 1.0' in server.get("/metrics").body.decode()
    # Without watching it is loaded when it is asked for.
    bad_yaml(tmp_path / "later")
    unwatched = start(tmp_path)
    assert unwatched.post("/v2/repository/models/later/load", {}).status == 400
    (tmp_path / "later/model.yaml").write_text("")
    (tmp_path / "later/1/model.onnx").write_bytes((tmp_path / "good/1/model.onnx").read_bytes())
    assert unwatched.post("/v2/repository/models/later/load", {}).status == 200
    assert unwatched.get("/v2/models/later/ready").status == 200


def test_weights_for_a_broken_model_are_no_fault_of_the_others(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any]
) -> None:
    good(tmp_path, save_model)
    bad_code(tmp_path / "broken")
    server = start(tmp_path, PODPAIR_MODELS__WEIGHTS=json.dumps({"broken": {"1": 1}, "good": {"1": 1}}))
    assert server.get("/v2/models/good/ready").status == 200


# Warm-up.


def multiples_of(save_model: Callable[..., None], path: Path, multiple: int, config: Any = None) -> None:
    """A model that takes nothing but multiples of some size, as detectors of images do."""
    shape = np.array([0, -1, multiple], np.int64)
    save_model(
        path / "1",
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (F32, ["n", "samples"])},
        {"y": (F32, ["n", "frames", multiple])},
        {"shape": shape},
        config,
    )


@pytest.mark.parametrize(("multiple", "warmed"), [(32, True), (256, True), (512, True), (640, False)])
def test_a_model_that_needs_a_size_is_warmed_up_with_it_or_served_with_a_warning(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any], multiple: int, warmed: bool
) -> None:
    multiples_of(save_model, tmp_path / "m", multiple)
    server = start(tmp_path)
    told = [record["message"] for record in server.records]
    assert ("model warmed up" in told) == warmed
    warnings = [text for text in told if "the warm-up with zeros failed" in text]
    assert len(warnings) == (0 if warmed else 1)
    for way in WAYS:
        found = infer(server, "m", {"x": np.ones((1, 2 * multiple), np.float32)}, way)
        assert found["y"].shape == (1, 2, multiple)
    if not warmed:
        # As a new user would: what the warning says, with the size that it takes.
        assert "warmup: {sizes: [640]}" in warnings[0]
        (tmp_path / "m/model.yaml").write_text("warmup: {sizes: [640]}")
        again = start(tmp_path)
        assert "model warmed up" in [record["message"] for record in again.records]


@pytest.mark.parametrize("read", ["prompt(text)", "float(text)", "json.loads(text)"])
def test_text_is_warmed_up_with_what_models_of_text_take(tmp_path: Path, start: Callable[..., Any], read: str) -> None:
    folder = tmp_path / "m/1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(f"""
import json

def prompt(text):
    if not text:
        raise ValueError("there is nothing to go on from")
    return text

class Reader:
    def predict(self, batch):
        return [{read} for text in batch]
""")
    told = [record["message"] for record in start(tmp_path).records]
    assert "model warmed up" in told
    assert not [text for text in told if "failed" in text]


def test_a_warm_up_that_is_asked_for_has_to_succeed(tmp_path: Path, save_model: Callable[..., None]) -> None:
    multiples_of(save_model, tmp_path / "asked", 640, {"warmup": {"rows": [1, 4]}})
    multiples_of(save_model, tmp_path / "sized", 640, {"warmup": {"rows": [1, 4], "sizes": [320, 640]}})
    multiples_of(save_model, tmp_path / "left", 640, {"warmup": {"rows": []}})
    found = CliRunner().invoke(main, ["validate", str(tmp_path)])
    served = [line.split("/")[0] for line in found.stdout.splitlines() if not line.startswith(" ")]
    assert served == ["left", "sized"]
    assert "asked/1: the warm-up with zeros failed" in found.stderr
    assert "1, 32, 256, 512" in found.stderr


def test_bench_finds_a_size_or_says_how_to_give_rows(tmp_path: Path, save_model: Callable[..., None]) -> None:
    options = ["--threads", "1", "--rounds", "1", "--seconds", "0.001", "--max-items", "1"]
    multiples_of(save_model, tmp_path / "m", 256)
    assert CliRunner().invoke(main, ["tune", str(tmp_path / "m"), *options]).exit_code == 0
    multiples_of(save_model, tmp_path / "odd", 7)
    found = CliRunner().invoke(main, ["tune", str(tmp_path / "odd"), *options])
    assert found.exit_code == 1
    assert "--request" in found.stderr


def test_a_model_whose_values_matter_is_served_too(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any]
) -> None:
    """Zeros are no rate that it knows: whatever size is tried, it refuses."""
    nodes = [
        helper.make_node("Sub", ["rate", "one"], ["place"]),
        helper.make_node("Gather", ["table", "place"], ["gain"]),
        helper.make_node("Mul", ["x", "gain"], ["y"]),
    ]
    constants = {"one": np.array(16000, np.int64), "table": np.array([2], np.float32)}
    inputs = {"x": (F32, ["n", "t"]), "rate": (TensorProto.INT64, [])}
    save_model(tmp_path / "m/1", nodes, inputs, {"y": (F32, ["n", "t"])}, constants)
    server = start(tmp_path)
    for way in WAYS:
        assert infer(server, "m", {"x": ONE, "rate": np.array([16000])}, way)["y"].tolist() == [[2, 2]]
