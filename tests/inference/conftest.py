"""Model repositories made for a test, the real server as a process, and the application with a runtime that waits."""

import asyncio
import json
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from harness.processes import Child
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.tensors import Array, TensorSpec
from podpair.inference.http.app import Api
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.repository import ModelFolder

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


class Reply:
    """An HTTP answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server(Child):
    """`podpair-inference serve` as a process on a free port."""

    def __init__(
        self,
        repository: Path | None,
        *options: str,
        wait_for: str = "ready",
        within: float = 30,
        cwd: Path | None = None,
        **environment: str,
    ) -> None:
        command = [sys.executable, "-m", "podpair.inference.cli.main", "serve", "--port", "0"]
        models = [] if repository is None else ["--models", str(repository)]
        super().__init__(*command, *models, *options, env=environment, cwd=cwd)
        self.url = self.record(wait_for, within)["url"]

    @property
    def records(self) -> list[dict[str, Any]]:
        """What it has logged so far; a line that is no record is the message of one."""
        return [_record(line) for line in self.lines]

    def record(self, message: str, within: float = 30) -> dict[str, Any]:
        """The log's first record with that message; waits for it, so many seconds without a line at most."""
        return _record(self.wait_for(lambda line: _record(line)["message"] == message, within))

    def get(self, path: str) -> Reply:
        return self._open(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._open(urllib.request.Request(self.url + path, data, headers or {}, method="POST"))

    def terminate(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, and the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(30)
        self._finish()
        return status

    def _open(self, request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())


def _record(line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line) if line.startswith("{") else {"message": line.strip()}
    return found


@pytest.fixture(scope="module", params=[True, False], ids=["process", "thread"])
def process(request: pytest.FixtureRequest) -> bool:
    """`runtime.process`: whether Python classes have processes of their own; what uses it is tried both ways."""
    return bool(request.param)


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test."""
    servers: list[Server] = []

    def begin(repository: Path, *options: str, **environment: str) -> Server:
        servers.append(Server(repository, *options, **environment))
        return servers[-1]

    yield begin
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[Server]]:
    """A server for as long as the `with` lasts: for fixtures, which share it."""

    @contextmanager
    def begin(repository: Path | None, *options: str, **rest: Any) -> Iterator[Server]:
        server = Server(repository, *options, **rest)
        try:
            yield server
        finally:
            server.kill()

    return begin


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that only ask: the digits, and the models of `zoo`, bodies up to 1 MB."""
    repository = tmp_path_factory.mktemp("models")
    (repository / "digits").symlink_to(EXAMPLES / "models/digits")
    zoo(repository)
    server = Server(repository, PODPAIR_SERVER__MAX_BODY_BYTES="1000000")
    yield server
    server.kill()


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    constants: dict[str, Array] | None = None,
    config: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    domain: tuple[str, int] | None = None,
) -> None:
    """Write `<model>/<version>/model.onnx`, and the model.yaml if there is something to say."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(*domain)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = ir_version
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(model.SerializeToString())
    if config:
        (path.parent / "model.yaml").write_text(yaml.safe_dump(config))


def zoo(repository: Path) -> None:
    """Small models, each for one trait."""
    f32, i64, text, flag = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
    one = {"one": np.array([1], np.float32)}
    two = {"one": np.array([2], np.float32)}
    add = helper.make_node("Add", ["x", "one"], ["y"])
    # Two versions that differ; no model.yaml; any number of columns.
    save(repository / "plus/1", [add], {"x": (f32, ["n", None])}, {"y": (f32, ["n", None])}, one)
    save(repository / "plus/2", [add], {"x": (f32, ["n", None])}, {"y": (f32, ["n", None])}, two)
    # Three inputs of other types.
    save(
        repository / "mixed/1",
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("text", "count", "flag")],
        {"text": (text, ["n"]), "count": (i64, ["n", 2]), "flag": (flag, ["n"])},
        {"text_out": (text, ["n"]), "count_out": (i64, ["n", 2]), "flag_out": (flag, ["n"])},
    )
    # No batch dimension.
    save(repository / "fixed/1", [add], {"x": (f32, [2, 2])}, {"y": (f32, [2, 2])}, one)
    # NaN is a value here.
    allowed = [{"name": "x", "datatype": "FP32", "shape": [-1, 1], "allow_nan": True}]
    save(repository / "nan/1", [add], {"x": (f32, ["n", 1])}, {"y": (f32, ["n", 1])}, one, {"inputs": allowed})
    # An index out of range fails inside the runtime.
    save(
        repository / "lookup/1",
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        {"i": (i64, ["n", 1])},
        {"y": (f32, ["n", 1])},
        {"table": np.arange(10, dtype=np.float32)},
    )


class Gate:
    """A runtime that computes `x + 1` when it is let; rows with a negative number make it fail."""

    platform = "test"
    predicts = inline = True
    takes_parameters = False
    calls_models = False
    instances = 1
    inputs = (TensorSpec("x", "FP32", (-1, -1)),)
    outputs = (TensorSpec("y", "FP32", (-1, -1)),)

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        # Rows of each run, and a semaphore that is released when one begins.
        self.runs: list[int] = []
        self.began = threading.Semaphore(0)

    def run(self, arrays: Sequence[Array], parameters: Any = ()) -> list[Array]:
        (x,) = arrays
        self.runs.append(len(x))
        self.began.release()
        assert self.open.wait(20)
        if (x < 0).any():
            raise ValueError("a negative number")
        return [x + 1]

    def close(self) -> None:
        pass


class Fixed:
    """A repository of one model that is always the same."""

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder

    def read(self) -> list[ModelFolder]:
        return [self._folder]

    def find(self, name: str) -> ModelFolder:
        return self._folder

    def names(self) -> list[str]:
        return [self._folder.name]


class Application:
    """The application in this process, serving one model `gate`."""

    def __init__(self, gate: Gate, client: aiohttp.ClientSession, catalog: Catalog, metrics: Metrics) -> None:
        self.gate, self.client, self.catalog, self.metrics = gate, client, catalog, metrics

    def ask(self, *rows: float, headers: dict[str, str] | None = None) -> "asyncio.Task[tuple[int, Any, Any]]":
        """One request with a row for each number; (status, JSON, headers)."""
        tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 1], "data": list(rows)}

        async def post() -> tuple[int, Any, Any]:
            async with self.client.post("/v2/models/gate/infer", json={"inputs": [tensor]}, headers=headers) as answer:
                return answer.status, await answer.json(), answer.headers

        return asyncio.create_task(post())

    async def running(self) -> None:
        """Wait until a run has begun."""
        assert await asyncio.to_thread(self.gate.began.acquire, timeout=20)

    async def queued(self, rows: int) -> None:
        """Wait until that many rows are queued."""
        scheduler = self.catalog.version("gate", None).scheduler
        async with asyncio.timeout(20):
            while scheduler.depth != rows:
                await asyncio.sleep(0)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
async def application() -> AsyncIterator[Callable[..., Any]]:
    """Start the application; `config` is the model's model.yaml. Its runs never stay in the loop."""
    gate = Gate()
    async with AsyncExitStack() as ends:

        async def begin(**config: Any) -> Application:
            config.setdefault("runtime", {}).setdefault("inline_below_ms", 0)
            gate.instances = config["runtime"].get("instances", 1)
            folder = ModelFolder("gate", Path("gate"), ModelConfig.model_validate(config), {1: Path("gate/1")})
            metrics = Metrics()
            catalog = Catalog(Fixed(folder), metrics, lambda folder, version: gate)
            server = Api(catalog, metrics, 1_000_000).server(MemoryBudget(1 << 30))
            ends.push_async_callback(server.close, 10)
            host, port = await server.listen("127.0.0.1", 0)
            client = await ends.enter_async_context(aiohttp.ClientSession(f"http://{host}:{port}"))
            await catalog.start()
            gate.runs.clear()
            gate.began = threading.Semaphore(0)
            return Application(gate, client, catalog, metrics)

        yield begin
        gate.open.set()


@pytest.fixture
def gate() -> type[Gate]:
    """The runtime that waits, to make one's own."""
    return Gate


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The zoo in a folder of the test's own."""
    path = tmp_path / "models"
    zoo(path)
    return path


@pytest.fixture(scope="session")
def save_model() -> Callable[..., None]:
    """Write an ONNX model into a repository."""
    return save
