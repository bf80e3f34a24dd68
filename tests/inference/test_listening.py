"""Where the container listens, how answers are packed, and the command that probes run."""

import gzip
import json
import socket
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness.processes import BIN, completed
from podpair.inference.grpc.proto import open_inference_pb2

pytestmark = pytest.mark.process

COMMAND = str(BIN / "podpair-inference")


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def health(*arguments: str, **environment: str) -> tuple[int, str]:
    done = completed(COMMAND, "health", *arguments, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_rest_and_grpc_over_unix_sockets(repository: Path, tmp_path: Path, start: Callable[..., Any]) -> None:
    rest, rpc = tmp_path / "rest.sock", tmp_path / "grpc.sock"
    # What a process that was killed has left is no hindrance.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(rest))
    settings = {"PODPAIR_SERVER__SOCKET": str(rest), "PODPAIR_GRPC__SOCKET": str(rpc)}
    server = start(repository, **settings)
    assert server.url == f"unix:{rest}"
    assert server.record("gRPC is ready")["address"] == f"unix:{rpc}"
    connection = UnixConnection(rest)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    for _ in range(2):
        connection.request("POST", "/v2/models/plus/infer", json.dumps(body))
        assert json.loads(connection.getresponse().read())["outputs"][0]["data"] == [3.0]
    connection.close()
    with grpc.insecure_channel(f"unix:{rpc}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert health("ready", **settings) == (0, "ready: yes\n")
    assert health("live", "--url", f"unix:{rest}") == (0, "live: yes\n")
    # A second one finds it taken.
    second = completed(COMMAND, "serve", "--models", repository, env=settings)
    assert second.returncode == 1
    assert f"can't listen on {rest}: something listens there" in second.stderr
    assert server.terminate() == 0
    assert not rest.exists()


def test_health_says_what_it_found(repository: Path, tmp_path: Path, start: Callable[..., Any]) -> None:
    server = start(repository)
    port = server.url.rpartition(":")[2]
    assert health("live", PODPAIR_SERVER__PORT=port) == (0, "live: yes\n")
    assert health("ready", PODPAIR_SERVER__PORT=port, PODPAIR_SERVER__HOST="0.0.0.0") == (0, "ready: yes\n")
    assert health("--url", server.url) == (0, "ready: yes\n")
    waiting = start(tmp_path / "nothing", wait_for="listening", PODPAIR_MODELS__WATCH="true")
    assert health("live", "--url", waiting.url) == (0, "live: yes\n")
    status, text = health("ready", "--url", waiting.url)
    assert (status, text.startswith("ready: no: 503 ")) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = nobody.getsockname()[1]
    status, text = health("ready", PODPAIR_SERVER__PORT=str(free))
    assert (status, f"http://127.0.0.1:{free}" in text, "refused" in text) == (1, True, True)
    for wrong in (["never"], ["live", "ready"], ["--url", "https://x"]):
        status, text = health(*wrong)
        assert (status, text.startswith("usage: ")) == (2, True)


def test_health_imports_next_to_nothing() -> None:
    code = (
        "import sys; sys.argv = ['podpair-inference', 'health', '--url', 'http://127.0.0.1:1']\n"
        "from podpair.inference.cli.entry import main\n"
        "try: main()\n"
        "except SystemExit: print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert not {"click", "numpy", "pydantic", "asyncio", "urllib", "http", "yaml", "msgspec"} & set(done.stdout.split())


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
@pytest.mark.parametrize("rows", [300, 40_000])
def test_answers_are_packed_for_a_client_that_asks_for_one_coding(
    served: Any, coding: str, unpack: Callable[[bytes], bytes], rows: int
) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, rows], "data": [0.25] * rows}]}
    answer = served.post("/v2/models/plus/infer", body, {"Accept-Encoding": coding})
    assert answer.headers["Content-Encoding"] == coding
    assert len(answer.body) < 10 * rows
    assert json.loads(unpack(answer.body))["outputs"][0]["data"] == [2.25] * rows
    binary = {**body, "parameters": {"binary_data_output": True}}
    packed = served.post("/v2/models/plus/infer", binary, {"Accept-Encoding": coding})
    content = unpack(packed.body)
    length = int(packed.headers["Inference-Header-Content-Length"])
    assert len(content) - length == 4 * rows


@pytest.mark.parametrize("accepted", ["gzip, deflate", "identity", "gzip;q=0", "*"])
def test_answers_are_plain_for_everybody_else(served: Any, accepted: str) -> None:
    request = urllib.request.Request(f"{served.url}/metrics", headers={"Accept-Encoding": accepted})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert "Content-Encoding" not in answer.headers
        assert b"inference_queue_depth" in answer.read()


def test_a_client_that_leaves_while_its_answer_is_packed_harms_nobody(served: Any) -> None:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 40_000], "data": [1] * 40_000}]})
    for _ in range(5):
        connection = HTTPConnection(served.url.removeprefix("http://"), timeout=30)
        connection.request("POST", "/v2/models/plus/infer", body, {"Accept-Encoding": "gzip"})
        connection.close()
    assert served.get("/v2/health/ready").status == 200


@contextmanager
def counted(address: str) -> Iterator[tuple[str, list[int]]]:
    """An address that leads to `address`, and the sizes of what comes back from there."""
    sizes: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(3) as threads:

        def copy(source: socket.socket, target: socket.socket, note: Callable[[int], object]) -> None:
            with suppress(OSError):  # either end may have gone
                while data := source.recv(65_536):
                    note(len(data))
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def forward() -> None:
            host, _, port = address.rpartition(":")
            client, _ = listener.accept()
            with client, socket.create_connection((host, int(port))) as there:
                back = threads.submit(copy, there, client, sizes.append)
                copy(client, there, lambda _: None)
                back.result(30)

        forwarding = threads.submit(forward)
        yield "127.0.0.1:" + str(listener.getsockname()[1]), sizes
        forwarding.result(30)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_grpc_answers_are_packed_where_it_is_set(repository: Path, start: Callable[..., Any], compression: str) -> None:
    server = start(repository, PODPAIR_GRPC__COMPRESSION=compression)
    request = open_inference_pb2.ModelInferRequest(model_name="plus")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 50_000])
    request.raw_input_contents.append(bytes(200_000))
    with counted(server.record("gRPC is ready")["address"]) as (address, sizes):
        with grpc.insecure_channel(address, compression=grpc.Compression.Gzip) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                open_inference_pb2.ModelInferRequest.SerializeToString,
                open_inference_pb2.ModelInferResponse.FromString,
            )
            answer = infer(request, timeout=30)
        assert answer.raw_output_contents == [b"\0\0\0\x40" * 50_000]
    assert (sum(sizes) < 50_000) == (compression != "none")
