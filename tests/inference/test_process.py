"""The process: what it says when it can't start, and how it stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.pair import MODELS
from harness.processes import Child, completed

COMMAND = [sys.executable, "-m", "podpair.inference.cli.main", "serve"]
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}


def run(*options: str) -> tuple[int, str]:
    done = completed(*COMMAND, *options)
    return done.returncode, done.stderr


@pytest.mark.process
def test_faults_are_a_list_and_exit_status_2(tmp_path: Path) -> None:
    status, text = run("--models", str(tmp_path / "none"))
    assert (status, text.splitlines()[0]) == (2, "podpair-inference: 1 fault:")
    status, text = run("--models", str(tmp_path), "--port", "70000")
    assert status == 2
    assert "command line: server.port" in text


@pytest.mark.process
def test_onnx_runtime_tells_nobody_of_the_models(tmp_path: Path) -> None:
    """Its telemetry keeps an id of the machine, and what it has not sent yet, below the user's home; off, there is neither."""
    quiet = {"CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "podpair.inference.cli.main", "validate", str(MODELS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "digits/1" in done.stdout
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.process
def test_a_model_that_cannot_be_loaded_ends_the_process_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken/1").mkdir(parents=True)
    (tmp_path / "broken/1/model.onnx").write_bytes(b"nonsense")
    status, text = run("--models", str(tmp_path), "--port", "0")
    assert status == 1
    assert "broken/1/model.onnx: ONNX Runtime can't load it" in text


@pytest.mark.process
def test_a_port_that_is_taken_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, text = run("--models", str(repository), "--port", str(port))
    assert status == 1
    assert f"can't listen on 127.0.0.1:{port}" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_idle_server_with_status_0(
    start: Callable[..., Any], repository: Path, number: signal.Signals
) -> None:
    server = start(repository)
    assert server.post("/v2/models/plus/infer", BODY).status == 200
    assert server.terminate(number) == 0
    assert [record["message"] for record in server.records][-2:] == ["stopping", "stopped"]


def test_sigterm_under_load_answers_everything_that_was_taken(
    start: Callable[..., Any], tmp_path: Path, save_model: Callable[..., None]
) -> None:
    """A model that takes some 50 ms a request, twelve requests in its queue, and then the signal."""
    f32, size = TensorProto.FLOAT, 700
    weight = np.eye(size, dtype=np.float32)
    steps = [f"h{i}" for i in range(40)]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in zip(["x", *steps], [*steps, "y"], strict=True)]
    batching = {"batching": {"max_items": 64}, "warmup": {"rows": [1]}}
    shape = ["n", size]
    save_model(tmp_path / "slow/1", nodes, {"x": (f32, shape)}, {"y": (f32, shape)}, {"w": weight}, batching)
    server = start(tmp_path)
    x = np.ones((64, size), "<f4")
    tensor = {"name": "x", "datatype": "FP32", "shape": [64, size], "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answers: list[Any] = []

    def ask() -> None:
        headers = {"Inference-Header-Content-Length": str(len(header))}
        answers.append(server.post("/v2/models/slow/infer", header + x.tobytes(), headers))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    while 'inference_queue_depth{model="slow"} 0.0' in server.get("/metrics").body.decode() and not answers:
        pass
    # The metric says that some are queued; the rest is on its way or refused, but none is cut off.
    status = server.terminate()
    for thread in threads:
        thread.join(30)
    assert status == 0
    codes = sorted(answer.status for answer in answers)
    assert len(codes) == 12
    assert set(codes) <= {200, 503}
    assert codes.count(200) >= 2
    for answer in answers:
        if answer.status == 200:
            assert answer.body.endswith(x.tobytes())


def test_every_log_record_is_one_line_of_json_and_carries_the_request(
    start: Callable[..., Any], repository: Path
) -> None:
    server = start(repository, "--log-level", "debug")
    server.post("/v2/models/plus/infer", {"id": "r-7", **BODY})
    assert server.record("answered")["request"] == "r-7"
    assert server.terminate() == 0
    assert all({"time", "level", "logger", "message"} <= set(record) for record in server.records)


def test_logs_may_be_text(start: Callable[..., Any], repository: Path) -> None:
    server = Child(*COMMAND, "--models", repository, "--port", "0", "--log-format", "text")
    try:
        line = server.wait_for(lambda line: " ready " in line)
        assert "INFO" in line
        assert "models=[" in line
    finally:
        assert server.stop() == 0
