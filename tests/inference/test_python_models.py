"""Python classes as a client and their author see them: served by the real process, and their faults."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podpair.common.faults import FaultsError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.runtime.loader import load_runtime
from podpair.inference.runtime.repository import ModelFolder, ModelRepository
from podpair.inference.runtime.user_code import UserCodeError

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[2] / "examples/python"

# As in the docs, line for line.
SENTIMENT = """
class Sentiment:
    def load(self):
        self.good = {"good", "great"}

    def predict(self, batch):
        return ["good" if self.good & set(text.split()) else "bad" for text in batch]

    async def stream(self, request):
        for word in request.split():
            yield word
"""

ZOO = {
    "shout": """
import asyncio

class Shout:
    async def load(self):
        self.loop = asyncio.get_running_loop()

    async def predict(self, batch):
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is self.loop
        return [text.upper() for text in batch]
""",
    "scale": """
class Scale:
    def predict(self, batch, parameters):
        return [row * p.get("factor", 2) for row, p in zip(batch, parameters)]
""",
    "both": """
import numpy as np

class Both:
    def predict(self, batch):
        assert [row["count"] for row in batch] == batch["count"].tolist()
        return [{"text": row["name"] * int(row["count"]), "size": len(row["name"])} for row in batch]
""",
    "picky": """
from podpair.inference import InvalidRequestError, UnavailableError

class Picky:
    def predict(self, batch):
        if len(batch) > 1:
            raise RuntimeError("together")
        text = batch[0]
        if text == "short":
            return []
        if text == "refused":
            raise InvalidRequestError("not this one")
        if text == "away":
            raise UnavailableError("the database is away")
        if text == "exit":
            raise SystemExit(3)
        return [{}["missing"] if text == "key" else {"text": text}]
""",
    "helped": """
import helpers

class Helped:
    def predict(self, batch):
        return [helpers.NAME for _ in batch]
""",
}
CONFIGS = {
    "scale": {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    },
    "both": {
        "inputs": [
            {"name": "name", "datatype": "BYTES", "shape": [-1]},
            {"name": "count", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "size", "datatype": "INT32", "shape": [-1]},
        ],
    },
    "picky": {"warmup": {"rows": []}},
}


def write(repository: Path, name: str, code: str, config: Any = None, version: int = 1) -> Path:
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(code)
    if config:
        (repository / name / "model.yaml").write_text(json.dumps(config))
    return folder / "model.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any], process: bool) -> Iterator[Any]:
    """The zoo of classes, served."""
    repository = tmp_path_factory.mktemp("classes")
    for name, code in ZOO.items():
        write(repository, name, code, CONFIGS.get(name, {}) | {"runtime": {"process": process}})
    (repository / "helped/1/helpers.py").write_text("NAME = 'one'")
    write(repository, "helped", ZOO["helped"], version=2)
    (repository / "helped/2/helpers.py").write_text("NAME = 'two'")
    with serve(repository) as server:
        yield server


def ask(server: Any, model: str, *texts: str, **more: Any) -> Any:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}
    return server.post(f"/v2/models/{model}/infer", {"inputs": [tensor], **more})


def answers(server: Any, model: str, *texts: str) -> Any:
    return ask(server, model, *texts).json["outputs"][0]["data"]


def test_a_class_in_a_file_is_served_by_its_name(tmp_path: Path, serve: Callable[..., Any], process: bool) -> None:
    (tmp_path / "model.py").write_text(SENTIMENT)
    (tmp_path / "model.yaml").write_text(json.dumps({"runtime": {"process": process}}))
    with serve(None, "--model", "model:Sentiment", "--model", "mood=model:Sentiment", cwd=tmp_path) as server:
        assert answers(server, "sentiment", "a great day", "hm") == ["good", "bad"]
        assert answers(server, "mood", "good") == ["good"]
        document = server.get("/v2/models/sentiment").json
    assert document["platform"] == "python"
    assert document["inputs"] == [{"name": "input", "datatype": "BYTES", "shape": [-1]}]
    assert document["outputs"] == [{"name": "output", "datatype": "BYTES", "shape": [-1]}]


def test_the_example_is_answered(serve: Callable[..., Any]) -> None:
    with serve(None, "--model", "sentiment:Sentiment", cwd=EXAMPLES) as server:
        kind, unkind = map(json.loads, answers(server, "sentiment", "What a lovely day!", "this is awful"))
    assert (kind["label"], unkind["label"]) == ("kind", "unkind")


def test_async_methods_share_a_loop(python: Any) -> None:
    assert answers(python, "shout", "a", "b") == ["A", "B"]


def test_a_tensor_of_numbers_is_an_array_and_parameters_are_each_request_s_own(python: Any) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
    plain = python.post("/v2/models/scale/infer", {"inputs": [tensor]}).json["outputs"][0]
    scaled = python.post("/v2/models/scale/infer", {"inputs": [tensor], "parameters": {"factor": 10}}).json
    assert (plain["datatype"], plain["shape"], plain["data"]) == ("FP32", [2, 2], [2, 4, 6, 8])
    assert scaled["outputs"][0]["data"] == [10, 20, 30, 40]


def test_several_inputs_and_outputs_go_by_name(python: Any) -> None:
    name = {"name": "name", "datatype": "BYTES", "shape": [2], "data": ["é", "ab"]}
    count = {"name": "count", "datatype": "INT64", "shape": [2], "data": [3, 1]}
    outputs = python.post("/v2/models/both/infer", {"inputs": [count, name]}).json["outputs"]
    assert [(o["name"], o["datatype"], o["data"]) for o in outputs] == [
        ("text", "BYTES", ["ééé", "ab"]),
        ("size", "INT32", [1, 2]),
    ]


def test_each_version_has_the_modules_beside_it(python: Any) -> None:
    assert answers(python, "helped", "x") == ["two"]
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x"]}
    one = python.post("/v2/models/helped/versions/1/infer", {"inputs": [tensor]}).json
    assert one["outputs"][0]["data"] == ["one"]


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("away", 503, "the database is away"),
        ("key", 500, "model picky failed: KeyError: 'missing' (model.py:17, in predict)"),
        ("short", 500, "model picky failed: predict returned 0 answers for 1 requests (model.py:5)"),
        ("exit", 500, "model picky failed: SystemExit: 3 (model.py:16, in predict)"),
        ("refused", 400, "not this one"),
    ],
)
def test_a_failure_names_the_line_in_the_user_s_file(python: Any, text: str, status: int, message: str) -> None:
    answer = ask(python, "picky", text)
    assert (answer.status, answer.json["error"]) == (status, message)


def test_a_batch_that_fails_fails_only_what_must(python: Any) -> None:
    texts = ["fine", "key", "short", "refused", "good"] * 4
    with ThreadPoolExecutor(len(texts)) as threads:
        found = list(threads.map(lambda text: ask(python, "picky", text).status, texts))
    assert found == [200, 500, 500, 400, 200] * 4


def test_text_that_is_not_utf_8_is_refused_by_name(python: Any) -> None:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    answer = python.post("/v2/models/shout/infer", header + b"\1\0\0\0\xff", headers)
    assert (answer.status, answer.json["error"]) == (
        400,
        "input 'input': an element isn't UTF-8; a class gets bytes with text: false in its model.yaml's inputs",
    )


@pytest.fixture
def runtime(tmp_path: Path, process: bool) -> Iterator[Callable[..., Any]]:
    """The runtime of a class, in a process of its own or in this one."""
    loaded = []

    def load(code: str, config: Any = None) -> Any:
        file = tmp_path / "model.py"
        file.write_text(code)
        given = ModelConfig.model_validate({**(config or {}), "runtime": {"process": process}})
        loaded.append(load_runtime(ModelFolder("test", tmp_path, given, {1: file}), 1))
        return loaded[-1]

    yield load
    for found in loaded:
        found.close()


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("x = 1\nimport nothing_such", "model.py:2: ModuleNotFoundError: No module named 'nothing_such'"),
        ("x = 1\nclass A:\n  def predict(self, batch)\n", "model.py:3: SyntaxError"),
        (
            "class A:\n  def load(self): raise OSError('no weights')\n  def predict(self, b): ...",
            "model.py:2: OSError: no",
        ),
        ("class A:\n  def __init__(self, x): ...\n  def predict(self, b): ...", "TypeError"),
        ("class A: pass", "no class in it has a predict"),
        ("class A:\n  def predict(self, b): ...\nclass B(A): pass", "which of A, B? say `class: …` in model.yaml"),
        ("class A:\n  async def stream(self, request): return 1", "async but never yields"),
    ],
)
def test_a_class_that_cannot_be_loaded(tmp_path: Path, runtime: Callable[..., Any], code: str, complaint: str) -> None:
    with pytest.raises(FaultsError) as error:
        runtime(code)
    (line,) = error.value.faults
    assert line.startswith(str(tmp_path))
    assert complaint in line


ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}


@pytest.fixture
def predicting(runtime: Callable[..., Any]) -> Callable[..., Any]:
    """What `predict` returning an expression for two rows becomes."""

    def predict(expression: str, outputs: Any = None) -> Any:
        code = f"import numpy as np\nclass A:\n    def predict(self, batch):\n        return {expression}\n"
        sut = runtime(code, ONE | ({"outputs": outputs} if outputs else {}))
        return sut.run([np.array([[1, 2], [3, 4]], np.float32)])[0]

    return predict


def test_answers_that_are_no_text_become_json(predicting: Callable[..., Any]) -> None:
    found = predicting('[{"a": batch[0], "b": np.float32(1)}, None]')
    assert found.tolist() == [b'{"a":[1.0,2.0],"b":1.0}', b"null"]


FP32 = [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
INT64 = [{"name": "n", "datatype": "INT64", "shape": [-1]}]


@pytest.mark.parametrize(
    "expression", ["batch * 2", "[row * 2 for row in batch]", "(list(2 * r) for r in batch)", '{"y": batch * 2}']
)
def test_answers_may_be_an_array_or_lists_or_columns(predicting: Callable[..., Any], expression: str) -> None:
    found = predicting(expression, FP32)
    assert found.dtype == np.float32
    assert found.tolist() == [[2, 4], [6, 8]]


@pytest.mark.parametrize(
    ("expression", "outputs", "complaint"),
    [
        ("[1]", None, "predict returned 1 answers for 2 requests (model.py:3)"),
        ("None", None, "predict returned None; it returns a list, one answer for each of the 2 requests"),
        ("'ab'", None, "predict returned a str"),
        ("{'z': [1, 2]}", FP32, "predict returned a dict of z; the model's outputs are y"),
        ("[[1], [2]]", FP32, "predict returned 'y' of shape [1] for a request; declared is [2]"),
        ("[[1, 2], [3]]", FP32, "predict returned 'y' that is no FP32 [-1, 2]"),
        ("[1.5, 2.5]", INT64, "predict returned 'n' that is no INT64 [-1]"),
        ("[object(), 1]", None, "neither text nor JSON"),
        ("[{'y': 1}, {}]", FP32 + INT64, "answered a request with a dict of y; an answer is a dict of y, n"),
        ("[1, ValueError('too long')]", None, "ValueError: too long (model.py:3)"),
    ],
)
def test_answers_that_cannot_be_right(
    predicting: Callable[..., Any], expression: str, outputs: Any, complaint: str
) -> None:
    with pytest.raises(UserCodeError) as error:
        predicting(expression, outputs)
    assert complaint in str(error.value)


def test_bytes_that_are_no_text_are_declared_so(runtime: Callable[..., Any]) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [-1], "text": False}
    sut = runtime("class A:\n  def predict(self, b): return [x[::-1] for x in b]", {"inputs": [tensor]})
    array = np.empty(1, object)
    array[:] = [b"\xff\1"]
    assert sut.run([array])[0].tolist() == [b"\1\xff"]


def test_without_rows_a_batch_is_the_one_tensor(runtime: Callable[..., Any]) -> None:
    config = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2]}],
    }
    sut = runtime("class A:\n  def predict(self, batch): return [x.sum(axis=0) for x in batch]", config)
    assert sut.run([np.ones((2, 2), np.float32)])[0].tolist() == [2, 2]


@pytest.mark.parametrize("kind", ["", "async "])
async def test_a_stream_that_nobody_reads_any_more_ends_and_cleans_up(runtime: Callable[..., Any], kind: str) -> None:
    code = f"""
import threading
class A:
    def __init__(self):
        A.made, A.ended = 0, threading.Event()
    def predict(self, batch):
        assert A.ended.wait(20)
        return [A.made]
    {kind}def stream(self, request):
        try:
            while True:
                A.made += 1
                yield A.made
        finally:
            A.ended.set()
"""
    sut = runtime(code)
    array = np.empty(1, object)
    array[:] = [b"x"]
    parts = sut.stream([array], {})
    assert [(await anext(parts))[0].tolist() for _ in range(3)] == [[b"1"], [b"2"], [b"3"]]
    await parts.aclose()
    (made,) = sut.run([array])[0].tolist()
    # Three were read, and at most a window's worth more was made.
    assert int(made) <= 3 + 16 + 1


@pytest.mark.parametrize(
    ("references", "complaint"),
    [
        (["nothing_such:A"], "no module 'nothing_such' in"),
        (["nothing_such"], "it is [name=]module:Class"),
        (["json:decoder", "decoder=json:tool"], "there are two models 'decoder'"),
    ],
)
def test_a_reference_that_leads_nowhere(references: list[str], complaint: str) -> None:
    with pytest.raises(FaultsError) as error:
        ModelRepository(None, references).read()
    assert complaint in "\n".join(error.value.faults)
