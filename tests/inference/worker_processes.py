"""What tests of models in processes of their own ask a server."""

from contextlib import suppress
from pathlib import Path
from typing import Any


def ask(server: Any, text: str = "pid", model: str = "m") -> Any:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": [text]}
    return server.post(f"/v2/models/{model}/infer", {"inputs": [tensor]})


def pid_of(server: Any) -> int:
    """The process that answers; waits until there is one."""
    while True:
        answer = ask(server)
        if answer.status == 200:
            return int(answer.json["outputs"][0]["data"][0])
        assert answer.status == 503, answer.body


def restarts(server: Any, reason: str) -> float:
    line = f'inference_worker_restarts_total{{model="m",reason="{reason}"}} '
    found = [text for text in server.get("/metrics").body.decode().splitlines() if text.startswith(line)]
    return float(found[0].removeprefix(line)) if found else 0.0


def is_ready(server: Any, model: str = "m") -> bool:
    return bool(server.get(f"/v2/models/{model}/ready").status == 200)


def gone(pid: int) -> bool:
    """Whether a process has ended, which somebody else may yet have to wait for."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
