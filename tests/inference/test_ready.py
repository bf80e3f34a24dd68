"""Python models that say whether they are ready: what becomes of their requests while they aren't."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import until

pytestmark = pytest.mark.process

# What the file `state` says, run as the method's body.
SAYS = """
import asyncio
import os

HERE = os.path.dirname(os.path.dirname(__file__))

class M:
    {kind} ready(self):
        with open(HERE + "/state") as file:
            state = file.read()
        if state == "hang":
            open(HERE + "/hanging", "w").close()
            open(HERE + "/fifo").close()
            return True
        return eval(state)

    def predict(self, batch):
        return batch
"""
ECHO = "class O:\n    def predict(self, batch):\n        return list(batch)\n"


class Served:
    """A server of the model `m`, whose `ready` answers what it is told, beside another one."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder = server, folder

    def say(self, state: str) -> None:
        write(self.folder, state)

    @property
    def reason(self) -> str | None:
        """Why it isn't ready."""
        reply = self.server.get("/v2/models/m/ready")
        return None if reply.status == 200 else str(reply.json["error"])

    def ask(self, model: str = "m") -> Any:
        tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x"]}
        return self.server.post(f"/v2/models/{model}/infer", {"inputs": [tensor]})

    @property
    def metric(self) -> float:
        lines = self.server.get("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith('inference_model_ready{model="m"}')).split()[-1])


def write(folder: Path, state: str) -> None:
    (folder / "new").write_text(state)
    (folder / "new").replace(folder / "state")


@pytest.fixture(params=[(True, "def"), (True, "async def"), (False, "async def")], ids=str)
def mode(request: pytest.FixtureRequest) -> Any:
    """Whether the model has a process of its own, and of which kind its `ready` is."""
    return request.param


@pytest.fixture
def serve(start: Callable[..., Any], tmp_path: Path, mode: tuple[bool, str]) -> Callable[..., Served]:
    process, kind = mode

    def begin(state: str, **runtime: Any) -> Served:
        for name, code in (("m", SAYS.format(kind=kind)), ("other", ECHO)):
            (tmp_path / name / "1").mkdir(parents=True)
            (tmp_path / name / "1/model.py").write_text(code)
        given = {"process": process, "ready_poll_seconds": 0.02, **runtime}
        (tmp_path / "m/model.yaml").write_text(json.dumps({"runtime": given}))
        os.mkfifo(tmp_path / "m/fifo")
        write(tmp_path / "m", state)
        return Served(start(tmp_path), tmp_path / "m")

    return begin


def test_a_model_that_isn_t_ready_is_refused_until_it_is(serve: Callable[..., Served]) -> None:
    # Asked before the first request: it is refused from the start.
    model = serve('"the database is away"')
    assert model.reason == "model m is not ready: the database is away"
    refused = model.ask()
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json["error"] == "model m is not ready: the database is away"
    assert model.metric == 0
    index = model.server.post("/v2/repository/index", {}).json
    assert {(one["name"], one["state"], one["reason"]) for one in index} == {
        ("m", "UNAVAILABLE", "the database is away"),
        ("other", "READY", ""),
    }
    assert model.server.get("/v2/health/ready").status == 200
    assert model.ask("other").status == 200
    assert model.server.record("a model isn't ready")["reason"] == "the database is away"

    model.say("True")
    until(lambda: model.reason is None)
    model.server.record("a model is ready again")
    assert model.ask().status == 200
    assert model.metric == 1

    model.say("False")
    until(lambda: model.reason)
    assert "ready answered False (model.py:8)" in str(model.reason)
    # One line for each change, however often it is asked.

    def lines() -> int:
        return [record.get("message") for record in model.server.records].count("a model isn't ready")

    until(lambda: lines() >= 2)
    assert lines() == 2


ANSWERS = {
    "1 / 0": "ZeroDivisionError: division by zero (model.py:15, in ready)",
    "5": "ready answered 5; it answers True, False or why it isn't ready, as a text (model.py:8)",
    "None": None,
}


@pytest.mark.parametrize("mode", [(True, "def")], ids=str)
def test_what_ready_may_answer(serve: Callable[..., Served]) -> None:
    model = serve("True")
    for state, reason in ANSWERS.items():
        wanted = reason and f"model m is not ready: {reason}"
        model.say(state)
        until(lambda wanted=wanted: model.reason == wanted, lambda: model.reason)


def test_one_that_hangs_is_not_ready_until_it_answers(
    serve: Callable[..., Served],
) -> None:
    model = serve("True", ready_timeout_seconds=0.1)
    model.say("hang")
    until(lambda: (model.folder / "hanging").exists())  # so short a time may pass by itself on a busy machine, too
    wanted = "model m is not ready: ready has not answered in 0.1 s (runtime.ready_timeout_seconds)"
    until(lambda: model.reason == wanted)
    model.say("True")
    # That ends it.
    with (model.folder / "fifo").open("w"):
        pass
    until(lambda: model.ask().status == 200)
