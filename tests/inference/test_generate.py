"""The generate extension: one row in plain JSON, an answer, or its parts as they come."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

MODELS = {
    "chat": """
class Chat:
    def predict(self, batch):
        return [text.upper() for text in batch]

    async def stream(self, request, parameters):
        for word in request.split()[: parameters.get("words")]:
            if word == "fail":
                raise ValueError("no more")
            yield word + " "
""",
    "streamonly": """
class StreamOnly:
    def stream(self, request):
        return iter(request)
""",
    "numbers": """
class Numbers:
    def stream(self, request):
        yield from (1, 2)
""",
    "endless": """
import asyncio, threading

class Endless:
    ended = "no"

    def predict(self, batch):
        return [self.ended for _ in batch]

    async def stream(self, request):
        try:
            yield "begun"
            await asyncio.sleep(3600)
        finally:
            self.ended = "yes"
""",
}


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any], process: bool) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("streaming")
    for name, code in MODELS.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1/model.py").write_text(code)
        runtime = {"process": process, **({"max_streams": 1} if name == "endless" else {})}
        outputs = [{"name": "y", "datatype": "INT64", "shape": [-1]}] if name == "numbers" else []
        (repository / name / "model.yaml").write_text(json.dumps({"runtime": runtime, "outputs": outputs}))
    (repository / "digits").symlink_to(Path(__file__).parents[2] / "examples/models/digits")
    with serve(repository) as server:
        yield server


INPUTS: dict[tuple[str, bool], Any] = {
    ("chat", False): {"input": "a"},
    ("chat", True): {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["a"]}]},
    ("digits", False): {"pixels": [0.0] * 64},
    ("digits", True): {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]},
}


def events(body: bytes) -> list[Any]:
    """The data of server-sent events."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def test_a_row_goes_in_and_its_answer_comes_out(streaming: Any) -> None:
    answer = streaming.post("/v2/models/chat/generate", {"id": "r-1", "input": "hello"})
    assert answer.json == {"id": "r-1", "model_name": "chat", "model_version": "1", "output": "HELLO"}


def test_text_input_and_text_output_stand_for_the_only_ones(streaming: Any) -> None:
    answer = streaming.post("/v2/models/chat/versions/1/generate", {"text_input": "hello"})
    assert answer.json["text_output"] == "HELLO"


def test_any_model_can_be_asked_so(streaming: Any) -> None:
    pixels = json.loads((Path(__file__).parents[2] / "examples/digits/request.json").read_text())["inputs"][0]["data"]
    row = pixels[0] if isinstance(pixels[0], list) else pixels
    answer = streaming.post("/v2/models/digits/generate", {"pixels": row}).json
    assert answer["label"] == "1"
    assert len(answer["probabilities"]) == 10
    (event,) = events(streaming.post("/v2/models/digits/generate_stream", {"pixels": row}).body)
    assert event == answer


def test_each_part_is_an_event(streaming: Any) -> None:
    answer = streaming.post(
        "/v2/models/chat/generate_stream", {"id": "r", "input": "a b c", "parameters": {"words": 2}}
    )
    assert answer.headers["Content-Type"] == "text/event-stream"
    common = {"id": "r", "model_name": "chat", "model_version": "1"}
    assert events(answer.body) == [{**common, "output": "a "}, {**common, "output": "b "}]


def test_a_model_that_only_streams_gives_its_texts_as_one(streaming: Any) -> None:
    assert streaming.post("/v2/models/streamonly/generate", {"input": "abc"}).json["output"] == "abc"
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["abc"]}
    answer = streaming.post("/v2/models/streamonly/infer", {"inputs": [tensor]})
    assert answer.json["outputs"][0]["data"] == ["abc"]


def ask_rows(streaming: Any, model: str, texts: list[str]) -> Any:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    return streaming.post(f"/v2/models/{model}/infer", {"inputs": [tensor]})


def test_each_row_for_a_model_that_only_streams_is_a_stream_of_its_own(streaming: Any) -> None:
    for texts in (["abc", "de", "f"], []):
        output = ask_rows(streaming, "streamonly", texts).json["outputs"][0]
        assert (output["data"], output["shape"]) == (texts, [len(texts)])
    refused = ask_rows(streaming, "streamonly", ["a"] * 65)
    assert refused.status == 413
    assert "65 rows in one request; model streamonly only streams, and has at most 64 streams" in refused.json["error"]
    metadata = streaming.get("/v2/models/streamonly").json
    assert metadata["parameters"]["rows"] == "dependent"
    statistics = streaming.get("/v2/models/streamonly/stats").json["model_stats"][0]["inference_stats"]
    assert statistics["success"]["count"] >= 2


def test_parts_that_are_no_text_are_streamed_only(streaming: Any) -> None:
    for path, body in (
        ("generate", {"input": "a"}),
        ("infer", {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}),
    ):
        refused = streaming.post(f"/v2/models/numbers/{path}", body)
        assert refused.status == 400
        assert "ask for generate_stream" in refused.json["error"]
    assert [
        part["y"] for part in events(streaming.post("/v2/models/numbers/generate_stream", {"input": "a"}).body)
    ] == [1, 2]


def test_a_failure_after_the_first_part_is_an_event_and_the_last_one(streaming: Any) -> None:
    parts = events(streaming.post("/v2/models/chat/generate_stream", {"input": "a fail b"}).body)
    assert [part.get("output") for part in parts] == ["a ", None]
    error = "model chat failed: ValueError: no more (model.py:9, in stream)"
    assert parts[1] == {"error": error, "status": 500}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a generate request"),
        (b'{"input": "a", "id": 5}', "not a generate request"),
        (b"{}", "input 'input' is missing"),
        (b'{"input": 5}', "not a list of BYTES"),
        (b'{"input": ["a", "b"]}', "shape [1, 2], the model takes [-1]"),
        (b'{"input": [["a"], []]}', "its lists differ in length"),
        (b'{"input": "a", "temperature": 1}', "no input 'temperature'; the model takes input, all else goes into"),
        (b'{"input": "fail"}', ""),
    ],
)
def test_a_failure_before_the_first_part_is_a_status(streaming: Any, body: bytes, message: str) -> None:
    answer = streaming.post("/v2/models/chat/generate_stream", body)
    assert answer.status == (400 if message else 500)
    assert message in answer.json["error"]


@pytest.mark.parametrize("path", ["infer", "generate", "generate_stream"])
@pytest.mark.parametrize("model", ["chat", "digits"])
def test_a_priority_that_is_none_is_a_status_wherever_it_is_said(streaming: Any, model: str, path: str) -> None:
    answer = streaming.post(
        f"/v2/models/{model}/{path}", INPUTS[model, path == "infer"], {"podpair-priority": "urgent"}
    )
    assert answer.status == 400
    assert "podpair-priority is 'urgent'; it is one of high, normal, low" in answer.json["error"]


def test_a_deadline_ends_a_stream(streaming: Any) -> None:
    answer = streaming.post("/v2/models/chat/generate_stream", {"input": "a"}, {"podpair-deadline": "1000"})
    assert answer.status == 504


async def test_a_client_that_goes_ends_the_stream_and_streams_are_bounded(streaming: Any) -> None:
    url = f"{streaming.url}/v2/models/endless"
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{url}/generate_stream", json={"input": "x"}) as stream:
            assert b"begun" in await stream.content.readline()
            async with http.post(f"{url}/generate_stream", json={"input": "x"}) as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
            stream.close()
        async with asyncio.timeout(20):
            while True:
                async with http.post(f"{url}/generate", json={"input": "x"}) as answer:
                    if (await answer.json())["output"] == "yes":
                        break
        async with http.post(f"{url}/generate_stream", json={"input": "x"}) as again:
            assert again.status == 200
