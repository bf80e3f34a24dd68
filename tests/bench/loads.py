"""One server under load, measured from outside: wrk over HTTP, a client of our own (peers/native_inference) over gRPC.

Both have one thread and say the same. A server's CPU is that of all its processes, its memory what they alone hold and their
share of the rest (PSS), so that forked workers are not counted twice.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.measuring import cpu_seconds

HERE = Path(__file__).parent
# Connections over which calls of gRPC are spread; over HTTP each open request has its own.
GRPC_CONNECTIONS = 4
GRPC_METHOD = "inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Way:
    """How a server is asked: over `http` at a path, or over `grpc`, always the same."""

    name: str
    port: int
    body: bytes
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Over HTTP."""
        return f"http://127.0.0.1:{self.port}{self.path}"

    @property
    def over_grpc(self) -> bool:
        """Whether the body is a message."""
        return not self.path


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    except FileNotFoundError:  # it has just ended
        pass
    return found


def cpu(pid: int) -> float:
    """Seconds of a process and all below it."""
    return sum(cpu_seconds(each) for each in tree(pid))


def memory(pid: int) -> float:
    """Megabytes of a process and all below it, what is shared shared out."""
    kilobytes = 0
    for each in tree(pid):
        lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1000


class LoadFailed(Exception):
    """The server didn't answer as it should; the text says how."""


def load(pid: int, way: Way, grpc_client: Path | None, requests_open: int, seconds: float) -> dict[str, float]:
    """One run with so many requests open. Raises LoadFailed where answers are failures."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(way.body)
        body.flush()
        environment = dict(os.environ)
        if way.over_grpc:
            options = {
                "port": way.port, "method": GRPC_METHOD, "message": body.name,
                "open": requests_open, "connections": GRPC_CONNECTIONS, "seconds": seconds,
            }  # fmt: skip
            command = [str(grpc_client), *(f"--{name}={value}" for name, value in options.items())]
        else:
            headers = "\n".join(f"{name}: {value}" for name, value in way.headers.items())
            environment |= {"BODY": body.name, "HEADERS": headers}
            duration = f"-d{max(1, round(seconds))}s"
            command = [
                "wrk",
                "-t1",
                f"-c{requests_open}",
                duration,
                "--timeout",
                "20s",
                "-s",
                str(HERE / "post.lua"),
                way.url,
            ]
        before, spent = cpu(pid), os.times()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        after, now = cpu(pid), os.times()
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise LoadFailed(f"{way.name}: {done.stderr or done.stdout}")
    found = json.loads(lines[-1])
    if not found["requests"] and not found["failed"]:
        raise LoadFailed(f"{way.name}: no answer within {seconds:.0f} s")
    if found["failed"]:
        raise LoadFailed(f"{way.name}: {found['failed']} of {found['requests']} requests failed")
    client = now.children_user + now.children_system - spent.children_user - spent.children_system
    return {
        "requests/s": found["requests"] / found["seconds"],
        "p50 ms": found["p50_ms"],
        "p95 ms": found["p95_ms"],
        "p99 ms": found["p99_ms"],
        "CPU µs a request": (after - before) / found["requests"] * 1e6,
        "load client's CPU %": client / found["seconds"] * 100,
    }
