"""Python models that do what libraries do: exit, print, fork, start threads, never come back. They harm themselves alone."""

import json
import os
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.processes import BIN

pytestmark = pytest.mark.process


# Asked for `x` they do what they do; anything else is answered.
def model(body: str, *, method: str = "predict(self, batch)", head: str = "", kind: str = "def") -> str:
    return f"import os, sys\n{head}\nclass M:\n    {kind} {method}:\n        {body}\n        return list(batch)\n"


EXITS = {
    "predict": model("if batch[0] == 'x': sys.exit(3)"),
    "async": model("if batch[0] == 'x': sys.exit(3)", kind="async def"),
    "interrupt": model("if batch[0] == 'x': raise KeyboardInterrupt", kind="async def"),
}
STREAM = """
import sys

class M:
    async def stream(self, request):
        if request == "x":
            sys.exit(3)
        yield request
"""
TASK = """
import asyncio, sys

async def leave():
    sys.exit(4)

class M:
    async def predict(self, batch):
        if batch[0] == "x":
            asyncio.create_task(leave())
            await asyncio.sleep(0)
        return list(batch)
"""
STUCK = """
import threading

class M:
    def predict(self, batch):
        if batch[0] == "x":
            threading.Event().wait()
        return list(batch)
"""
STUCK_LOOP = """
import threading

class M:
    async def predict(self, batch):
        if batch[0] == "x":
            threading.Event().wait()
        return list(batch)
"""
STUCK_LOAD = """
import sys
import threading

class M:
    def load(self):
        print('{"message": "loading"}', file=sys.stderr, flush=True)
        threading.Event().wait()

    def predict(self, batch):
        return list(batch)
"""
THREADS = """
import threading

class M:
    def load(self):
        threading.Thread(target=threading.Event().wait, name="mine").start()

    def predict(self, batch):
        return list(batch)
"""
# As multiprocessing.Pool and torch's DataLoader do with their workers.
FORKS = """
import multiprocessing, os, time

class M:
    def predict(self, batch):
        context = multiprocessing.get_context("fork")
        if batch[0] == "x":
            ready = context.Event()
            child = context.Process(target=wait, args=(ready,))
            child.start()
            ready.wait()
            child.terminate()
            child.join()
            return [str(child.exitcode)] * len(batch)
        if batch[0] == "stay":
            ready = context.Event()
            child = context.Process(target=wait, args=(ready,), daemon=False)
            child.start()
            ready.wait()
            return [str(child.pid)] * len(batch)
        return list(batch)

def wait(ready):
    ready.set()
    time.sleep(600)
"""
BUSY = """
import threading

class M:
    def load(self):
        self.stop = threading.Event()

    def predict(self, batch):
        if batch[0] == "x":
            while not self.stop.is_set():
                sum(range(1000))
        else:
            self.stop.set()
        return list(batch)
"""


@pytest.fixture
def serve(start: Callable[..., Any], tmp_path: Path, process: bool) -> Callable[..., Any]:
    """A server of one model, `m`, in a process of its own or in threads of the server's."""

    def begin(code: str, *, instances: int = 1, wait_for: str = "ready") -> Any:
        (tmp_path / "m/1").mkdir(parents=True)
        (tmp_path / "m/1/model.py").write_text(code)
        runtime = f"runtime: {{instances: {instances}, process: {str(process).lower()}}}"
        (tmp_path / "m/model.yaml").write_text(f"warmup: {{rows: []}}\n{runtime}")
        return start(tmp_path, wait_for=wait_for, PODPAIR_SERVER__SHUTDOWN_SECONDS="1")

    return begin


def ask(server: Any, text: str) -> Any:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": [text]}
    return server.post("/v2/models/m/infer", {"inputs": [tensor]})


def answered(server: Any, text: str) -> bool:
    return bool(ask(server, text).json["outputs"][0]["data"] == [text])


@pytest.mark.parametrize("kind", ["predict", "async", "interrupt"])
def test_a_model_that_exits_fails_its_request_and_says_where(serve: Callable[..., Any], kind: str) -> None:
    server = serve(EXITS[kind])
    for _ in range(3):
        refused = ask(server, "x")
        assert refused.status == 500
        assert ("KeyboardInterrupt" if kind == "interrupt" else "SystemExit: 3 (model.py:5") in refused.json["error"]
        assert answered(server, "y")
    assert server.terminate() == 0


def test_a_stream_that_exits_ends_and_the_next_is_served(serve: Callable[..., Any]) -> None:
    server = serve(STREAM)
    for _ in range(2):
        assert server.post("/v2/models/m/generate_stream", {"input": "x"}).status == 500
        assert b'"output":"y"' in server.post("/v2/models/m/generate_stream", {"input": "y"}).body
    assert server.terminate() == 0


def test_a_task_that_exits_ends_itself_alone(serve: Callable[..., Any]) -> None:
    server = serve(TASK)
    for _ in range(3):
        ask(server, "x")
        assert answered(server, "y")
    assert server.terminate() == 0


@pytest.mark.parametrize("code", [STUCK, STUCK_LOOP], ids=["thread", "loop"])
def test_one_that_never_comes_back_keeps_neither_others_nor_the_end(
    tmp_path: Path, serve: Callable[..., Any], code: str
) -> None:
    (tmp_path / "other/1").mkdir(parents=True)
    (tmp_path / "other/1/model.py").write_text("class O:\n    def predict(self, batch):\n        return list(batch)\n")
    server = serve(code)
    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(_quietly, ask, server, "x")
        while 'inference_running_batches{model="m"} 1.0' not in server.get("/metrics").body.decode():
            assert server.process.poll() is None
        assert server.get("/v2/health/ready").status == 200
        tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["y"]}
        assert server.post("/v2/models/other/infer", {"inputs": [tensor]}).status == 200
        assert server.terminate() == 0
        stuck.result(60)


@pytest.mark.parametrize(("code", "wait_for"), [(STUCK_LOAD, "listening"), (THREADS, "ready")])
def test_threads_of_a_model_s_don_t_keep_the_process(serve: Callable[..., Any], code: str, wait_for: str) -> None:
    server = serve(code, wait_for=wait_for)
    assert server.get("/v2/health/live").status == 200
    if code is STUCK_LOAD:
        server.wait_for_message("loading")
    assert server.terminate() == 0
    server.kill()
    assert "threads of models still run, and end with the process" in [r["message"] for r in server.records]


def test_a_child_that_is_ended_isn_t_the_server_s_end(serve: Callable[..., Any]) -> None:
    server = serve(FORKS)
    for _ in range(3):
        assert ask(server, "x").json["outputs"][0]["data"] == [str(-signal.SIGTERM)]
        assert answered(server, "y")
    assert server.get("/v2/health/ready").status == 200


def test_a_child_that_outlives_the_server_holds_neither_its_port_nor_its_connections(
    tmp_path: Path, serve: Callable[..., Any], start: Callable[..., Any]
) -> None:
    server = serve(FORKS)
    port = int(server.url.rpartition(":")[2])
    ports = {port, int(server.record("gRPC is ready")["address"].rpartition(":")[2])}
    child = int(ask(server, "stay").json["outputs"][0]["data"][0])
    try:
        held = {os.readlink(f"/proc/{child}/fd/{fd}") for fd in os.listdir(f"/proc/{child}/fd")}
        server.process.kill()
        server.process.wait()
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        inodes = {f"socket:[{line[9]}]" for line in lines if int(line[1].rpartition(":")[2], 16) in ports}
        assert not held & inodes
        again = start(tmp_path, "--port", str(port))
        assert answered(again, "y")
    finally:
        os.kill(child, signal.SIGKILL)


def test_python_that_computes_holds_up_neither_health_nor_metrics(serve: Callable[..., Any]) -> None:
    server = serve(BUSY, instances=2)
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(ask, server, "x")
        while 'inference_running_batches{model="m"} 1.0' not in server.get("/metrics").body.decode():
            pass
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics") * 5:
            with urllib.request.urlopen(server.url + path, timeout=30) as answer:
                assert answer.status == 200
        assert not busy.done()
        ask(server, "stop")
        assert busy.result(60).status == 200


def test_a_signal_handler_in_the_server_s_process_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/model.py").write_text(
        "import signal\nclass M:\n    def load(self):\n        signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "    def predict(self, batch):\n        return list(batch)\n"
    )
    (tmp_path / "m/model.yaml").write_text("runtime: {process: false}")
    command = [str(BIN / "podpair-inference"), "serve", "--models", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "model.py:4: ValueError: signal only works in main thread" in done.stderr
    assert "leave signals to the server" in done.stderr


def test_what_a_model_prints_is_no_part_of_the_log(serve: Callable[..., Any]) -> None:
    code = model("print('asked')", head="print('imported')")
    server = serve(code)
    assert answered(server, "y")
    assert server.terminate() == 0
    server.kill()
    assert all("time" in record for record in server.records), json.dumps(server.records)


def _quietly(call: Callable[..., Any], *arguments: Any) -> None:
    """The server goes before it has answered."""
    done = threading.Event()
    try:
        call(*arguments)
    except OSError:
        done.set()
