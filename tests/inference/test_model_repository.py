"""What a model repository may hold, and what is said about one that doesn't hold it."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from podpair.common.faults import FaultsError
from podpair.inference.core.model_config import ModelConfig, RuntimeConfig
from podpair.inference.core.postprocess import softmax
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import DATATYPES, TensorSpec
from podpair.inference.runtime.cpu import available_cores, layout
from podpair.inference.runtime.onnx import OnnxRuntime
from podpair.inference.runtime.repository import ModelRepository, read_repository, survey

LOGITS = (TensorSpec("logits", "FP32", (-1, 3)),)
PIXELS = (TensorSpec("pixels", "FP32", (-1, 4)),)


def folder(repository: Path, yaml: str | None, name: str = "m") -> Path:
    """A model that is never loaded."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"")
    if yaml is not None:
        (repository / name / "model.yaml").write_text(yaml)
    return repository


def faults(repository: Path) -> list[str]:
    with pytest.raises(FaultsError) as error:
        read_repository(repository)
    return error.value.faults


@pytest.mark.parametrize("yaml", [None, "", "description: nothing else"])
def test_everything_has_a_default(tmp_path: Path, yaml: str | None) -> None:
    (model,) = read_repository(folder(tmp_path, yaml))
    assert (model.name, list(model.versions)) == ("m", [1])
    assert model.config.batching.queue_size == 4096


def test_versions_are_numbers_in_numeric_order(tmp_path: Path) -> None:
    for version in ("10", "9", "2"):
        (tmp_path / "m" / version).mkdir(parents=True)
        (tmp_path / "m" / version / "model.onnx").write_bytes(b"")
    (tmp_path / "m/notes").mkdir()
    (tmp_path / ".git").mkdir()
    (model,) = read_repository(tmp_path)
    assert list(model.versions) == [2, 9, 10]


def test_all_faults_of_all_models_come_at_once_with_file_field_and_remedy(tmp_path: Path) -> None:
    folder(
        tmp_path,
        """
        discription: a typo
        inputs: [{name: x, datatype: FLOAT, shape: [-2, 64]}]
        batching: {max_items: 0, max_delay: 3}
        postprocess:
          - {op: softmx, input: logits, output: p}
          - {op: argmax, input: logits, output: l, labels: [a], labels_file: b}
        """,
        "one",
    )
    (tmp_path / "two").mkdir()
    lines = faults(tmp_path)
    text = "\n".join(lines)
    for expected in (
        "one/model.yaml: discription: no such setting; did you mean description?",
        "inputs.0.datatype: no V2 datatype; use one of BOOL",
        "inputs.0.shape.0: input should be greater than or equal to -1 (it is -2)",
        "batching.max_items: input should be greater than 0 (it is 0)",
        "batching.max_delay: no such setting; did you mean max_delay_ms?",
        "postprocess.0: input tag 'softmx'",
        "postprocess.1: give labels or labels_file, not both",
        "two: no version in it; put the model at",
    ):
        assert expected in text, text
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("yaml", "complaint"),
    [
        ("[1, 2]", "a mapping is needed"),
        ("a: [", "not YAML"),
        ("postprocess: [{op: argmax, input: a, output: b, labels_file: none.txt}]", "labels_file: can't be read"),
    ],
)
def test_a_model_yaml_that_cannot_be_read(tmp_path: Path, yaml: str, complaint: str) -> None:
    (line,) = faults(folder(tmp_path, yaml))
    assert complaint in line


def test_a_repository_without_models(tmp_path: Path) -> None:
    assert "no such folder" in faults(tmp_path / "nowhere")[0]
    assert "no model in it" in faults(tmp_path)[0]


def test_a_folder_that_may_not_be_read_is_a_fault_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, None)
    # An ext4 volume has this one, which only root may read.
    (tmp_path / "lost+found").mkdir()
    closed = tmp_path / "closed"
    closed.mkdir()
    iterdir = Path.iterdir

    def refuse(path: Path) -> Any:
        if path == closed or path.name == "lost+found":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    source = ModelRepository(tmp_path)
    found, wrong = survey(source, exit_on_error=False)
    assert ([each.name for each in found], wrong) == (
        ["m"],
        {"closed": [f"{closed}: it can't be read: Permission denied"]},
    )
    assert source.neighbours().models == {"m": [1], "closed": []}


def test_labels_may_come_from_a_file_beside_the_model(tmp_path: Path) -> None:
    folder(tmp_path, "postprocess: [{op: argmax, input: logits, output: label, labels_file: labels.txt}]")
    (tmp_path / "m/labels.txt").write_text("cat\ndog\n\nélan\n")
    (model,) = read_repository(tmp_path)
    signature = Signature(model.config, PIXELS, LOGITS, "m")
    scores = np.array([[0, 1, 2], [3, 1, 2]], np.float32)
    assert [label.decode() for label in signature.postprocess([scores])[0]] == ["élan", "cat"]


def signature(**config: Any) -> Signature:
    return Signature(ModelConfig.model_validate(config), PIXELS, LOGITS, "model.yaml")


def test_softmax_and_argmax_replace_the_output_that_they_consume() -> None:
    sut = signature(
        postprocess=[
            {"op": "softmax", "input": "logits", "output": "p"},
            {"op": "argmax", "input": "logits", "output": "i"},
        ]
    )
    assert [(s.name, s.datatype, s.shape) for s in sut.outputs] == [("p", "FP32", (-1, 3)), ("i", "INT64", (-1,))]
    probabilities, index = sut.postprocess([np.array([[1e4, 0, 0], [0, 0, 0]], np.float32)])
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert probabilities.dtype == np.float32
    assert index.tolist() == [0, 0]


@pytest.mark.parametrize(("datatype", "scores"), [("FP16", 70_000), ("FP16", 3), ("FP32", 70_000), ("FP64", 3)])
def test_softmax_sums_up_in_single_precision_at_least(datatype: str, scores: int) -> None:
    """70,000 equal scores in half precision add up to infinity, and every probability would be 0."""
    dtype = DATATYPES[datatype]
    logits = np.full((2, scores), 60_000, dtype)
    logits[1, 0] = -60_000
    with np.errstate(all="raise", under="ignore"):
        found = softmax(logits)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[0], 1 / scores, rtol=2e-2)
    np.testing.assert_allclose(found[1, 1:], 1 / (scores - 1), rtol=2e-2)
    assert found[1, 0] == 0


def test_an_output_that_is_named_is_served_even_if_it_was_consumed() -> None:
    sut = signature(
        postprocess=[{"op": "softmax", "input": "logits", "output": "p"}],
        outputs=[{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    )
    assert [spec.name for spec in sut.outputs] == ["logits"]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"inputs": [{"name": "pixel", "datatype": "FP32", "shape": [-1, 4]}]}, "inputs.pixel: the model has no such"),
        (
            {"inputs": [{"name": "pixels", "datatype": "FP64", "shape": [-1, 4]}]},
            "datatype FP64, but the model has FP32",
        ),
        ({"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 5]}]}, r"shape \[-1, 5\], but the model has"),
        (
            {"outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, 3]}]},
            "outputs: no output 'p'; there are logits",
        ),
        ({"outputs": [{"name": "logits", "datatype": "FP16", "shape": [-1, 3]}]}, "outputs.logits: datatype FP16"),
        ({"postprocess": [{"op": "softmax", "input": "scores", "output": "p"}]}, "no output 'scores'"),
        ({"postprocess": [{"op": "softmax", "input": "logits", "output": "logits"}]}, "there is an output 'logits'"),
        ({"postprocess": [{"op": "argmax", "input": "logits", "output": "l", "labels": ["a"]}]}, "1 labels for 3"),
        (
            {"postprocess": [{"op": "argmax", "input": "logits", "output": "l", "labels": ["a", "", "c"]}]},
            "a label is empty",
        ),
    ],
)
def test_a_model_yaml_that_contradicts_the_model(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FaultsError, match=complaint):
        signature(**config)


def test_a_model_that_onnx_runtime_cannot_load(tmp_path: Path, save_model: Callable[..., None]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(FaultsError, match="ONNX Runtime can't load it"):
        OnnxRuntime(tmp_path / "model.onnx", RuntimeConfig())
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    types = {"x": (onnx.TensorProto.COMPLEX64, [1])}, {"y": (onnx.TensorProto.COMPLEX64, [1])}
    save_model(tmp_path / "m/1", [node], *types)
    with pytest.raises(FaultsError, match=r"tensor\(complex64\) is not currently registered"):
        OnnxRuntime(tmp_path / "m/1/model.onnx", RuntimeConfig())
    with pytest.raises(FaultsError, match=r"none of runtime\.providers"):
        OnnxRuntime(tmp_path / "m/1/model.onnx", RuntimeConfig(providers=("NoSuchProvider",)))


def test_about_four_fifths_of_the_cores_compute_and_a_pod_s_limit_counts(tmp_path: Path) -> None:
    assert [layout(cores, 1, None) for cores in (0.5, 1, 2, 4, 10, 64)] == [(1, n) for n in (1, 1, 2, 3, 8, 51)]
    assert layout(10, 4, None) == (4, 2)
    # Where nothing is said: as many runs as there are threads to compute.
    assert layout(10, None, None) == (8, 1)
    assert layout(10, None, 4) == (2, 4)
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert available_cores(quota) == 0.5
    quota.write_text("max 100000\n")
    assert available_cores(quota) == available_cores(tmp_path / "missing") >= 1
