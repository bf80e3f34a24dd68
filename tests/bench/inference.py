"""The inference container beside mosec and beside ONNX Runtime itself. One line of JSON for each cell, medians of runs in turn.

small: an MLP of 64→32→10 over HTTP, with 1, 16 and 64 requests open. cnn: 310 million multiply-adds a row, raw tensors of 602 KB:
the best that `session.run` does on these cores, then servers at saturation, then podpair's latency at 70 % of what it answered.
start: from nothing to the first answer, and idle memory. All share this machine with the load client (wrk, one thread), whose
CPU is in the line, per request, as the servers' is.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from cnn import SHAPE, write_cnn
from measuring import cpu_seconds, rss_bytes, spread
from mlp import WIDTH, write_mlp
from peers.building import CannotBuild, python

from harness.processes import BIN, ROOT

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


class Target:
    """A server, and what it is asked."""

    def __init__(self, name: str, pid: int, url: str, body: bytes, header_length: int | None = None) -> None:
        self.name, self.url, self.header_length = name, url, header_length
        self.processes = tree(pid)
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(body)
        self.body = file.name

    def cpu(self) -> float:
        return sum(cpu_seconds(pid) for pid in self.processes)

    def load(self, connections: int, seconds: float) -> dict[str, float]:
        """One run of wrk."""
        environment = {**os.environ, "BODY": self.body}
        if self.header_length is not None:
            environment["HEADER_LENGTH"] = str(self.header_length)
        script = str(HERE / "post.lua")
        command = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--latency", "-s", script, self.url]
        before, spent = self.cpu(), os.times()
        text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        after, now = self.cpu(), os.times()
        if wrong := re.search(r"Non-2xx.*|Socket errors.*", text):
            raise RuntimeError(f"{self.name}: {wrong[0]}")
        requests = int(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
        client = now.children_user + now.children_system - spent.children_user - spent.children_system
        return {
            "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),  # type: ignore[index]
            "p50_ms": _ms(text, 50),
            "p99_ms": _ms(text, 99),
            "server_cpu_us": (after - before) / requests * 1e6,
            "client_cpu_us": client / requests * 1e6,
        }


def _ms(text: str, percentile: int) -> float:
    number, unit = re.search(rf"\s{percentile}%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def process(command: Sequence[str], url: str, ask: Callable[[], object], **environment: str) -> Iterator[int]:
    """A server for as long as the `with` lasts, once it answers; its process."""
    running = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                ask()
                break
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > end or running.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} doesn't answer at {url}") from None
                time.sleep(0.005)
        yield running.pid
    finally:
        running.terminate()
        running.wait(30)


def post(url: str, body: bytes, header_length: int | None = None) -> bytes:
    headers = {} if header_length is None else {"Inference-Header-Content-Length": str(header_length)}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method="POST"), timeout=30) as answer:
        found: bytes = answer.read()
        return found


def v2_raw(x: np.ndarray[Any, Any]) -> tuple[bytes, int]:
    """A V2 request with a raw tensor in, raw tensors out, and the length of its JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, *x.shape], "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + x.tobytes(), len(header)


@contextmanager
def podpair(repository: Path) -> Iterator[tuple[int, str]]:
    """`podpair-inference serve`, as anybody gets it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def ready() -> None:
        urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5).close()

    command = [str(BIN / "podpair-inference"), "serve", "--models", str(repository), "--port", str(port)]
    with process(command, url, ready, PODPAIR_LOG__LEVEL="warning") as pid:
        yield pid, url


@contextmanager
def mosec(model: Path, shape: Sequence[int], body: bytes, **environment: str) -> Iterator[tuple[int, str]]:
    """mosec, with one worker or WORKERS."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/inference"
    command = [*python("mosec_server", "server.py"), "--port", str(port), "--address", "127.0.0.1"]
    known = {"MODEL": str(model), "SHAPE": ",".join(map(str, shape))}
    with process([*command, "--log-level", "error"], url, lambda: post(url, body), **known, **environment) as pid:
        yield pid, url


def interleaved(targets: Sequence[Target], connections: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each target in turn, so many rounds; what the rounds say together."""
    runs: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
    for target in targets:
        target.load(connections, 1)
    for _ in range(options.runs):
        for target in targets:
            runs[target.name].append(target.load(connections, options.seconds))
    return {
        name: {key: {k: round(v, 3) for k, v in spread([run[key] for run in found]).items()} for key in found[0]}
        for name, found in runs.items()
    }


def report(bench: str, **line: Any) -> None:
    print(json.dumps({"bench": bench, "cores": len(CORES), **line}), flush=True)


def small(folder: Path, options: argparse.Namespace) -> None:
    """The MLP over HTTP."""
    repository = write_mlp(folder / "small")
    (repository / "mlp/model.yaml").unlink()  # everything at its default
    x = np.random.default_rng(1).random(WIDTH).astype(np.float32).round(4)
    numbers = [round(float(value), 4) for value in x]
    v2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": numbers}]}
    raw, length = v2_raw(x)
    model = repository / "mlp/1/model.onnx"
    with ExitStack() as servers:
        pid, url = servers.enter_context(podpair(repository))
        url += "/v2/models/mlp/infer"
        targets = [
            Target("podpair, JSON", pid, url, json.dumps(v2).encode()),
            Target("podpair, raw", pid, url, raw, length),
        ]
        try:
            for name, body, more in (
                ("mosec, JSON", json.dumps(numbers).encode(), {}),
                ("mosec, raw", x.tobytes(), {"RAW": "1"}),
            ):
                pid, url = servers.enter_context(mosec(model, (WIDTH,), body, **more))
                targets.append(Target(name, pid, url, body))
        except CannotBuild as error:
            report("small", skipped="mosec", reason=str(error))
        for connections in (1, 16, 64):
            for name, found in interleaved(targets, connections, options).items():
                report("small", server=name, open=connections, **found)


RAW = """
import sys, threading, time, numpy as np, onnxruntime as ort
path, threads, batch, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
options = ort.SessionOptions(); options.intra_op_num_threads = int(sys.argv[5])
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
x = np.random.default_rng(1).random((batch, 3, 224, 224)).astype(np.float32)
session.run(None, {"x": x})
counts, end = [0] * threads, time.monotonic() + seconds
def go(i):
    while time.monotonic() < end:
        session.run(None, {"x": x}); counts[i] += batch
began = time.monotonic(); ts = [threading.Thread(target=go, args=(i,)) for i in range(threads)]
[t.start() for t in ts]; [t.join() for t in ts]
print(sum(counts) / (time.monotonic() - began))
"""


def raw_rows(model: Path, threads: int, batch: int, intra_op: int, seconds: float) -> float:
    """Rows a second of `session.run` alone."""
    command = [sys.executable, "-c", RAW, model, threads, batch, seconds, intra_op]
    return float(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)


def cnn(folder: Path, options: argparse.Namespace) -> None:
    """The convolutional model, saturated and at 70 %."""
    model = write_cnn(folder / "cnn")
    x = np.random.default_rng(1).random(SHAPE).astype(np.float32)
    body, length = v2_raw(x)
    cores = len(CORES)
    layouts = [(cores, 1, 1), (cores, 2, 1), (1, 1, cores), (1, 4, cores)]
    found = {layout: raw_rows(model, *layout, 2.0) for layout in layouts}
    best = max(found, key=found.__getitem__)
    with ExitStack() as servers:
        pid, url = servers.enter_context(podpair(folder / "cnn"))
        targets = [Target("podpair", pid, url + "/v2/models/cnn/infer", body, length)]
        try:
            settings = {"RAW": "1", "BATCH": "1", "WORKERS": str(cores)}
            pid, url = servers.enter_context(mosec(model, SHAPE, x.tobytes(), **settings))
            targets.append(Target("mosec", pid, url, x.tobytes()))
        except CannotBuild as error:
            report("cnn", skipped="mosec", reason=str(error))
        for target in targets:
            target.load(8, 2)
        limits, rates = [], {target.name: [] for target in targets}
        for _ in range(options.runs):
            limits.append(raw_rows(model, *best, options.seconds))
            for target in targets:
                rates[target.name].append(target.load(8, options.seconds))
        report(
            "cnn", what="session.run", threads=best[0], batch=best[1], intra_op=best[2], rows_per_s=spread(limits),
            others={str(layout): round(rate, 1) for layout, rate in found.items()},
        )  # fmt: skip
        for name, runs in rates.items():
            report(
                "cnn", server=name, open=8, requests_per_s=spread([run["requests_per_s"] for run in runs]),
                of_session_run=spread([run["requests_per_s"] / limit for run, limit in zip(runs, limits, strict=True)]),
                server_cpu_us=spread([run["server_cpu_us"] for run in runs]),
            )  # fmt: skip
        answered = statistics.median(run["requests_per_s"] for run in rates["podpair"])
        single = 1000 * cores / statistics.median(limits) if best[2] == 1 else 1000 / statistics.median(limits)
        lines = [paced(targets[0], body, length, 0.7 * answered, options.seconds * 2) for _ in range(options.runs)]
        report(
            "cnn", server="podpair", load="70 %", run_ms=round(single, 3),
            p50_ms=spread([line[0] for line in lines]), p95_ms=spread([line[1] for line in lines]),
        )  # fmt: skip


def paced(target: Target, body: bytes, length: int, rate: float, seconds: float) -> tuple[float, float]:
    """p50 and p95 in ms of requests that come at random at `rate` a second, whatever became of those before."""
    host, _, port = target.url.removeprefix("http://").partition("/")[0].partition(":")
    path = "/" + target.url.removeprefix("http://").partition("/")[2]
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    request = f"{head}Inference-Header-Content-Length: {length}\r\n\r\n".encode() + body
    taken: list[float] = []
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(due: float) -> None:
        reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"\r\nContent-Length: (\d+)", answer)
        assert answer.startswith(b"HTTP/1.1 200")
        assert size is not None
        await reader.readexactly(int(size[1]))
        taken.append((time.monotonic() - due) * 1000)
        idle.append((reader, writer))

    async def run() -> None:
        draw = random.Random(3)
        due = time.monotonic()
        end = due + seconds
        async with asyncio.TaskGroup() as tasks:
            while due < end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.create_task(ask(due))
                due += draw.expovariate(rate)
        for _, writer in idle:
            writer.close()

    result: list[None] = []
    thread = threading.Thread(target=lambda: result.append(asyncio.run(run())))
    thread.start()
    thread.join()
    taken.sort()
    return taken[len(taken) // 2], taken[int(len(taken) * 0.95)]


def start(_: Path, options: argparse.Namespace) -> None:
    """The digits: from nothing to the first answer, and memory two seconds later."""
    body = (ROOT / "examples/digits/request.json").read_bytes()
    seconds, spent, memory = [], [], []
    for _ in range(options.runs + 1):
        port = free_port()
        url = f"http://127.0.0.1:{port}/v2/models/digits/infer"
        command = [
            str(BIN / "podpair-inference"),
            "serve",
            "--models",
            str(ROOT / "examples/models"),
            "--port",
            str(port),
        ]
        began = time.monotonic()
        with process(command, url, lambda url=url: post(url, body)) as pid:  # type: ignore[misc]
            seconds.append(time.monotonic() - began)
            spent.append(cpu_seconds(pid))
            time.sleep(2)
            memory.append(rss_bytes(pid) / 1e6)
    # The first reads the files from the disk.
    line = {"first_answer_s": spread(seconds[1:]), "cpu_s": spread(spent[1:]), "idle_rss_mb": spread(memory[1:])}
    report("start", model="digits", **line)


def main() -> None:
    benches = {"small": small, "cnn": cnn, "start": start}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=benches, action="append")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not on this machine (Debian's package wrk)")
    for name in options.only or benches:
        with tempfile.TemporaryDirectory() as folder:
            benches[name](Path(folder), options)


if __name__ == "__main__":
    main()
