"""What a Python model in a process of its own can't do to others: hold them up, take them along, or stay when it should go.

Where a model has to wait for the test it opens a FIFO, and the test knows that it is there: nothing is timed.
"""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from inference.worker_processes import ask, gone, is_ready, pid_of, restarts

HEAD = "import asyncio, ctypes, os, signal, sys, threading\nHERE = os.path.dirname(os.path.dirname(__file__)) + '/'\n"
# Waits with the GIL held, as a C library that doesn't let go of it: until the other end of the FIFO is written to.
HOLD = """
def hold(name):
    fifo = os.open(HERE + name, os.O_RDONLY)
    ctypes.PyDLL(None).read(fifo, ctypes.create_string_buffer(1), 1)
    os.close(fifo)
"""
ECHO = "class O:\n    def predict(self, batch):\n        return list(batch)\n"


@pytest.fixture
def serve(start: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """A server of the model `m`, made of the methods given, beside another one, `other`."""

    def begin(*methods: str, head: str = "", timeout: float = 300, **runtime: Any) -> Any:
        for name, code in (("m", f"{HEAD}{head}\nclass M:\n" + "\n".join(methods)), ("other", ECHO)):
            (tmp_path / name / "1").mkdir(parents=True)
            (tmp_path / name / "1/model.py").write_text(code)
        given = {"process": True, "timeout_seconds": timeout, **runtime}
        (tmp_path / "m/model.yaml").write_text(json.dumps({"warmup": {"rows": []}, "runtime": given}))
        for fifo in ("hold", "load"):
            os.mkfifo(tmp_path / "m" / fifo)
        return start(tmp_path, PODPAIR_SERVER__SHUTDOWN_SECONDS="20")

    return begin


def predict(body: str, kind: str = "def") -> str:
    """A `predict` that does it where it is asked for `x`; else it answers its process id."""
    return (
        f"    {kind} predict(self, batch):\n        if batch[0] == 'x':\n            {body}\n"
        "        return [os.getpid() for _ in batch]\n"
    )


def test_while_a_model_holds_the_gil_all_else_is_answered(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(predict("hold('hold')"), head=HOLD)
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(ask, server, "x")
        # It is there; from now on, but for a moment at the beginning, no Python runs in its process.
        with (tmp_path / "m/hold").open("wb") as fifo:
            for _ in range(20):
                for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/v2/models/m/ready"):
                    assert server.get(path).status == 200
                assert ask(server, "y", "other").json["outputs"][0]["data"] == ["y"]
            assert not held.done()
            fifo.write(b"1")
        assert held.result(60).status == 200


NEVER = {
    "thread": predict("threading.Event().wait()"),
    "loop": predict("threading.Event().wait()", "async def"),
    "coroutine": predict("await asyncio.Event().wait()", "async def"),
    "holding the GIL": predict("ctypes.PyDLL(None).pause()"),
}


@pytest.mark.parametrize("kind", NEVER)
def test_a_run_that_never_returns_is_ended_with_its_process(serve: Callable[..., Any], kind: str) -> None:
    server = serve(NEVER[kind], timeout=1)
    before = pid_of(server)
    answer = ask(server, "x")
    assert answer.status == 500
    assert answer.json["error"] == (
        "model m failed: a run took longer than 1 s (runtime.timeout_seconds), and its process was killed, "
        "with the requests that it had"
    )
    assert pid_of(server) != before
    assert gone(before)
    assert restarts(server, "timeout") == 1
    record = server.record("a model's process has ended, and is restarted")
    assert (record["model"], record["version"], record["in_seconds"]) == ("m", 1, 0)
    assert "took longer than 1 s" in record["reason"]
    # Where it was.
    assert kind in ("loop", "coroutine") or "in predict" in record["traceback"]
    assert ask(server, "y", "other").status == 200


STREAMS = {
    "thread": "    def stream(self, request):\n        yield 'begun'\n        threading.Event().wait()\n",
    "loop": "    async def stream(self, request):\n        yield 'begun'\n        threading.Event().wait()\n",
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_neither_goes_on_nor_ends_is_ended_with_its_process(serve: Callable[..., Any], kind: str) -> None:
    server = serve(predict("pass"), STREAMS[kind], timeout=1)
    before = pid_of(server)
    body = server.post("/v2/models/m/generate_stream", {"input": "x"}).body.decode()
    assert '"output":"begun"' in body
    assert "its stream had no part for 1 s (runtime.timeout_seconds)" in body
    while restarts(server, "timeout") != 1:
        pass
    assert pid_of(server) != before


def test_a_stream_that_only_waits_is_cancelled_and_takes_nothing_along(serve: Callable[..., Any]) -> None:
    stream = "    async def stream(self, request):\n        yield 'begun'\n        await asyncio.Event().wait()\n"
    server = serve(predict("pass"), stream, timeout=1)
    before = pid_of(server)
    for _ in range(2):
        body = server.post("/v2/models/m/generate_stream", {"input": "x"}).body.decode()
        assert "its stream had no part for 1 s" in body
    assert pid_of(server) == before
    assert restarts(server, "timeout") == 0


DEATHS = {
    "os._exit": ("os._exit(3)", "exited", "its process exited with status 3"),
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "signal", "its process was ended by SIGSEGV"),
    "out of memory": ("os.kill(os.getpid(), signal.SIGKILL)", "signal", "SIGKILL (is memory short?)"),
    "closed files": ("os.closerange(3, 1000)", "exited", "its process"),
}


@pytest.mark.parametrize("kind", DEATHS)
def test_a_process_that_dies_fails_what_it_had_and_is_started_again(serve: Callable[..., Any], kind: str) -> None:
    body, word, reason = DEATHS[kind]
    server = serve(predict(body))
    before = pid_of(server)
    answer = ask(server, "x")
    assert answer.status == 500
    assert answer.json["error"].startswith("model m failed: ")
    assert reason in answer.json["error"]
    assert ask(server, "y", "other").status == 200
    assert pid_of(server) != before
    assert restarts(server, word) == 1
    record = server.record("a model's process has ended, and is restarted")
    assert reason in record["reason"]
    assert kind != "a crash" or "in predict" in record["traceback"]
    assert server.terminate() == 0


def test_requests_beside_one_that_kills_the_process_fail_with_it_and_streams_end(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    stream = (
        "    async def stream(self, request):\n        yield 'begun'\n"
        "        open(HERE + 'hold', 'w').close()\n        await asyncio.Event().wait()\n"
    )
    server = serve(predict("os._exit(3)"), stream)
    with ThreadPoolExecutor(1) as threads:
        streaming = threads.submit(server.post, "/v2/models/m/generate_stream", {"input": "x"})
        (tmp_path / "m/hold").open().close()
        assert ask(server, "x").status == 500
        parts = streaming.result(60).body.decode()
    assert '"output":"begun"' in parts
    assert "its process exited with status 3, with the requests that it had" in parts


def test_while_it_is_started_again_only_that_model_is_not_ready(serve: Callable[..., Any], tmp_path: Path) -> None:
    # From the second time on loading waits for the test.
    load = (
        "    def load(self):\n        if os.path.exists(HERE + 'again'):\n            open(HERE + 'load').close()\n"
        "        open(HERE + 'again', 'w').close()\n"
    )
    server = serve(load, predict("os._exit(3)"))
    assert is_ready(server)
    ask(server, "x")
    while is_ready(server):
        pass
    refused = server.get("/v2/models/m/ready")
    assert refused.status == 503
    assert "model m is not ready: its process exited with status 3; it is being restarted" in refused.json["error"]
    assert ask(server).status == 503
    assert server.post("/v2/models/m/generate", {"input": "x"}).status == 503
    assert server.get("/v2/health/ready").status == 200
    assert is_ready(server, "other")
    metrics = server.get("/metrics").body.decode()
    assert 'inference_model_ready{model="m"} 0.0' in metrics
    assert 'inference_model_ready{model="other"} 1.0' in metrics
    index = {entry["name"]: entry for entry in server.post("/v2/repository/index", {}).json}
    assert (index["m"]["state"], index["other"]["state"]) == ("UNAVAILABLE", "READY")
    assert "exited with status 3" in index["m"]["reason"]
    (tmp_path / "m/load").open("w").close()
    while not is_ready(server):
        pass
    assert ask(server).status == 200
    assert 'inference_model_ready{model="m"} 1.0' in server.get("/metrics").body.decode()


def test_one_that_dies_at_each_start_is_tried_again_and_takes_nothing_along(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    load = (
        "    def load(self):\n        if os.path.exists(HERE + 'again'):\n            os._exit(4)\n"
        "        open(HERE + 'again', 'w').close()\n"
    )
    server = serve(load, predict("os._exit(3)"))
    ask(server, "x")
    while restarts(server, "load") < 2:
        assert ask(server, "y", "other").status == 200
    assert "while it was loaded its process exited with status 4" in server.get("/v2/models/m/ready").json["error"]
    assert server.get("/v2/health/ready").status == 200
    # What it lacked is there again.
    (tmp_path / "m/again").unlink()
    pid_of(server)
    assert server.terminate() == 0


def test_one_that_dies_when_it_is_loaded_first_leaves_the_others_served(serve: Callable[..., Any]) -> None:
    server = serve("    def load(self):\n        os._exit(4)\n", predict("pass"))
    assert ask(server, "y", "other").status == 200
    assert "while it was loaded its process exited with status 4" in server.get("/v2/models/m/ready").json["error"]


def test_a_load_that_takes_too_long_is_ended(serve: Callable[..., Any]) -> None:
    load = "    def load(self):\n        threading.Event().wait()\n"
    server = serve(load, predict("pass"), load_timeout_seconds=1)
    error = server.get("/v2/models/m/ready").json["error"]
    assert "it took longer than 1 s to load (runtime.load_timeout_seconds)" in error
    assert ask(server, "y", "other").status == 200


def test_what_is_started_again_is_warmed_up_first(serve: Callable[..., Any], tmp_path: Path) -> None:
    count = "    runs = 0\n    def predict(self, batch):\n        M.runs += 1\n" + (
        "        if batch[0] == 'x':\n            os._exit(3)\n        return [M.runs for _ in batch]\n"
    )
    server = serve(count)
    (tmp_path / "m/model.yaml").write_text(json.dumps({"warmup": {"rows": [1, 2, 3]}}))
    assert server.post("/v2/repository/models/m/load", {}).status == 200
    assert pid_of(server) == 4
    ask(server, "x")
    assert pid_of(server) == 4


@pytest.mark.parametrize("held", [False, True], ids=["", "holding the GIL"])
def test_a_server_that_is_killed_leaves_no_process_behind(
    serve: Callable[..., Any], tmp_path: Path, held: bool
) -> None:
    server = serve(predict("hold('hold')"), head=HOLD)
    pid = pid_of(server)
    with ThreadPoolExecutor(1) as threads:
        if held:
            threads.submit(ask, server, "x")
            fifo = (tmp_path / "m/hold").open("wb")
        server.process.kill()
        server.process.wait()
        while not gone(pid):
            pass
    if held:
        fifo.close()


def test_signals_for_all_of_the_server_s_processes_leave_the_model_until_all_is_answered(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(predict("open(HERE + 'hold').close()"))
    pid = pid_of(server)
    # What a terminal sends doesn't reach it; what systemd and the like send to each process does.
    assert os.getpgid(pid) != os.getpgid(server.process.pid)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, server, "x")
        while 'inference_running_batches{model="m"} 1.0' not in server.get("/metrics").body.decode():
            pass
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, number)
        server.process.send_signal(signal.SIGTERM)
        server.record("stopping")
        (tmp_path / "m/hold").open("w").close()
        assert asked.result(60).status == 200
    assert server.process.wait(60) == 0
    assert gone(pid)


def test_it_has_none_of_the_server_s_files_and_its_own_signals(serve: Callable[..., Any]) -> None:
    load = "    def load(self):\n        signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
    server = serve(load, predict("pass"))
    pid = pid_of(server)

    def sockets(process: int) -> set[str]:
        files = Path(f"/proc/{process}/fd")
        names = set()
        for file in files.iterdir():
            with suppress(OSError):
                names.add(os.readlink(file))
        return {name for name in names if name.startswith("socket:")}

    assert sockets(pid)
    assert not sockets(pid) & sockets(server.process.pid)


def test_processes_of_its_own_end_with_it(serve: Callable[..., Any]) -> None:
    body = "import subprocess; return [subprocess.Popen(['sleep', '600']).pid]"
    server = serve(predict(body))
    child = int(ask(server, "x").json["outputs"][0]["data"][0])
    assert not gone(child)
    assert server.terminate() == 0
    while not gone(child):
        pass


def test_processes_that_it_spawns_find_its_functions_and_imports_work_at_any_time(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    head = "import concurrent.futures, multiprocessing\ndef double(text):\n    return 2 * text\n"
    body = (
        "import beside\n            context = multiprocessing.get_context('spawn')\n"
        "            with concurrent.futures.ProcessPoolExecutor(1, context) as pool:\n"
        "                return [*pool.map(double, [beside.TEXT])]"
    )
    server = serve(predict(body), head=head)
    (tmp_path / "m/1/beside.py").write_text("TEXT = 'ab'")
    assert ask(server, "x").json["outputs"][0]["data"] == ["abab"]


def test_unloading_and_reloading_end_its_process(serve: Callable[..., Any]) -> None:
    server = serve(predict("pass"))
    first = pid_of(server)
    assert server.post("/v2/repository/models/m/load", {}).status == 200
    second = pid_of(server)
    assert first != second
    assert server.post("/v2/repository/models/m/unload", {}).status == 200
    while not (gone(first) and gone(second)):
        pass
    assert restarts(server, "exited") == restarts(server, "signal") == 0


def test_unloading_ends_one_that_is_still_being_started_again(serve: Callable[..., Any], tmp_path: Path) -> None:
    load = (
        "    def load(self):\n        if os.path.exists(HERE + 'again'):\n"
        "            open(HERE + 'load', 'w').write(str(os.getpid()))\n            threading.Event().wait()\n"
        "        open(HERE + 'again', 'w').close()\n"
    )
    server = serve(load, predict("os._exit(3)"))
    ask(server, "x")
    pid = int((tmp_path / "m/load").read_text())
    assert server.post("/v2/repository/models/m/unload", {}).status == 200
    while not gone(pid):
        pass
    assert ask(server).status == 404


def test_errors_reach_clients_as_in_the_server_s_process(serve: Callable[..., Any]) -> None:
    head = (
        "from podpair.inference.core.errors import InvalidRequestError, OverloadedError\n"
        "class Mine(InvalidRequestError): pass\n"
    )
    server = serve(
        "    def predict(self, batch):\n        raise {'mine': Mine('not so'), 'full': OverloadedError('no room', 7)}.get("
        "batch[0], KeyError('k'))\n",
        head=head,
    )
    mine, full, other = (ask(server, text) for text in ("mine", "full", "z"))
    assert (mine.status, mine.json["error"]) == (400, "not so")
    assert (full.status, full.headers["Retry-After"]) == (429, "7")
    assert other.status == 500
    record = server.record("the model failed")
    assert record["error"].startswith("KeyError: 'k' (model.py:")
    # The traceback is the one there.
    assert "1/model.py" in record["exc_info"]


@pytest.mark.parametrize("runtime", [{"timeout_seconds": 5}, {"load_timeout_seconds": 5}])
def test_what_needs_a_process_says_so(tmp_path: Path, start: Callable[..., Any], runtime: dict[str, Any]) -> None:
    for name in ("m", "other"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1/model.py").write_text(ECHO)
    (tmp_path / "m/model.yaml").write_text(json.dumps({"runtime": {"process": False, **runtime}}))
    server = start(tmp_path)
    error = server.get("/v2/models/m/ready").json["error"]
    assert f"{next(iter(runtime))} needs process: true" in error
