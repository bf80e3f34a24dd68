"""How the model's container grows with its models: start, memory and a request, with 1 to 100 of them in one repository."""

import http.client
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measuring import cpu_seconds, rss_bytes, spread
from bench.recording import Recording
from harness.pair import MODELS, Inference
from harness.processes import ROOT

_BODY = (ROOT / "examples/digits/request.json").read_bytes()


def models(recording: Recording, numbers: list[int], requests: int, rounds: int) -> None:
    """Serve copies of the digits model, and ask all of them in turn, one request open."""
    found: dict[int, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for many in numbers:
            found.setdefault(many, []).append(_measured(many, requests))
    for many, runs in found.items():
        recording.row({"models": many}, {name: spread([run[name] for run in runs]) for name in runs[0]})


def _measured(many: int, requests: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        names = [f"digits-{number:03d}" for number in range(many)]
        for name in names:
            (Path(folder) / name).symlink_to(MODELS / "digits")
        begun = time.monotonic()
        served = Inference(0, Path(folder))
        try:
            ready = time.monotonic() - begun
            spent = cpu_seconds(served.pid)
            taken, cpu = _asked(served, names, requests)
            memory = rss_bytes(served.pid)
        finally:
            served.kill()
    return {
        "ready s": ready,
        "CPU s until then": spent,
        "MB": memory / 1e6,
        "p50 ms": taken,
        "CPU µs a request": cpu,
    }


def _asked(served: Inference, names: list[str], requests: int) -> tuple[float, float]:
    """p50 in ms, and CPU-µs a request; each model was asked once before."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)

    def ask(name: str) -> float:
        begun = time.perf_counter()
        connection.request("POST", f"/v2/models/{name}/infer", _BODY, {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        if answer.get("model_name") != name:
            raise RuntimeError(f"{name} answered {answer}")
        return time.perf_counter() - begun

    for name in names:
        ask(name)
    cpu = cpu_seconds(served.pid)
    taken = sorted(ask(names[number % len(names)]) for number in range(requests))
    connection.close()
    return taken[len(taken) // 2] * 1000, (cpu_seconds(served.pid) - cpu) * 1e6 / requests
