"""gRPC as its clients see it: V2's service, podpair.v1, health and reflection, and every failure's status."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from podpair.inference.core import wire
from podpair.inference.core.errors import InvalidRequestError, OverloadedError
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.grpc.calls import Calls
from podpair.inference.grpc.proto import open_inference_pb2 as pb
from podpair.inference.grpc.proto import podpair_pb2 as own
from podpair.inference.metrics import Metrics

EXAMPLES = Path(__file__).parents[2] / "examples/models"
CHAT = """
import asyncio

class Chat:
    def predict(self, batch):
        return [text.upper() for text in batch]

    async def stream(self, request):
        for word in request.split():
            if word == "fail":
                raise ValueError("no more")
            if word == "wait":
                await asyncio.sleep(3600)
            yield word
"""
STUCK = """
import threading

class Stuck:
    def predict(self, batch):
        threading.Event().wait()
"""


class Client:
    """Stubs, made from the descriptors."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def __getattr__(self, name: str) -> Any:
        module, service = (own, "Inference") if name.startswith("Predict") else (pb, "GRPCInferenceService")
        descriptor = module.DESCRIPTOR.services_by_name[service]
        method = descriptor.methods_by_name[name]
        make = self.channel.stream_stream if method.client_streaming else self.channel.unary_unary
        request, response = (getattr(module, t.name) for t in (method.input_type, method.output_type))
        return make(f"/{descriptor.full_name}/{name}", request.SerializeToString, response.FromString)


@pytest.fixture(scope="module", params=["http2", "core", "aio"])
def address(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any], request: pytest.FixtureRequest
) -> Iterator[str]:
    """A server with the digits, and a class that streams one at a time."""
    repository = tmp_path_factory.mktemp("grpc")
    (repository / "digits").symlink_to(EXAMPLES / "digits")
    (repository / "chat/1").mkdir(parents=True)
    (repository / "chat/1/model.py").write_text(CHAT)
    (repository / "chat/model.yaml").write_text("runtime: {max_streams: 1}")
    (repository / "stuck/1").mkdir(parents=True)
    (repository / "stuck/1/model.py").write_text(STUCK)
    (repository / "stuck/model.yaml").write_text("warmup: {rows: []}")
    with serve(repository, PODPAIR_GRPC__SERVER=request.param) as server:
        yield server.record("gRPC is ready")["address"]


@pytest.fixture
async def client(address: str) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield Client(channel)


def chat(*texts: str, **more: Any) -> Any:
    request = pb.ModelInferRequest(model_name="chat", **more)
    request.inputs.add(name="input", datatype="BYTES", shape=[len(texts)]).contents.bytes_contents.extend(
        text.encode() for text in texts
    )
    return request


def pixels(rows: int = 2, **more: Any) -> Any:
    request = pb.ModelInferRequest(model_name="digits", **more)
    request.inputs.add(name="pixels", datatype="FP32", shape=[rows, 64])
    request.raw_input_contents.append(np.zeros((rows, 64), "<f4").tobytes())
    return request


async def status(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code().name, error.value.details()


async def test_health_and_metadata(client: Client) -> None:
    assert (await client.ServerLive(pb.ServerLiveRequest())).live
    assert (await client.ServerReady(pb.ServerReadyRequest())).ready
    assert (await client.ModelReady(pb.ModelReadyRequest(name="digits"))).ready
    assert not (await client.ModelReady(pb.ModelReadyRequest(name="none"))).ready
    assert (await client.ServerMetadata(pb.ServerMetadataRequest())).name == "podpair-inference"
    metadata = await client.ModelMetadata(pb.ModelMetadataRequest(name="digits"))
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("pixels", "FP32", [-1, 64])]
    config = (await client.ModelConfig(pb.ModelConfigRequest(name="digits", version="1"))).config
    assert (config.max_batch_size, config.input[0].data_type, list(config.input[0].dims)) == (256, pb.TYPE_FP32, [64])
    assert not config.model_transaction_policy.decoupled


async def test_the_standard_health_and_reflection_services(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", "inference.GRPCInferenceService", "podpair.v1.Inference"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="podpair.v1.Inference"),
    ]
    services, file = [answer async for answer in reflection.ServerReflectionInfo(iter(asked))]
    assert "podpair.v1.Inference" in {service.name for service in services.list_services_response.service}
    assert b"PredictStream" in file.file_descriptor_response.file_descriptor_proto[0]


async def test_raw_and_typed_contents_get_the_same_answer(client: Client) -> None:
    raw = pixels(2, id="r-1")
    typed = pb.ModelInferRequest(model_name="digits", id="r-1")
    typed.inputs.add(name="pixels", datatype="FP32", shape=[2, 64]).contents.fp32_contents.extend([0.0] * 128)
    answers = [await client.ModelInfer(request) for request in (raw, typed)]
    assert answers[0] == answers[1]
    assert (answers[0].id, answers[0].model_version) == ("r-1", "1")
    names = [(o.name, o.datatype, list(o.shape)) for o in answers[0].outputs]
    assert names == [("probabilities", "FP32", [2, 10]), ("label", "BYTES", [2])]
    probabilities = np.frombuffer(answers[0].raw_output_contents[0], "<f4").reshape(2, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    (size,) = struct.unpack_from("<I", answers[0].raw_output_contents[1])
    assert size == 1


async def test_only_the_outputs_that_are_asked_for(client: Client) -> None:
    request = pixels()
    request.outputs.add(name="label")
    answer = await client.ModelInfer(request)
    assert [output.name for output in answer.outputs] == ["label"]
    assert len(answer.raw_output_contents) == 1


def broken(**changes: Any) -> Any:
    request = pixels(1)
    for name, value in changes.items():
        if name == "raw":
            del request.raw_input_contents[:]
            request.raw_input_contents.extend(value)
        elif name in ("model_name", "model_version"):
            setattr(request, name, value)
        else:
            setattr(request.inputs[0], name, value)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (broken(model_name="none"), "NOT_FOUND", "no model 'none'"),
        (broken(model_version="7"), "NOT_FOUND", "no version '7'"),
        (broken(name="z"), "INVALID_ARGUMENT", "no input 'z'"),
        (broken(datatype="FP64"), "INVALID_ARGUMENT", "datatype FP64"),
        (broken(raw=[b"1234"]), "INVALID_ARGUMENT", "4 bytes of binary data"),
        (broken(raw=[b"", b""]), "INVALID_ARGUMENT", "2 raw_input_contents for 1 inputs"),
        (broken(raw=[]), "INVALID_ARGUMENT", "fp32_contents holds 0 elements"),
        (broken(raw=[struct.pack("<64f", *[float("nan")] * 64)]), "INVALID_ARGUMENT", "NaN or infinity"),
        (pb.ModelInferRequest(model_name="digits"), "INVALID_ARGUMENT", "input 'pixels' is missing"),
        (pixels(20_000), "INVALID_ARGUMENT", "20000 rows in one request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_failure_is_a_status_with_a_reason(client: Client, request_: Any, code: str, message: str) -> None:
    found = await status(client.ModelInfer(request_))
    assert found[0] == code
    assert message in found[1]
    assert (await client.ModelInfer(pixels(1))).outputs


async def test_bytes_that_are_no_message_are_refused(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for message in (b"\xff\xff\xff", b"\x0b", b"\x3a\xff\x01", b"\x0a\x05ab"):
            assert (await status(method(message)))[0] == "INVALID_ARGUMENT"


async def test_a_deadline_ends_what_runs_and_what_is_queued_behind_it(client: Client) -> None:
    def stuck() -> Any:
        request = chat("x")
        request.model_name = "stuck"
        return client.ModelInfer(request, timeout=0.3)

    assert [(await status(call))[0] for call in (stuck(), stuck())] == ["DEADLINE_EXCEEDED"] * 2


class Aborted(Exception):
    """How a context ends a call: status, details, trailing metadata."""


class Context:
    """A call's context that only ends it."""

    async def abort(self, *how: Any) -> None:
        raise Aborted(*how)


# All five together stay below 8 KB: past that gRPC refuses metadata at random, the more the larger (its soft limit).
@pytest.mark.parametrize("number", ["9" * 20, "9" * 400, "9" * 1200, "-1", "+1", "1_0", "1e400", "nan", ""])
async def test_numbers_in_metadata_that_are_none_of_its_business_change_nothing(client: Client, number: str) -> None:
    names = ("podpair-deadline", "inference-header-content-length", "priority", "timeout", "grpc-retry-pushback-ms")
    metadata = [(name, number) for name in names]
    response = await client.ModelInfer(pixels(), metadata=metadata, timeout=20)
    assert response.outputs[0].shape[0] == 2


@pytest.mark.parametrize("number", [(1 << 63) - 1, -(1 << 63), 0, -1])
async def test_the_numbers_of_v2_s_own_parameters_may_be_any(client: Client, number: int) -> None:
    request = pixels()
    for name in ("priority", "timeout", "sequence_id"):
        request.parameters[name].int64_param = number
    assert (await client.ModelInfer(request, timeout=20)).outputs[0].shape[0] == 2


@pytest.mark.parametrize("seconds", [1e5, 3e7, 1e9])
async def test_a_deadline_may_be_far_away(client: Client, seconds: float) -> None:
    assert (await client.ModelInfer(pixels(), timeout=seconds)).outputs[0].shape[0] == 2


async def test_a_full_queue_says_when_to_come_again() -> None:
    async def refuse(request: Any, context: Any) -> Any:
        raise OverloadedError("full", 0.25)

    metrics = Metrics()
    with pytest.raises(Aborted) as error:
        await Calls(metrics, MemoryBudget(1)).unary(refuse)(b"", Context())
    code, details, trailing = error.value.args
    assert (code.name, details) == ("RESOURCE_EXHAUSTED", "full")
    assert dict(trailing) == {"podpair-retry-after-ms": "250", "grpc-retry-pushback-ms": "250"}
    assert metrics.registry.get_sample_value("inference_errors_total", {"reason": "overloaded"}) == 1


async def test_large_requests_that_are_at_work_are_bounded_in_bytes() -> None:
    go_on = asyncio.Event()

    async def work(request: bytes, context: Any) -> int:
        await go_on.wait()
        return len(request)

    held = MemoryBudget(100_000)
    call = Calls(Metrics(), held).unary(work)
    large, small = bytes(150_000), bytes(1_000)
    first = asyncio.create_task(call(large, Context()))
    await asyncio.sleep(0)
    assert held.bytes == len(large)
    with pytest.raises(Aborted, match="more than 100000 bytes"):
        await call(large, Context())
    go_on.set()
    assert (await call(small, Context()), await first, held.bytes) == (len(small), len(large), 0)
    assert await call(large, Context()) == len(large)


async def test_a_stream_of_requests_goes_on_after_one_that_fails(client: Client) -> None:
    asked = [pixels(1, id="a"), broken(name="z"), pixels(1, id="c")]
    answers = [answer async for answer in client.ModelStreamInfer(iter(asked))]
    assert sorted(answer.infer_response.id for answer in answers if not answer.error_message) == ["a", "c"]
    (error,) = [answer.error_message for answer in answers if answer.error_message]
    assert "no input 'z'" in error


@pytest.mark.parametrize("request_of_model", [chat("a b"), pixels(1)], ids=["chat", "digits"])
async def test_a_priority_that_is_none_is_an_error(client: Client, request_of_model: Any) -> None:
    wrong = (("podpair-priority", "urgent"),)
    code, details = await status(client.ModelInfer(request_of_model, metadata=wrong))
    assert (code, "podpair-priority is 'urgent'" in details) == ("INVALID_ARGUMENT", True)
    (answer,) = [answer async for answer in client.ModelStreamInfer(iter([request_of_model]), metadata=wrong)]
    assert "podpair-priority is 'urgent'" in answer.error_message


async def test_a_model_that_streams_answers_in_parts(client: Client) -> None:
    request = chat("a b", id="s")
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    answers = [answer.infer_response async for answer in client.ModelStreamInfer(iter([request]))]
    assert [answer.raw_output_contents[0][4:] for answer in answers[:2]] == [b"a", b"b"]
    assert [answer.parameters["triton_final_response"].bool_param for answer in answers] == [False, False, True]
    failing = [answer async for answer in client.ModelStreamInfer(iter([chat("a fail")]))]
    assert "ValueError: no more (model.py:11, in stream)" in failing[1].error_message


async def test_a_cancelled_stream_ends_in_the_model_and_too_many_are_refused(client: Client) -> None:
    call = client.ModelStreamInfer(iter([chat("a wait")]))
    assert (await call.read()).infer_response.raw_output_contents[0][4:] == b"a"
    (refused,) = [answer async for answer in client.ModelStreamInfer(iter([chat("b")]))]
    assert "streams open" in refused.error_message
    call.cancel()
    async with asyncio.timeout(20):
        while True:
            (answer,) = [answer async for answer in client.ModelStreamInfer(iter([chat("c")]))]
            if not answer.error_message:
                break


async def test_podpair_v1_takes_bytes_and_gives_scores_and_a_label(client: Client) -> None:
    row = np.zeros(64, "<f4").tobytes()
    answer = await client.Predict(own.PredictRequest(payload=row, model_id="digits", id="p"))
    assert (len(answer.scores), answer.id, answer.error) == (10, "p", "")
    assert answer.label.isdigit()
    assert (await client.Predict(own.PredictRequest(payload=b"hi", model_id="chat/1"))).label == "HI"
    for request, code in [
        (own.PredictRequest(payload=row), "INVALID_ARGUMENT"),
        (own.PredictRequest(payload=b"123", model_id="digits"), "INVALID_ARGUMENT"),
        (own.PredictRequest(payload=row, model_id="none"), "NOT_FOUND"),
    ]:
        assert (await status(client.Predict(request)))[0] == code


async def test_podpair_v1_streams(client: Client) -> None:
    asked = [own.PredictRequest(payload=b"x y", model_id="chat", id="1"), own.PredictRequest(payload=b"z", id="2")]
    answers = [(answer.id, answer.label, bool(answer.error)) async for answer in client.PredictStream(iter(asked))]
    assert sorted(answers) == [("1", "x", False), ("1", "y", False), ("2", "", True)]


async def test_repository_and_statistics(client: Client) -> None:
    await client.ModelInfer(pixels(3))
    (stats,) = (await client.ModelStatistics(pb.ModelStatisticsRequest(name="digits"))).model_stats
    assert stats.inference_stats.success.count >= 1
    assert any(batch.batch_size == 3 for batch in stats.batch_stats)
    await client.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"))
    await client.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="digits"))
    index = (await client.RepositoryIndex(pb.RepositoryIndexRequest())).models
    assert {m.name: m.state for m in index} == {"chat": "READY", "stuck": "READY", "digits": "UNAVAILABLE"}
    assert (await status(client.ModelInfer(pixels())))[0] == "NOT_FOUND"
    await client.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"))
    assert (await client.ModelInfer(pixels())).outputs
    code = await status(client.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="none")))
    assert code[0] == "NOT_FOUND"


def test_grpc_can_be_off(tmp_path: Path, start: Callable[..., Any]) -> None:
    server = start(EXAMPLES, PODPAIR_GRPC__ENABLED="false")
    assert server.get("/v2/health/ready").status == 200
    assert server.terminate() == 0
    assert "gRPC is ready" not in [record["message"] for record in server.records]


FIELDS = st.lists(st.tuples(st.sampled_from(["name", "raw"]), st.binary(max_size=300)), max_size=8)


@given(FIELDS)
def test_cutting_raw_tensors_out_of_a_message_loses_nothing(fields: list[tuple[str, bytes]]) -> None:
    message = b"".join(wire.append_fields(b"", {"name": 3, "raw": 7}[kind], [data]) for kind, data in fields)
    rest, raw = wire.split_fields(message, 7)
    assert [bytes(view) for view in raw] == [data for kind, data in fields if kind == "raw"]
    assert rest == b"".join(wire.append_fields(b"", 3, [data]) for kind, data in fields if kind == "name")


@given(st.binary(max_size=40))
def test_any_bytes_are_cut_or_refused(message: bytes) -> None:
    try:
        rest, raw = wire.split_fields(message, 7)
    except InvalidRequestError:
        return
    assert len(rest) + sum(len(view) for view in raw) <= len(message)


def test_a_raw_tensor_is_a_view_of_the_message() -> None:
    message = pixels(2).SerializeToString()
    (view,) = wire.split_fields(message, 7)[1]
    assert view.obj is message
