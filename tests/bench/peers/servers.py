"""The servers that inference is measured on: podpair's, and what a user would pick instead; each told what suits the workload.

A starter yields the server's process and the ways to ask it once it answers. Raises CannotBuild where a machine lacks what it
is built with, DidNotStart where it doesn't answer.
"""

import base64
import importlib.util
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import grpc
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.loads import GRPC_METHOD, Way
from bench.peers.building import CannotBuild, python, rust
from bench.workloads import Workload
from harness.processes import BIN, ROOT, free_port

_JSON = {"Content-Type": "application/json"}
_BYTES = {"Content-Type": "application/octet-stream"}
_INFER = "/v2/models/m/infer"


class DidNotStart(Exception):
    """It was built, and doesn't answer."""


class Running(NamedTuple):
    """A process that answers, and those below it."""

    pid: int
    ways: Sequence[Way]
    # From its start to its first answer, the first way's.
    seconds: float


# Most servers are one process; some need another one for each kind of body.
Starter = Callable[[Workload], AbstractContextManager[list[Running]]]


def grpc_client() -> Path:
    """The load client for gRPC. Raises CannotBuild."""
    return rust("native_inference").with_name("grpc-load")


@contextmanager
def podpair(workload: Workload) -> Iterator[list[Running]]:
    """`podpair-inference serve`, as anybody gets it."""
    http, rpc = free_port(), free_port()
    command = [str(BIN / "podpair-inference"), "serve", "--models", str(workload.repository), "--port", str(http)]
    settings = {"PODPAIR_GRPC__PORT": str(rpc), "PODPAIR_LOG__LEVEL": "warning"}
    with running(command, settings, _v2(workload, http, rpc)) as server:
        yield server


def native(wait_us: int) -> Starter:
    """The Rust server, with batches that wait so long for company."""

    @contextmanager
    def start(workload: Workload) -> Iterator[list[Running]]:
        http, rpc = free_port(), free_port()
        options = {
            "http": http, "grpc": rpc, "runtime": _onnxruntime(), "model": workload.model, "batch": workload.batch,
            "shape": ",".join(map(str, workload.shape)), "workers": workload.workers, "wait-us": wait_us,
        }  # fmt: skip
        command = [str(rust("native_inference")), *(f"--{name}={value}" for name, value in options.items())]
        with running(command + ["--image"] * workload.image, {}, _v2(workload, http, rpc)) as server:
            yield server

    return start


@contextmanager
def mosec(workload: Workload) -> Iterator[list[Running]]:
    """One process for each kind of body: JSON or bytes."""
    command = python("mosec_server", "server.py")
    with ExitStack() as processes:
        kinds = [False, True] if workload.name == "small" else [True]
        yield [running for raw in kinds for running in processes.enter_context(_mosec(command, workload, raw))]


@contextmanager
def _mosec(command: Sequence[str], workload: Workload, raw: bool) -> Iterator[list[Running]]:
    port = free_port()
    body = workload.payload if raw else json.dumps(workload.numbers).encode()
    way = Way("HTTP, raw" if raw else "HTTP, JSON", port, body, "/inference", _BYTES if raw else _JSON)
    arguments = ["--port", str(port), "--address", "127.0.0.1", "--log-level", "error"]
    with running([*command, *arguments], {**workload.environment, **({"RAW": "1"} if raw else {})}, [way]) as server:
        yield server


@contextmanager
def fastapi(workload: Workload) -> Iterator[list[Running]]:
    """FastAPI on uvicorn, one process."""
    port = free_port()
    ways = [Way("HTTP, raw", port, workload.payload, "/raw", _BYTES)]
    if workload.name == "small":
        ways.append(Way("HTTP, JSON", port, json.dumps(workload.numbers).encode(), "/json", _JSON))
    with _peer("fastapi_server", workload, ways, port=port) as server:
        yield server


@contextmanager
def litserve(workload: Workload) -> Iterator[list[Running]]:
    """LitServe: JSON only, bytes in it as base64."""
    port = free_port()
    given = workload.numbers if workload.name == "small" else base64.b64encode(workload.payload).decode()
    way = Way("HTTP, JSON", port, json.dumps({"x": given}).encode(), "/predict", _JSON)
    with _peer("litserve_server", workload, [way], port=port) as server:
        yield server


@contextmanager
def mlserver(workload: Workload) -> Iterator[list[Running]]:
    """MLServer: raw tensors over gRPC only."""
    http, rpc, metrics = free_port(), free_port(), free_port()
    ways = [way for way in _v2(workload, http, rpc) if way.name != "HTTP, raw"]
    with _peer("mlserver_server", workload, ways, port=http, grpc_port=rpc, metrics_port=metrics) as server:
        yield server


@contextmanager
def kserve(workload: Workload) -> Iterator[list[Running]]:
    """KServe's own Python server."""
    http, rpc = free_port(), free_port()
    # Its REST front wants UTF-8 where the input is BYTES: files go over gRPC.
    ways = [way for way in _v2(workload, http, rpc) if way.over_grpc or not workload.image]
    with _peer("kserve_server", workload, ways, port=http, grpc_port=rpc) as server:
        yield server


@contextmanager
def bentoml(workload: Workload) -> Iterator[list[Running]]:
    """BentoML: batches of JSON, or bytes."""
    port = free_port()
    ways = [Way("HTTP, raw", port, workload.payload, "/raw", _BYTES)]
    if workload.name == "small":
        ways.append(Way("HTTP, JSON", port, json.dumps({"x": [workload.numbers]}).encode(), "/json", _JSON))
    with _peer("bentoml_server", workload, ways, port=port) as server:
        yield server


SERVERS: dict[str, Starter] = {
    "podpair": podpair,
    "native": native(0),
    "native, 2 ms wait": native(2000),
    "mosec": mosec,
    "FastAPI": fastapi,
    "LitServe": litserve,
    "MLServer": mlserver,
    "KServe": kserve,
    "BentoML": bentoml,
}


def suits(name: str, workload: Workload) -> bool:
    """Whether a server has anything to show: where nothing is batched, nothing waits for a batch."""
    return workload.batch > 1 or "wait" not in name


def size_on_disk(name: str) -> int:
    """Bytes of a server and all packages that it needs, without the interpreter and without compiled bytecode."""
    if name.startswith("native"):
        return rust("native_inference").stat().st_size + _onnxruntime().stat().st_size
    if name == "podpair":
        return sum(_bytes(found) for found in _needed("podpair-inference", {}, ("images",)).values())
    command = python(f"{name.lower()}_server", "server.py")
    (packages,) = (Path(command[0]).parents[1] / "lib").glob("python3*/site-packages")
    return sum(_bytes(found) for found in metadata.distributions(path=[str(packages)]))


def _bytes(distribution: metadata.Distribution) -> int:
    files = [Path(str(path.locate())) for path in distribution.files or () if path.suffix != ".pyc"]
    whose, _, own = distribution.metadata["Name"].partition("podpair-")
    if not whose and own:  # installed for editing: a link
        files = [path for path in (ROOT / own / "src").rglob("*") if path.suffix != ".pyc"]
    return sum(path.stat().st_size for path in files if path.is_file())


def _needed(
    name: str, found: dict[str, metadata.Distribution], extras: Sequence[str] = ()
) -> dict[str, metadata.Distribution]:
    """A distribution and all that it needs here."""
    if name in found:
        return found
    found[name] = metadata.distribution(name)
    for text in found[name].requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            _needed(canonicalize_name(requirement.name), found, tuple(requirement.extras))
    return found


def _v2(workload: Workload, http: int, rpc: int) -> list[Way]:
    """The ways of a server of the Open Inference Protocol. A file, or a large tensor, in JSON is nobody's way."""
    body, headers = workload.v2_raw()
    ways = [Way("HTTP, raw", http, body, _INFER, headers), Way("gRPC", rpc, workload.v2_grpc())]
    if workload.name == "small":
        ways.insert(0, Way("HTTP, JSON", http, workload.v2_json(), _INFER, _JSON))
    return ways


def _onnxruntime() -> Path:
    """The shared library in the wheel that podpair itself uses."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    found = sorted((Path(spec.origin).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        raise CannotBuild("the onnxruntime wheel on this machine has no shared library of its own")
    return found[0]


@contextmanager
def _peer(name: str, workload: Workload, ways: Sequence[Way], **ports: int) -> Iterator[list[Running]]:
    command = python(name, "server.py")
    arguments = [part for key, port in ports.items() for part in (f"--{key.replace('_', '-')}", str(port))]
    with running([*command, *arguments], workload.environment, ways) as server:
        yield server


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], ways: Sequence[Way]) -> Iterator[list[Running]]:
    """A server for as long as the `with` lasts, once each of its ways answers."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    began, first = time.monotonic(), 0.0
    try:
        for way in ways:
            while not _answers(way):
                if time.monotonic() > began + 60 or process.poll() is not None:
                    raise DidNotStart(f"it doesn't answer over {way.name}")
                time.sleep(0.005)
            first = first or time.monotonic() - began
        yield [Running(process.pid, ways, first)]
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        # Some leave processes behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(way: Way) -> bool:
    if way.over_grpc:
        with grpc.insecure_channel(f"127.0.0.1:{way.port}") as channel:
            try:
                return bool(channel.unary_unary(f"/{GRPC_METHOD}")(way.body, timeout=30))
            except grpc.RpcError:
                return False
    request = urllib.request.Request(way.url, way.body, dict(way.headers), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
