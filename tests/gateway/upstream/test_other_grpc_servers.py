"""V2 over gRPC as servers other than podpair's have it: typed contents, no configuration, health where V2's own is missing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import msgspec
import pytest

from podpair.common.gateway_config.model import Inference
from podpair.gateway.core.model_errors import Busy, Failed, Late, ServiceUnavailable, TooLarge, Unavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.upstream.calls import Call
from podpair.gateway.upstream.grpc import GrpcUpstream
from podpair.gateway.upstream.proto import v2_pb2 as pb

INPUTS = b'[{"name":"x","datatype":"FP32","shape":[1,2],"data":[[1,2]]}]'


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers with the sum of a row, in typed contents."""

    def __init__(self) -> None:
        self.fails: tuple[grpc.StatusCode, str] | None = None
        self.parts: list[pb.ModelStreamInferResponse] = []
        self.version = "7"
        self.retry_after = "250"
        self.serving = b"\x08\x01"
        self.silent = False
        self.asked: list[Any] = []

    def service(self, call: Any) -> Any:
        kinds: dict[str, Callable[[], Any]] = {
            "/grpc.health.v1.Health/Check": lambda: grpc.unary_unary_rpc_method_handler(self._health),
            "/inference.GRPCInferenceService/ModelMetadata": lambda: grpc.unary_unary_rpc_method_handler(
                self._metadata
            ),
            "/inference.GRPCInferenceService/ModelInfer": lambda: grpc.unary_unary_rpc_method_handler(self._infer),
            "/inference.GRPCInferenceService/ModelStreamInfer": lambda: grpc.stream_stream_rpc_method_handler(
                self._stream
            ),
        }
        return kinds[call.method]() if call.method in kinds else None

    async def _health(self, _: bytes, __: Any) -> bytes:
        return self.serving

    async def _metadata(self, message: bytes, _: Any) -> bytes:
        found = pb.ModelMetadataResponse(name=pb.ModelRequest.FromString(message).name)
        found.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
        found.outputs.add(name="y", datatype="FP32", shape=[-1])
        return bytes(found.SerializeToString())

    async def _infer(self, message: bytes, context: Any) -> bytes:
        if self.silent:
            await asyncio.Event().wait()
        if self.fails is not None:
            await context.abort(*self.fails, (("podpair-retry-after-ms", self.retry_after),))
        self.asked.append((pb.ModelInferRequest.FromString(message), dict(context.invocation_metadata())))
        answer = pb.ModelInferResponse(model_version=self.version)
        y = answer.outputs.add(name="y", datatype="FP32", shape=[1])
        y.contents.fp32_contents.append(3.0)
        return bytes(answer.SerializeToString())

    async def _stream(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        if self.silent:
            await asyncio.Event().wait()
        async for _ in requests:
            for part in self.parts:
                yield part.SerializeToString()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    handler = Server()
    running = grpc.aio.server()
    running.add_generic_rpc_handlers((handler,))
    handler.url = "grpc://127.0.0.1:{}".format(running.add_insecure_port("127.0.0.1:0"))  # type: ignore[attr-defined]
    await running.start()
    yield handler
    await running.stop(0)


@pytest.fixture
async def upstream(server: Server) -> AsyncIterator[GrpcUpstream]:
    made = GrpcUpstream(Inference(url=server.url, timeout_seconds=5))  # type: ignore[attr-defined]
    yield made
    await made.close()


async def test_typed_contents_are_read_and_parameters_and_key_arrive(server: Server, upstream: GrpcUpstream) -> None:
    model = await upstream.model("sum")
    assert (model.batchable, model.max_rows) == (True, None)
    parameters = b'{"a":true,"b":-3,"c":0.5,"d":"t"}'
    answer = await upstream.infer(InferenceRequest("r", "sum", INPUTS, parameters=parameters, key="s-é"), INPUTS, 5)
    outputs = [{"name": "y", "datatype": "FP32", "shape": [1], "data": [3.0]}]
    assert (msgspec.json.decode(answer.outputs), answer.model_version) == (outputs, "7")
    request, metadata = server.asked[0]
    assert (request.id, list(request.raw_input_contents)) == ("r", [b"\x00\x00\x80?\x00\x00\x00@"])
    chosen = {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in request.parameters.items()}
    assert chosen == {"a": True, "b": -3, "c": 0.5, "d": "t"}
    assert metadata["podpair-key"] == "s-%C3%A9"


async def test_health_tells_readiness_where_v2_does_not(server: Server, upstream: GrpcUpstream) -> None:
    assert await upstream.ready()
    server.serving = b"\x08\x02"
    assert not await upstream.ready()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Busy),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, Fault),
        (grpc.StatusCode.NOT_FOUND, Fault),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Late),
        (grpc.StatusCode.INTERNAL, Failed),
    ],
)
async def test_what_a_status_means(
    server: Server, upstream: GrpcUpstream, status: grpc.StatusCode, kind: type[Exception]
) -> None:
    server.fails = (status, "so it is")
    with pytest.raises(kind) as raised:
        await upstream.infer(InferenceRequest("r", "sum", INPUTS), INPUTS, 5)
    if isinstance(raised.value, Busy):
        assert raised.value.retry_after == 0.25


@pytest.mark.parametrize(
    ("said", "seconds"), [("nan", 0.05), ("inf", 0.05), ("-1", 0.05), ("9" * 20, 30.0), ("1500", 1.5)]
)
async def test_when_to_come_again_is_bounded(server: Server, upstream: GrpcUpstream, said: str, seconds: float) -> None:
    server.fails, server.retry_after = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full"), said
    with pytest.raises(Busy) as raised:
        await upstream.infer(InferenceRequest("r", "sum", INPUTS), INPUTS, 5)
    assert raised.value.retry_after == seconds


async def test_unavailable_by_its_own_word_is_busy_and_nobody_there_is_not(
    server: Server, upstream: GrpcUpstream
) -> None:
    server.fails = (grpc.StatusCode.UNAVAILABLE, "the queue is full")
    with pytest.raises(ServiceUnavailable, match="the queue is full"):
        await upstream.infer(InferenceRequest("r", "sum", INPUTS), INPUTS, 5)
    away = GrpcUpstream(Inference(url="grpc://127.0.0.1:1", timeout_seconds=5))
    with pytest.raises(Unavailable) as raised:
        await away.infer(InferenceRequest("r", "sum", INPUTS), INPUTS, 5)
    assert (raised.value.down, raised.value.midway) == (True, False)
    await away.close()


async def test_an_answer_that_is_larger_than_is_taken(server: Server) -> None:
    small = GrpcUpstream(Inference(url=server.url, timeout_seconds=5, max_response_bytes=1024))  # type: ignore[attr-defined]
    server.version = "7" * 2000
    with pytest.raises(TooLarge, match="max_response_bytes"):
        await small.infer(InferenceRequest("r", "sum", INPUTS), INPUTS, 5)
    await small.close()


async def test_a_deadline_that_has_passed_is_the_requests_own(upstream: GrpcUpstream) -> None:
    with pytest.raises(Fault) as raised:
        await upstream.infer(InferenceRequest("r", "sum", INPUTS, deadline=time.time() - 1), INPUTS, 5)
    assert raised.value.code is Code.DEADLINE_EXCEEDED


async def test_a_stream_ends_with_its_final_answer_or_its_error(server: Server, upstream: GrpcUpstream) -> None:
    model = await upstream.model("sum")
    part = pb.ModelStreamInferResponse()
    y = part.infer_response.outputs.add(name="y", datatype="FP32", shape=[1])
    y.contents.fp32_contents.append(0.5)
    final = pb.ModelStreamInferResponse()
    final.infer_response.parameters["triton_final_response"].bool_param = True
    server.parts = [part, part, final]
    request = InferenceRequest("r", "sum", INPUTS, stream=True)
    assert [found.data async for found in upstream.stream(request, model)] == [b"0.5", b"0.5"]
    server.parts = [part, pb.ModelStreamInferResponse(error_message="out of luck")]
    with pytest.raises(Failed, match="out of luck"):
        [found async for found in upstream.stream(request, model)]


async def test_a_model_has_a_time_out_of_its_own(server: Server) -> None:
    own = {"model": "sum", "timeout_seconds": 0.1}
    config = {"url": server.url, "timeout_seconds": 600, "models": [own]}  # type: ignore[attr-defined]
    upstream = GrpcUpstream(Inference.model_validate(config))
    model = await upstream.model("sum")
    server.silent = True
    call = Call(model, ((1, 2),), (bytes(8),), b"", None, "", "r")
    with pytest.raises(Late, match=r"no answer in 0\.1 s"):
        await upstream.call(call)
    with pytest.raises(Late, match=r"no further part in 0\.1 s"):
        [found async for found in upstream.stream(InferenceRequest("r", "sum", INPUTS, stream=True), model)]
    await upstream.close()


async def test_nobody_there_is_nobodys_death() -> None:
    upstream = GrpcUpstream(Inference(url="grpc://127.0.0.1:1", timeout_seconds=5))
    assert not await upstream.ready()
    with pytest.raises(Unavailable) as raised:
        await upstream.infer(InferenceRequest("r", "sum", INPUTS), INPUTS, 5)
    assert not raised.value.midway
    await upstream.close()
