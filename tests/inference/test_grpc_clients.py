"""gRPC's clients in other languages, and proxies between: each has an HTTP/2 of its own, and podpair's has to suit them."""

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from harness import environments, javascript
from harness.go import installed
from harness.machine import require
from harness.maven import jars
from harness.processes import Child, free_port, output_of
from inference.test_grpc import CHAT, STUCK
from podpair.inference.grpc.proto import open_inference_pb2 as pb

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples/models"
SERVICE = f"/{pb.DESCRIPTOR.services_by_name['GRPCInferenceService'].full_name}"
MANY, ROWS = 300, 5000
_GO_CLIENT = hashlib.sha256(
    b"".join((HERE / "outside/go" / name).read_bytes() for name in ("go.sum", "main.go"))
).hexdigest()[:16]

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]  # what they need may have to be fetched


def in_javascript() -> tuple[list[str | Path], Path | None]:
    folder = javascript.packages(HERE / "outside/javascript/package-lock.json")
    return [javascript.node(), HERE / "outside/javascript/grpc_js.mjs"], folder


def in_java() -> tuple[list[str | Path], Path | None]:
    java, _ = require("java", "javac")
    libraries = jars(HERE / "outside/java/pom.xml", "grpc-java")
    program = HERE / "outside/java/GrpcJava.java"
    return [java, "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{libraries}/*", program], None


def in_go() -> tuple[list[str | Path], Path | None]:
    return [installed("grpc-go-client", _GO_CLIENT, "-mod=readonly", ".", cwd=HERE / "outside/go")], None


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any]) -> Iterator[str]:
    """A server with the digits, a class that streams, and one that never answers."""
    repository = tmp_path_factory.mktemp("clients")
    (repository / "digits").symlink_to(EXAMPLES / "digits")
    for name, code, settings in (
        ("chat", CHAT, "runtime: {max_streams: 4}"), ("stuck", STUCK, "warmup: {rows: []}\nruntime: {process: false}"),
    ):  # fmt: skip
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1/model.py").write_text(code)
        (repository / name / "model.yaml").write_text(settings)
    with serve(repository, PODPAIR_GRPC__SERVER="http2", PODPAIR_GRPC__COMPRESSION="gzip") as server:
        yield server.record("gRPC is ready")["address"]


def pixels(rows: int, model: str = "digits") -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="pixels", datatype="FP32", shape=[rows, 64])
    request.raw_input_contents.append(np.random.default_rng(rows).random((rows, 64), np.float32).tobytes())
    return bytes(request.SerializeToString())


def text(model: str, *texts: str) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    contents = [struct.pack("<I", len(one)) + one.encode() for one in texts]
    request.inputs.add(name="input", datatype="BYTES", shape=[len(texts)])
    request.raw_input_contents.append(b"".join(contents))
    return bytes(request.SerializeToString())


PLAN: dict[str, Any] = {
    "infer": pixels(1), "large": pixels(ROWS), "missing": pixels(1, "none"), "stuck": text("stuck", "x"),
    "stream": [text("chat", "one two three"), text("chat", "four five")],
}  # fmt: skip


def rows(outcome: dict[str, Any]) -> int:
    """Return how many rows an answer has, each with its ten probabilities."""
    response = pb.ModelInferResponse.FromString(base64.b64decode(outcome["message"]))
    (at,) = [i for i, output in enumerate(response.outputs) if output.name == "probabilities"]
    found = np.frombuffer(response.raw_output_contents[at], "<f4").reshape(-1, 10)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-3)
    return len(found)


def words(outcome: dict[str, Any]) -> list[str]:
    messages = [pb.ModelStreamInferResponse.FromString(base64.b64decode(one)) for one in outcome["messages"]]
    assert [message.error_message for message in messages if message.error_message] == []
    contents = [message.infer_response.raw_output_contents for message in messages]
    return sorted(content[0][4:].decode() for content in contents if content)


@pytest.mark.parametrize("client", [in_javascript, in_java, in_go])
def test_clients_in_other_languages(address: str, tmp_path: Path, client: Callable[[], Any]) -> None:
    plan = {name: [*map(encoded, value)] if name == "stream" else encoded(value) for name, value in PLAN.items()}
    more = {"many": MANY, "infer_path": f"{SERVICE}/ModelInfer", "stream_path": f"{SERVICE}/ModelStreamInfer"}
    (tmp_path / "plan.json").write_text(json.dumps(plan | more))
    command, folder = client()
    said = json.loads(output_of(*command, address, tmp_path / "plan.json", cwd=folder))
    assert rows(said["infer"]) == rows(said["after"]) == 1
    assert rows(said["large"]) == rows(said["gzip"]) == ROWS
    assert [rows(one) for one in said["many"]] == [1] * MANY
    assert said["missing"]["code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert "none" in said["missing"]["details"]
    assert said["late"]["code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert said["cancelled"]["code"] == grpc.StatusCode.CANCELLED.value[0]
    assert words(said["stream"]) == ["five", "four", "one", "three", "two"]


def encoded(message: bytes) -> str:
    return base64.b64encode(message).decode()


def nginx(folder: Path, port: int, server: str) -> list[str | Path]:
    (program,) = require("nginx")
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "proxy.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {paths} client_max_body_size 0;"
        f" upstream model {{ server {server}; keepalive 4; }}"
        f" server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://model; }} }} }}"
    )
    return [program, "-p", folder, "-c", folder / "proxy.conf", "-e", "stderr"]


def haproxy(folder: Path, port: int, server: str) -> list[str | Path]:
    (program,) = require("haproxy")
    (folder / "proxy.conf").write_text(
        "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        f"frontend clients\n bind 127.0.0.1:{port} proto h2\n default_backend model\n"
        f"backend model\n server model {server} proto h2\n"
    )
    return [program, "-db", "-f", folder / "proxy.conf"]


def envoy(folder: Path, port: int, server: str) -> list[str | Path]:
    host, _, model = server.rpartition(":")
    socket = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    api = "type.googleapis.com/envoy.extensions"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "model", "timeout": "0s"}}
    router = {"name": "router", "typed_config": {"@type": f"{api}.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "HTTP2", "stat_prefix": "clients", "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }  # fmt: skip
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(model)}}}}
    options = {
        "@type": f"{api}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "model", "type": "STATIC",
        "load_assignment": {"cluster_name": "model", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }  # fmt: skip
    filters = [{"filters": [{"name": "http", "typed_config": manager}]}]
    listener = {"name": "clients", "address": socket, "filter_chains": filters}
    (folder / "envoy.json").write_text(
        json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    )
    program = environments.python(HERE / "envoy.lock").parent / "envoy"
    return [program, "-c", folder / "envoy.json", "--base-id", str(port), "--concurrency", "1", "-l", "error"]


@pytest.mark.parametrize("proxy", [nginx, haproxy, envoy])
async def test_proxies_between(
    address: str, tmp_path: Path, proxy: Callable[[Path, int, str], list[str | Path]]
) -> None:
    port = free_port()
    running = Child(*proxy(tmp_path, port, address), env={"HOME": str(tmp_path)}, cwd=tmp_path)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary(f"{SERVICE}/ModelInfer")
            answer = await ask(PLAN["infer"], wait_for_ready=True, timeout=60)
            assert rows({"message": encoded(answer)}) == 1
            answers = [await ask(PLAN["large"], timeout=60, compression=how) for how in grpc.Compression]
            assert [rows({"message": encoded(answer)}) for answer in answers] == [ROWS] * len(answers)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(PLAN["missing"], timeout=60)
            assert error.value.code() == grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(PLAN["stuck"], timeout=0.3)
            assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(iter(PLAN["stream"]), timeout=60)
            got = [encoded(message) async for message in stream]
            assert words({"messages": got}) == ["five", "four", "one", "three", "two"]
    finally:
        running.stop()
