"""Models that call each other: written into a repository, asked, and held where they wait for the test.

A model that has to wait for the test opens a FIFO, and the test knows that it is there: nothing is timed.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Waits for the test where it is asked for `hold`; it answers the number of its run, and how many shared it.
HELD = """
import os

HERE = os.path.dirname(os.path.dirname(__file__))

class Held:
    runs = 0

    def predict(self, batch):
        self.runs += 1
        if batch[0] == "hold":
            with open(HERE + "/fifo") as fifo:
                fifo.read()
        return [[self.runs, len(batch)] for _ in batch]
"""

SHOUT = """
from podpair.inference import InvalidRequestError, UnavailableError

class Shout:
    def predict(self, batch):
        if "refused" in batch:
            raise InvalidRequestError("not this one")
        if "away" in batch:
            raise UnavailableError("the database is away")
        return [{}["x"] if text == "broken" else text.upper() for text in batch]
"""


def write(repository: Path, models: dict[str, str], configs: dict[str, Any], *, process: bool = True) -> Path:
    for name, code in models.items():
        for version in (1, 2) if name == "versions" else (1,):
            (repository / name / str(version)).mkdir(parents=True)
            (repository / name / str(version) / "model.py").write_text(f"VERSION = {version}\n{code}")
        config = {"runtime": {"process": process}, **configs.get(name, {})}
        (repository / name / "model.yaml").write_text(json.dumps(config))
        os.mkfifo(repository / name / "fifo")
    return repository


def ask(server: Any, model: str, *texts: str, **headers: str) -> Any:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.post(f"/v2/models/{model}/infer", {"inputs": [tensor]}, given)


def answer(server: Any, model: str, text: str, **headers: str) -> Any:
    """The answer to one text, which must be one; as JSON, where it is some."""
    reply = ask(server, model, text, **headers)
    assert reply.status == 200, reply.body
    (data,) = reply.json["outputs"][0]["data"]
    return json.loads(data) if data.startswith("[") else data


def depth(server: Any, model: str) -> float:
    lines = server.get("/metrics").body.decode().splitlines()
    return float(
        next(line for line in lines if line.startswith(f'inference_queue_depth{{model="{model}"}}')).split()[-1]
    )


@contextmanager
def holding(server: Any, zoo: Path, model: str, threads: ThreadPoolExecutor) -> Iterator["Future[Any]"]:
    """Keep a model busy for the `with` block; what is asked of it meanwhile waits in its queue."""
    held = threads.submit(ask, server, model, "hold")
    with (zoo / model / "fifo").open("w"):
        yield held
    assert held.result(20).status == 200
