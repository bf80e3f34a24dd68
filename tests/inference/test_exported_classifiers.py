"""Classifiers as exporters write them: ZipMap's sequences of maps, and LightGBM's labels that are declared [1]."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn, to_onnx
from skl2onnx.common.data_types import DictionaryType, FloatTensorType, StringTensorType
from sklearn.datasets import load_iris
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from harness import environments
from harness.processes import output_of
from harness.v2 import WAYS, infer
from podpair.common.faults import FaultsError
from podpair.inference.core.errors import ModelError
from podpair.inference.core.maps import MapColumns
from podpair.inference.core.model_config import RuntimeConfig
from podpair.inference.runtime.onnx import OnnxRuntime

HERE = Path(__file__).parent
X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])
DOCUMENTS = np.array(["hello big world", "goodbye small world", "hello again you", "goodbye once more"] * 3)


def write(repository: Path, name: str, model: Any) -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """skl2onnx's classifiers, with its defaults."""
    path = tmp_path_factory.mktemp("classifiers")
    write(path, "numbers", to_onnx(LogisticRegression(max_iter=500).fit(X, Y), X[:1]))
    write(path, "names", to_onnx(DecisionTreeClassifier(max_depth=3).fit(X, NAMES[Y]), X[:1]))
    return path


@pytest.fixture(scope="module")
def server(repository: Path, serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(repository) as running:
        yield running


def plain(repository: Path, model: str, rows: np.ndarray) -> tuple[np.ndarray, list[dict[Any, float]]]:
    session = onnxruntime.InferenceSession(repository / model / "1/model.onnx")
    label, maps = session.run(None, {session.get_inputs()[0].name: rows})
    return label, maps


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["numbers", "names"])
def test_a_map_becomes_scores_and_a_column_of_labels(server: Any, repository: Path, model: str, way: str) -> None:
    label, maps = plain(repository, model, X[::30])
    found = infer(server, model, {"X": X[::30]}, way)
    assert list(found) == ["output_label", "output_probability", "output_probability_labels"]
    keys = [key.encode() if isinstance(key, str) else key for key in maps[0]]
    assert found["output_label"].tolist() == [v.encode() if isinstance(v, str) else v for v in label.tolist()]
    assert found["output_probability"].dtype == np.float32
    assert found["output_probability"].tolist() == [list(np.array(list(m.values()), np.float32)) for m in maps]
    assert found["output_probability_labels"].tolist() == [keys] * len(maps)


def test_its_metadata_says_so(server: Any) -> None:
    outputs = server.get("/v2/models/names").json["outputs"]
    assert [(o["name"], o["datatype"], o["shape"]) for o in outputs] == [
        ("output_label", "BYTES", [-1]),
        ("output_probability", "FP32", [-1, 3]),
        ("output_probability_labels", "BYTES", [-1, 3]),
    ]
    assert server.get("/v2/models/names/config").json["max_batch_size"] > 1


def test_rows_of_many_clients_get_their_own_scores(server: Any, repository: Path) -> None:
    _, maps = plain(repository, "numbers", X)

    def ask(i: int) -> list[float]:
        return infer(server, "numbers", {"X": X[i : i + 1]}, WAYS[i % 2], outputs=["output_probability"])[
            "output_probability"
        ].tolist()[0]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(len(X))))
    np.testing.assert_allclose(found, [list(m.values()) for m in maps], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_the_keys_are_the_labels_of_its_classes(server: Any, repository: Path, way: str) -> None:
    for model in ("numbers", "names"):
        _, maps = plain(repository, model, X[60:61])
        key, score = max(maps[0].items(), key=lambda item: item[1])
        found = infer(server, model, {"X": X[60:61]}, way, outputs=[("output_probability", {"classification": 1})])
        assert found["output_probability"].tolist() == [[f"{score:f}:{list(maps[0]).index(key)}:{key}".encode()]]


@pytest.mark.parametrize("way", WAYS)
def test_no_rows_get_no_scores_for_as_many_classes(server: Any, way: str) -> None:
    found = infer(server, "names", {"X": X[:0]}, way)
    assert {name: array.shape for name, array in found.items()} == {
        "output_label": (0,),
        "output_probability": (0, 3),
        "output_probability_labels": (0, 3),
    }


@pytest.mark.timeout(600)  # the environment is made where there is none yet
@pytest.mark.parametrize("way", WAYS)
def test_lightgbm_answers_a_label_for_each_row_whatever_it_declares(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any], way: str
) -> None:
    python = environments.python(HERE / "exporters.lock")
    path = tmp_path_factory.mktemp("lightgbm")
    output_of(python, HERE / "exporters.py", path)
    rows = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    label, maps = plain(path, "lightgbm", rows)
    server = start(path)
    for model in ("lightgbm", "lightgbm_tensor"):
        assert server.get(f"/v2/models/{model}").json["outputs"][0]["shape"] == [-1]
        assert server.get(f"/v2/models/{model}/config").json["max_batch_size"] > 1
        found = infer(server, model, {"input": rows}, way)
        assert found["label"].tolist() == label.tolist()
        np.testing.assert_allclose(found["probabilities"], [list(m.values()) for m in maps], rtol=1e-6)
    assert infer(server, "lightgbm", {"input": rows}, way)["probabilities_labels"].tolist() == [[3, 5, 8]] * 7


def test_an_output_that_is_not_named_is_left_out_and_one_that_cannot_be_sent_says_what_to_write(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any]
) -> None:
    """A sequence of tensors beside a tensor: V2 has nothing for it."""
    f32 = TensorProto.FLOAT
    nodes = [helper.make_node("Abs", ["x"], ["y"]), helper.make_node("SequenceConstruct", ["x"], ["parts"])]
    save_model(tmp_path / "m/1", nodes, {"x": (f32, ["n", 2])}, {"y": (f32, ["n", 2])})
    path = tmp_path / "m/1/model.onnx"
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_sequence_value_info("parts", f32, None))
    onnx.save(model, path)
    with pytest.raises(FaultsError) as error:
        OnnxRuntime(path, RuntimeConfig())
    advice = "outputs: [{name: y, datatype: FP32, shape: [-1, 2]}]"
    assert "output parts is a seq(tensor(float)), which V2 can't send" in str(error.value)
    assert advice in str(error.value)
    # As a new user would: what the message says, written into model.yaml.
    (tmp_path / "m/model.yaml").write_text(advice)
    # A map may be left out, too.
    write(tmp_path, "label", to_onnx(LogisticRegression(max_iter=500).fit(X, Y), X[:1]))
    (tmp_path / "label/model.yaml").write_text("outputs: [{name: output_label, datatype: INT64, shape: [-1]}]")
    server = start(tmp_path)
    assert infer(server, "m", {"x": np.array([[-1, 2]], np.float32)}, "binary")["y"].tolist() == [[1, 2]]
    assert list(infer(server, "label", {"X": X[:2]}, "binary")) == ["output_label"]


def test_inputs_that_cannot_be_sent_say_what_can(tmp_path: Path, save_model: Callable[..., None]) -> None:
    rows = [{"a": 1.0, "b": 2.0}, {"a": 0.0, "b": 1.0}]
    pipeline = make_pipeline(DictVectorizer(sparse=False), LogisticRegression()).fit(rows, [0, 1])
    types = [("d", DictionaryType(StringTensorType([1]), FloatTensorType([1])))]
    write(tmp_path, "dictionary", convert_sklearn(pipeline, initial_types=types))
    f32 = TensorProto.FLOAT
    save_model(tmp_path / "sequence/1", [helper.make_node("Abs", ["x"], ["y"])], {"x": (f32, [2])}, {"y": (f32, [2])})
    model = onnx.load(tmp_path / "sequence/1/model.onnx")
    model.graph.input.append(helper.make_tensor_sequence_value_info("parts", f32, None))
    onnx.save(model, tmp_path / "sequence/1/model.onnx")
    for name, complaint in (
        ("dictionary", r"input d is a map\(string,tensor\(float\)\).*without its DictVectorizer"),
        ("sequence", r"input parts is a seq\(tensor\(float\)\).*SequenceConstruct"),
    ):
        with pytest.raises(FaultsError, match=complaint):
            OnnxRuntime(tmp_path / name / "1/model.onnx", RuntimeConfig())
    # As a new user would: the part behind it.
    write(tmp_path, "columns", convert_sklearn(pipeline[1:], initial_types=[("x", FloatTensorType([None, 2]))]))
    runtime = OnnxRuntime(tmp_path / "columns/1/model.onnx", RuntimeConfig())
    assert runtime.run([np.array([[1, 2], [0, 1]], np.float32)])[0].tolist() == pipeline.predict(rows).tolist()


def test_maps_whose_keys_differ_are_no_columns() -> None:
    columns = MapColumns("m", "seq(map(string,tensor(float)))", {"tensor(float)": "FP32"})
    values, keys = columns.arrays([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}])
    assert (values.tolist(), keys.tolist()) == ([[1, 2], [3, 4]], [["a", "b"], ["a", "b"]])
    assert [spec.shape for spec in columns.specs] == [(-1, 2), (-1, 2)]
    assert columns.arrays({"a": 1.0, "b": 0.0})[0].shape == (1, 2)
    with pytest.raises(ModelError, match="different keys"):
        columns.arrays([{"a": 1.0, "b": 2.0}, {"a": 3.0, "c": 4.0}])
    for other in ("seq(tensor(float))", "map(int64,map(string,tensor(float)))", "optional(tensor(float))"):
        with pytest.raises(ValueError, match="neither a tensor nor a map"):
            MapColumns("m", other, {"tensor(float)": "FP32"})


@pytest.fixture(scope="module")
def text_classifier() -> Any:
    """A TfidfVectorizer, which lowers text in the locale en_US.UTF-8."""
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(DOCUMENTS, [0, 1, 0, 1] * 3)
    return convert_sklearn(pipeline, initial_types=[("text", StringTensorType([None, 1]))])


@pytest.mark.parametrize("way", WAYS)
def test_text_is_vectorised_in_its_locale(
    tmp_path: Path, text_classifier: Any, start: Callable[..., Any], way: str
) -> None:
    """The image makes the locale of C.UTF-8 by a link; so does this test, in a folder of its own."""
    write(tmp_path / "models", "tfidf", text_classifier)
    locales = tmp_path / "locales"
    locales.mkdir()
    (locales / "en_US.utf8").symlink_to("/usr/lib/locale/C.utf8")
    server = start(tmp_path / "models", LOCPATH=str(locales))
    found = infer(server, "tfidf", {"text": np.array([["HELLO World"], ["goodbye ÉLAN"]], object)}, way)
    assert found["output_label"].tolist() == [0, 1]


def test_a_locale_that_is_missing_is_named_with_what_installs_it(
    tmp_path: Path, text_classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "tfidf", text_classifier)
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    with pytest.raises(FaultsError, match=r"the locale en_US\.UTF-8, which this machine lacks; .*localedef"):
        OnnxRuntime(tmp_path / "tfidf/1/model.onnx", RuntimeConfig())
