"""What the whole way of a request is measured on, beside podpair: a WebSocket, and a model in its process or behind a queue."""

import os
import shutil
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench.peers.building import HERE, CannotBuild, python
from harness.pair import SECRET
from harness.processes import Child, free_port

_NAME = "websocket_server"
_WORKERS = 2  # processes of Celery, a core each here


class Peer(NamedTuple):
    """A server that listens at `url`, and its processes (with those below them)."""

    url: str
    processes: dict[str, int]


def in_process(model: Path, stack: ExitStack) -> Peer:
    """FastAPI with the model in its process. Raises CannotBuild."""
    server, url = _serve(model, stack, [], {})
    return Peer(url, {"server": server.pid})


def with_celery(model: Path, stack: ExitStack) -> Peer:
    """FastAPI, and the model in Celery's workers behind Redis. Raises CannotBuild."""
    redis = shutil.which("redis-server")
    if redis is None:
        raise CannotBuild("redis-server is not on this machine (Debian's package redis-server)")
    port = free_port()
    store = Child("sh", "-c", 'exec "$@" >&2', "sh", redis, "--port", str(port), "--bind", "127.0.0.1", "--save", "")
    stack.callback(store.stop)
    store.wait_for(lambda line: "Ready to accept connections" in line)
    env = {"REDIS": f"redis://127.0.0.1:{port}/0"}
    worker = celery_worker(model, stack, env)
    server, url = _serve(model, stack, ["--celery"], env)
    return Peer(url, {"server": server.pid, "worker": worker.pid, "redis": store.pid})


def celery_worker(model: Path, stack: ExitStack, env: dict[str, str], *options: str) -> Child:
    """Celery's workers with the model; `env` says where their broker is. Raises CannotBuild."""
    interpreter, _ = python(_NAME, "server.py")
    command = [interpreter, "-m", "celery", "-A", "tasks", "worker", "--concurrency", str(_WORKERS), *options]
    quiet = ("--without-mingle", "--without-gossip", "--loglevel", "info")
    worker = Child(*command, *quiet, env=_environment(model, env), cwd=HERE / _NAME)
    stack.callback(worker.stop)
    worker.wait_for(lambda line: line.endswith(" ready."))
    return worker


def _environment(model: Path, more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "MODEL": str(model), "PYTHONPATH": "", **more}


def _serve(model: Path, stack: ExitStack, options: list[str], more: dict[str, str]) -> tuple[Child, str]:
    port = free_port()
    command = [*python(_NAME, "server.py"), "--port", str(port), "--secret", SECRET, *options]
    server = Child(*command, env=_environment(model, more))
    stack.callback(server.kill)
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
        except urllib.error.URLError:
            if time.monotonic() > end or server.process.poll() is not None:
                raise CannotBuild("FastAPI does not come up: " + "\n".join(server.lines[-5:])) from None
            time.sleep(0.1)
        else:
            return server, f"ws://127.0.0.1:{port}/ws"
