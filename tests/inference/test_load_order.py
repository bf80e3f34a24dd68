"""Python models that call their neighbours while they are loaded or warmed up: the order doesn't matter, or an error says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.processes import BIN, completed
from inference.calling_models import SHOUT, answer, write

pytestmark = pytest.mark.process

LOADS = """
from podpair.inference import models

class Loads:
    def load(self):
        self.loaded = models.infer("{neighbour}", ["x"])["output"][0]

    def predict(self, batch):
        return [self.loaded for _ in batch]
"""
WARMS = """
from podpair.inference import models

class Warms:
    def predict(self, batch):
        return models.infer("{neighbour}", batch)["output"]
"""


def test_the_order_in_which_models_are_loaded_does_not_matter(start: Callable[..., Any], tmp_path: Path) -> None:
    models = {"a": LOADS.format(neighbour="b"), "b": LOADS.format(neighbour="shout"), "shout": SHOUT}
    server = start(write(tmp_path, models, {}))
    assert answer(server, "a", "") == "X"


def test_a_model_is_warmed_up_once_its_neighbour_is_there(
    start: Callable[..., Any], tmp_path: Path, process: bool
) -> None:
    # More of them wait than there are threads for the loop's other work.
    models = {f"a{i}": WARMS.format(neighbour="shout") for i in range(2 if process else 40)} | {"shout": SHOUT}
    server = start(write(tmp_path, models, {name: {"warmup": {"rows": [1]}} for name in models}, process=process))
    assert answer(server, "a1", "x") == "X"
    assert {record["model"] for record in server.records if record["message"] == "model warmed up"} == set(models)


def test_what_can_t_be_loaded_for_its_neighbour_says_so(start: Callable[..., Any], tmp_path: Path) -> None:
    models = {"a": LOADS.format(neighbour="nobody"), "b": LOADS.format(neighbour="broken"), "broken": "import nothing"}
    server = start(write(tmp_path, models | {"shout": SHOUT}, {}))
    assert "no model 'nobody'" in server.get("/v2/models/a/ready").json["error"]
    assert "model broken is not served: " in server.get("/v2/models/b/ready").json["error"]
    assert answer(server, "shout", "x") == "X"


def test_in_the_server_s_own_process_a_model_can_t_wait_for_another_that_loads(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    models = {"a": LOADS.format(neighbour="shout"), "shout": SHOUT, "z": LOADS.format(neighbour="shout")}
    server = start(write(tmp_path, models, {}, process=False))
    assert "model shout is being loaded" in server.get("/v2/models/a/ready").json["error"]
    assert answer(server, "z", "") == "X"


def test_models_that_need_each_other_to_be_loaded_are_named(start: Callable[..., Any], tmp_path: Path) -> None:
    models = {"a": LOADS.format(neighbour="b"), "b": LOADS.format(neighbour="c"), "c": LOADS.format(neighbour="a")}
    server = start(write(tmp_path, models | {"shout": SHOUT}, {}))
    assert "models that need each other to be loaded: c → a → b → c" in server.get("/v2/models/c/ready").json["error"]
    for name in ("a", "b"):
        assert "is not served: " in server.get(f"/v2/models/{name}/ready").json["error"]


LEAVES_A_TASK = """
import asyncio
from podpair.inference import models
from podpair.inference.core.request_context import current

class Leaves:
    async def load(self):
        self.during, self.go, self.after = current().loading, asyncio.Event(), None
        self.task = asyncio.create_task(self.later())

    async def later(self):
        await self.go.wait()
        self.after = current().loading

    async def predict(self, batch):
        self.go.set()
        await self.task
        return [f"{self.during} {self.after}" for _ in batch]
"""


def test_a_task_that_outlives_the_load_loads_no_more(start: Callable[..., Any], tmp_path: Path) -> None:
    server = start(write(tmp_path, {"a": LEAVES_A_TASK}, {}))
    assert answer(server, "a", "") == "True False"


@pytest.mark.parametrize("own_process", [True, False])
def test_validate_loads_them_as_the_server_does(tmp_path: Path, own_process: bool) -> None:
    models = {"a": LOADS.format(neighbour="shout"), "shout": SHOUT, "z": LOADS.format(neighbour="shout")}
    write(tmp_path, models, {}, process=own_process)
    found = completed(BIN / "podpair-inference", "validate", tmp_path)
    if own_process:
        assert (found.returncode, found.stderr) == (0, ""), found.stderr
    else:
        assert found.returncode == 1
        assert [line for line in found.stderr.splitlines() if "model shout is being loaded" in line]
        assert "1 fault:" in found.stderr
    served = [line.split("/")[0] for line in found.stdout.splitlines() if not line.startswith(" ")]
    assert served == (["a", "shout", "z"] if own_process else ["shout", "z"])


def test_validate_of_one_model_finds_its_neighbours(tmp_path: Path) -> None:
    models = {"a": LOADS.format(neighbour="shout"), "shout": SHOUT, "broken": "import nothing"}
    write(tmp_path, models, {})
    found = completed(BIN / "podpair-inference", "validate", tmp_path / "a")
    assert (found.returncode, found.stderr) == (0, ""), found.stderr
    assert found.stdout.startswith("a/1  python")
