"""The operators' port: what is there and not on the public one, and that public answers name nothing behind the gateway."""

import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from confluent_kafka import KafkaError, KafkaException

from gateway.conftest import PATIENCE, ROW, Connect
from harness.certificates import Authority
from harness.javascript import LIBRARY
from harness.pair import SECRET, Gateway, Inference, token
from harness.processes import free_port
from podpair.common.gateway_config.model import Config
from podpair.gateway.http.admission import Admission, Refused
from podpair.gateway.kafka.producer import _delivery_error
from podpair.gateway.service import Service
from podpair.gateway.sessions.enqueue import not_queued

BEARER = {"Authorization": f"Bearer {token(sid='operations')}"}
FOR_OPERATORS = ("/metrics", "/", "/index.html", "/console.js", "/console.css", "/console.json", "/console/token")
FOR_CLIENTS = ("/v1/ws", "/v1/events", "/v2", "/v2/health/ready", "/v2/models/digits", "/podpair.js", "/")
TENSOR = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": ROW}]}
CHAT = {"model": "digits", "messages": [{"role": "user", "content": "hello"}]}
INFER = {"id": "1", "model": "digits", "data": ROW}
#: Each way to ask over HTTP: method, path, body.
ASKING: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/v1/ws", None),
    ("GET", "/v1/events", None),
    ("POST", "/v1/infer", INFER),
    ("GET", "/v2", None),
    ("GET", "/v2/models/digits", None),
    ("POST", "/v2/models/digits/infer", TENSOR),
    ("POST", "/v1/chat/completions", CHAT),
)


def test_clients_find_no_operators_routes(pair: Gateway) -> None:
    for path in FOR_OPERATORS:
        status, body = pair.get_publicly(path)
        assert (status, json.loads(body)["error"]["code"]) == (404, "not_found"), path
    assert pair.get_publicly("/healthz") == (200, '{"status": "ok"}')
    assert pair.get_publicly("/readyz") == (200, '{"status": "ok"}')
    for module in (file.name for file in LIBRARY):  # pages import them
        assert pair.get_publicly(f"/{module}")[0] == 200


async def test_operators_find_no_clients_routes(pair: Gateway, http: aiohttp.ClientSession) -> None:
    for path in FOR_CLIENTS:
        async with http.get(pair.operations + path, headers=BEARER) as answer:
            assert answer.status == 404, path
    async with http.post(f"{pair.operations}/v1/infer", headers=BEARER, json=INFER) as answer:
        assert answer.status == 404
    for path in ("/healthz", "/readyz", "/metrics"):
        async with http.get(pair.operations + path) as answer:
            assert answer.status == 200, path


def test_the_console_is_at_the_public_port_where_it_is_wanted(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway({"kafka": {"embedded": True}, "console": {"enabled": True}})
    for path in ("/", "/console.js", "/console.json"):
        assert gateway.get_publicly(path)[0] == 200, path
    assert gateway.get_publicly("/console/token")[0] == 404  # nobody is given a token
    assert gateway.get_publicly("/metrics")[0] == 404


async def test_with_tls_clients_have_it_and_operators_do_not_need_it(
    inference: Inference, start_gateway: Callable[..., Gateway], connect: Connect, tmp_path: Path
) -> None:
    authority = Authority("podpair test operators")
    issued = authority.issue("gateway", ("127.0.0.1",))
    (tmp_path / "tls.crt").write_text(issued.certificate)
    (tmp_path / "tls.key").write_text(issued.key)
    files = {"certificate_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    gateway = start_gateway({"http": files, "kafka": {"embedded": True}, "inference": {"url": inference.url}})
    gateway.context = ssl.create_default_context(cadata=authority.certificate)
    assert (gateway.url.split(":")[0], gateway.operations.split(":")[0]) == ("https", "http")
    gateway.wait_ready()
    assert json.loads(gateway.get("/readyz")[1])["checks"]["kafka"] == "ok"
    assert gateway.metric("sessions") == 0
    assert gateway.get_publicly("/readyz") == (200, '{"status": "ok"}')
    assert gateway.get_publicly("/metrics")[0] == 404


def test_it_listens_where_it_is_told_to(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway({"kafka": {"embedded": True}, "operations": {"host": "127.0.0.2"}})
    assert gateway.operations.startswith("http://127.0.0.2:")
    assert gateway.get("/healthz")[0] == 200
    listening, ready = gateway.wait_for_message("listening"), gateway.wait_for_message("ready")
    assert (ready["address"], ready["operations"]) == (listening["address"], listening["operations"])
    with pytest.raises(ConnectionRefusedError), socket.socket() as other:
        other.connect(("127.0.0.1", int(gateway.operations.rsplit(":", 1)[1])))


def test_it_can_be_switched_off(inference: Inference, start_gateway: Callable[..., Gateway]) -> None:
    off = {"operations": {"enabled": False}, "kafka": {"embedded": True}, "inference": {"url": inference.url}}
    gateway = start_gateway(off)
    assert "operations" not in gateway.wait_for_message("listening")
    assert gateway.get_publicly("/healthz")[0] == 200
    assert gateway.get_publicly("/metrics")[0] == 404


def test_an_operators_port_that_is_taken_is_told(pair: Gateway, start_gateway: Callable[..., Gateway]) -> None:
    port = int(pair.operations.rsplit(":", 1)[1])
    gateway = start_gateway({"kafka": {"embedded": True}, "operations": {"port": port}}, wait=False)
    assert gateway.process.wait(PATIENCE) == 1
    gateway.kill()
    (error,) = [record for record in gateway.log if record["level"] == "ERROR"]
    assert error["message"].startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert error["message"].endswith("(operations.port)")


async def test_while_the_broker_is_waited_for_only_operators_are_told_where_it_is(
    start_gateway: Callable[..., Gateway], http: aiohttp.ClientSession
) -> None:
    port = free_port()
    gateway = start_gateway({"kafka": {"bootstrap_servers": f"127.0.0.1:{port}"}}, wait=False)
    gateway.url = gateway.wait_for_message("listening")["address"]
    gateway.wait_for_message("waiting for the broker")
    assert gateway.get_publicly("/readyz") == (503, '{"status": "not ready"}')
    for method, path, body in ASKING:
        async with http.request(method, gateway.url + path, headers=BEARER, json=body) as answer:
            said = await answer.text()
            assert (answer.status, "Retry-After" in answer.headers) == (503, True), path
            assert "the gateway is starting" in said, path
            assert str(port) not in said, path
    status, told = gateway.get("/readyz")
    assert (status, f"127.0.0.1:{port}" in json.loads(told)["checks"]["kafka"]) == (503, True)


@pytest.fixture
def dying(start_gateway: Callable[..., Gateway]) -> Any:
    """`dying(protocol)`: a gateway, and a model whose death it hasn't heard of yet."""
    running: list[Inference] = []

    async def begin(protocol: str, connect: Connect) -> tuple[Gateway, Inference, Any]:
        model = Inference()
        running.append(model)
        url = model.url if protocol == "rest" else model.grpc
        gateway = start_gateway({"kafka": {"embedded": True}, "inference": {"url": url, "probe_seconds": 600}})
        gateway.wait_ready()
        client = await connect(gateway)
        await client.send(json.dumps({"type": "infer", "route": "direct", **INFER}))  # now its metadata is known
        await client.event("result")
        model.kill()
        return gateway, model, client

    yield begin
    for model in running:
        model.kill()


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
async def test_a_direct_request_is_not_told_where_the_model_was(dying: Any, connect: Connect, protocol: str) -> None:
    gateway, model, client = await dying(protocol, connect)
    await client.send(json.dumps({"type": "infer", "route": "direct", **INFER, "id": "2"}))
    error = await client.event("error")
    assert (error["id"], error["code"]) == ("2", "upstream")
    assert error["message"].startswith("the model ")
    _tells_nothing(error["message"], gateway, model)
    where = model.url if protocol == "rest" else model.grpc
    assert gateway.wait_for_message(f"inference at {where} is not ready: ")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [one for one in ASKING if one[1].startswith(("/v2", "/v1/chat"))],
    ids=lambda one: str(one)[:30],
)
async def test_over_http_nobody_is_told_where_the_model_was(
    dying: Any, connect: Connect, http: aiohttp.ClientSession, method: str, path: str, body: Any
) -> None:
    gateway, model, _ = await dying("rest", connect)
    async with http.request(method, gateway.url + path, headers=BEARER, json=body) as answer:
        assert answer.status == 503
        said = await answer.text()
    assert "the model can't be reached" in said
    _tells_nothing(said, gateway, model)
    assert gateway.wait_for_message(f"inference at {model.url} is not ready: {model.url}: ")


def _tells_nothing(said: str, gateway: Gateway, model: Inference) -> None:
    """No address, port or URL of what is behind the gateway."""
    kafka = gateway.wait_for_message("embedded Kafka")["kafka"]
    hidden = ("127.0.0.1", "localhost", "://", str(model.port), model.grpc.rsplit(":", 1)[1], kafka.rsplit(":", 1)[1])
    assert [one for one in hidden if one in said] == []


def test_a_request_that_is_not_queued_is_not_told_by_which_broker() -> None:
    told = "kafka-0.internal:9092/0: Timed out ProduceRequest in flight"
    for code, word in ((KafkaError._MSG_TIMED_OUT, "timed out"), (KafkaError._TRANSPORT, "transport failure")):
        failed = _delivery_error(KafkaError(code, told))
        assert "kafka-0.internal" in str(failed)  # for the log
        fault = not_queued(failed)
        assert word in fault.message
        assert "kafka-0" not in fault.message


async def test_results_that_can_t_be_read_are_told_without_the_broker(caplog: pytest.LogCaptureFixture) -> None:
    class Reader:
        async def acquire(self, _: int) -> None:
            raise KafkaException(
                KafkaError(KafkaError._TRANSPORT, "kafka-0.internal:9092/0: Connect to 10.1.2.3 failed")
            )

    visitor: Any = SimpleNamespace(
        components=SimpleNamespace(kafka=SimpleNamespace(reader=Reader()), home=lambda _: 0), session="s"
    )
    admission = Admission(Service(Config.model_validate({"auth": {"secret": SECRET}})))
    for _ in range(3):
        with pytest.raises(Refused) as refused:
            await admission.acquire_homes(visitor.components, visitor.session)
        assert refused.value.status == 503
        assert refused.value.message == "the results can't be read now: Local: Broker transport failure"
    told = [record.getMessage() for record in caplog.records if "kafka-0.internal" in record.getMessage()]
    assert len(told) == 1  # the log has it, once for all that are refused
