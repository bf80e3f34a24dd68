"""Python models that call the models beside them: what they get, what comes along, and what ends when they end."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import until
from inference.calling_models import HELD, SHOUT, answer, ask, depth, holding, write

pytestmark = pytest.mark.process

# Those that call.
CALLERS = {
    "caller": """
import asyncio
from podpair.inference import InferenceError, models

class Caller:
    async def predict(self, batch):
        # `model text` is what it calls; `catch …` answers the error's name; `many …` makes nine calls at once.
        return await asyncio.gather(*map(self.call, batch), return_exceptions=True)

    async def call(self, text):
        word, _, rest = text.partition(" ")
        if word == "catch":
            try:
                return await self.call(rest)
            except InferenceError as error:
                return f"{type(error).__name__}: {error}"
        if word == "many":
            answers = await asyncio.gather(*(models.infer_async(rest, [str(i)]) for i in range(9)))
            return [answer["output"][0] for answer in answers]
        if word == "block":
            return models.infer("shout", ["x"])
        return (await models.infer_async(word, [rest]))["output"][0]

    async def stream(self, request):
        yield "begun"
        yield await self.call(request)
""",
    "waiter": """
import base64
import numpy as np
from podpair.inference import models

GIVEN = {"list": [[1, 2], [3, 4]], "floats": np.ones((1, 2)), "texts": [["a", "b"]], "large": [[1e300, 1]]}

class Waiter:
    def predict(self, batch):
        try:
            return [getattr(self, text, self.halved)(text) for text in batch]
        except Exception as error:
            return [str(error)]

    def stream(self, request):
        yield models.infer("shout", [request])["output"][0]

    def halved(self, text):
        return models.infer("half", GIVEN[text])["y"]

    def binary(self, text):
        raw = models.infer("raw", {"input": [b"\\xff", b"a"]}, text=False)["output"]
        return [base64.b64encode(raw[0]).decode(), raw[1].decode()]

    def no_text(self, text):
        return models.infer("raw", {"input": [b"\\xff"]})["output"]

    def versions(self, text):
        given = [models.infer("versions", [text], version=v, parameters={"x": 2**70}) for v in (1, "2", None)]
        return [one["output"][0] for one in given]
""",
    "endless": """
from podpair.inference import models

class Endless:
    async def stream(self, request):
        yield (await models.infer_async("endless", request))["output"][0]
""",
}
# Those that are called, in the server's process.
CALLED = {
    "shout": SHOUT,
    "half": """
class Half:
    def predict(self, batch):
        return batch / 2
""",
    "raw": """
class Raw:
    def predict(self, batch):
        return batch
""",
    "versions": """
class Versions:
    def predict(self, batch, parameters):
        return [[VERSION, p.get("x")] for p in parameters]
""",
    "held": HELD,
    "one_by_one": HELD,
    "full": HELD,
}
CONFIGS: dict[str, Any] = {
    "half": {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    },
    "raw": {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [-1], "text": False}]},
    "held": {"batching": {"max_items": 64}},
    "one_by_one": {"batching": {"max_items": 1}},
    "full": {"batching": {"max_items": 1, "queue_size": 1}},
    "caller": {"warmup": {"rows": []}},
    "waiter": {"warmup": {"rows": []}},
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, process: bool) -> Path:
    repository = tmp_path_factory.mktemp("models")
    write(repository, CALLED, CONFIGS, process=False)
    return write(repository, CALLERS, CONFIGS, process=process)


@pytest.fixture(scope="module")
def server(zoo: Path, serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(zoo) as server:
        yield server


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_async_and_sync_methods_call_and_streams_do(server: Any) -> None:
    assert answer(server, "caller", "shout hello") == "HELLO"
    for model, text in (("caller", "shout hello"), ("waiter", "hello")):
        events = server.post(f"/v2/models/{model}/generate_stream", {"input": text}).body.decode()
        assert '"output":"HELLO"' in events


def test_calls_share_runs_with_each_other_and_with_clients(server: Any, zoo: Path, threads: ThreadPoolExecutor) -> None:
    with holding(server, zoo, "held", threads):
        calls, client = threads.submit(answer, server, "caller", "many held"), threads.submit(ask, server, "held", "x")
        until(lambda: depth(server, "held") == 10)
    runs = [json.loads(one) for one in calls.result(20)]
    assert len(runs) == 9
    assert {tuple(run) for run in runs} == {tuple(json.loads(client.result(20).json["outputs"][0]["data"][0]))}
    assert runs[0][1] == 10


def test_numbers_become_the_called_model_s(server: Any) -> None:
    assert answer(server, "waiter", "list") == [[0.5, 1.0], [1.5, 2.0]]
    assert answer(server, "waiter", "floats") == [[0.5, 0.5]]
    assert answer(server, "waiter", "texts") == "input 'x': datatype BYTES, the model takes FP32"
    assert "too large for FP32" in answer(server, "waiter", "large")


def test_bytes_are_text_unless_they_are_asked_for(server: Any) -> None:
    assert answer(server, "waiter", "binary") == ["/w==", "a"]
    assert answer(server, "waiter", "no_text") == "output 'output': an element isn't UTF-8; call with text=False"


def test_a_version_and_parameters(server: Any) -> None:
    given = [json.loads(one) for one in answer(server, "waiter", "versions")]
    assert given == [[1, 2**70], [2, 2**70], [2, 2**70]]


ERRORS = {
    "nobody x": (404, "NotFoundError: no model 'nobody'; there are "),
    "half x": (400, "InvalidRequestError: input 'x': shape [1], the model takes [-1, 2]"),
    "shout refused": (400, "InvalidRequestError: not this one"),
    "shout away": (503, "UnavailableError: the database is away"),
    "shout broken": (500, "ModelError: model shout failed: KeyError: 'x' (model.py:"),
}


@pytest.mark.parametrize("call", ERRORS)
def test_errors_keep_their_kind(server: Any, call: str) -> None:
    status, text = ERRORS[call]
    assert answer(server, "caller", f"catch {call}").startswith(text)
    reply = ask(server, "caller", call)
    assert reply.status == status
    assert reply.json["error"].startswith(text.partition(": ")[2])


def test_a_model_that_is_busy_is_overloaded(server: Any, zoo: Path, threads: ThreadPoolExecutor) -> None:
    with holding(server, zoo, "full", threads):
        queued = threads.submit(ask, server, "full", "x")
        until(lambda: depth(server, "full") == 1)
        assert answer(server, "caller", "catch full x").startswith("OverloadedError: the queue of model full is full")
        reply = ask(server, "caller", "full x")
        assert (reply.status, "podpair-retry-after-ms" in reply.headers) == (429, True)
    assert queued.result(20).status == 200


def in_milliseconds(seconds: float) -> str:
    return str(round((time.time() + seconds) * 1000))


def test_the_deadline_comes_along(server: Any, zoo: Path, threads: ThreadPoolExecutor) -> None:
    with holding(server, zoo, "held", threads):
        error = answer(server, "caller", "catch held x", podpair_deadline=in_milliseconds(0.5))
        assert error.startswith("DeadlineExceededError: ")
        until(lambda: depth(server, "held") == 0)


def test_the_priority_comes_along(server: Any, zoo: Path, threads: ThreadPoolExecutor) -> None:
    with holding(server, zoo, "one_by_one", threads):
        normal = threads.submit(answer, server, "one_by_one", "x")
        until(lambda: depth(server, "one_by_one") == 1)
        high = threads.submit(answer, server, "caller", "one_by_one x", podpair_priority="high")
        until(lambda: depth(server, "one_by_one") == 2)
    assert high.result(20)[0] < normal.result(20)[0]


def test_a_model_that_waits_for_itself_is_ended_by_the_deadline(server: Any) -> None:
    # Its only runner waits for a run of its own.
    reply = ask(server, "caller", "caller shout x", podpair_deadline=in_milliseconds(0.5))
    assert reply.status == 504


def test_models_that_call_each_other_without_an_end_are_cut(server: Any) -> None:
    reply = ask(server, "endless", "x")
    assert reply.status == 500
    assert reply.json["error"].startswith("models call each other without an end: endless → endless → ")


def test_a_sync_call_on_the_event_loop_says_what_to_do(server: Any) -> None:
    reply = ask(server, "caller", "block")
    assert reply.status == 500
    assert "models.infer blocks the event loop: await models.infer_async (model.py:" in reply.json["error"]


def test_a_stream_that_nobody_reads_withdraws_its_call(server: Any, zoo: Path, threads: ThreadPoolExecutor) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    body = json.dumps({"input": "held x"})
    with holding(server, zoo, "held", threads):
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v2/models/caller/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(f"{head}{body}".encode())
            until(lambda: depth(server, "held") == 1)
        until(lambda: depth(server, "held") == 0)


def test_calls_of_a_process_that_dies_are_withdrawn(
    start: Callable[..., Any], tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    caller = (
        CALLERS["caller"]
        .replace("class Caller:", "import os\nclass Caller:")
        .replace(
            'if word == "catch":', 'if word == "pid":\n            return str(os.getpid())\n        if word == "catch":'
        )
    )
    zoo = write(tmp_path, {"caller": caller, "held": HELD}, CONFIGS)
    server = start(zoo)
    process = int(answer(server, "caller", "pid"))
    with holding(server, zoo, "held", threads):
        lost = threads.submit(ask, server, "caller", "held x")
        until(lambda: depth(server, "held") == 1)
        os.kill(process, signal.SIGKILL)
        assert lost.result(20).status == 500
        until(lambda: depth(server, "held") == 0)


def test_a_request_that_is_answered_while_the_server_stops_may_still_call(
    start: Callable[..., Any], tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    call = 'from podpair.inference import models\n        models.infer("shout", ["x"])\n        return ['
    waits = HELD.replace("return [", call)
    zoo = write(tmp_path, {"held": waits, "shout": SHOUT}, {"held": {"warmup": {"rows": []}}})
    server = start(zoo)
    held = threads.submit(ask, server, "held", "hold")
    with (zoo / "held/fifo").open("w"):
        server.process.send_signal(signal.SIGTERM)
        until(lambda: ask(server, "shout", "x").status == 503)
    assert held.result(20).status == 200
