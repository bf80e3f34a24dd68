"""Spans of requests and of their stages, as a collector receives them."""

import asyncio
import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from harness.collector import SAMPLED, SPAN, TRACE, UNSAMPLED, Collector, about
from podpair.inference.grpc.proto import open_inference_pb2 as pb

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
BODY = {"id": "r-1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}]}
SERVICE = "traced-model"
Traced = Callable[..., Any]

STREAMING = """
class Words:
    def predict(self, batch):
        return [text.upper() for text in batch]

    def stream(self, request):
        yield from request.split()
"""


@pytest.fixture
def traced(start: Callable[..., Any], collector: Collector) -> Traced:
    """`await traced(repository, …)`: a server that records."""

    async def begin(repository: Path | None, *options: str, **environment: str) -> Any:
        environment = {"PODPAIR_TRACING__SERVICE": SERVICE, **environment}
        server = await asyncio.to_thread(
            start, repository, "--tracing-endpoint", collector.url, *options, **environment
        )
        await asyncio.to_thread(server.record, "tracing is on")
        return server

    return begin


async def ask(server: Any, path: str, body: Any, traceparent: str | None = SAMPLED) -> Any:
    headers = {"traceparent": traceparent} if traceparent else {}
    return await asyncio.to_thread(server.post, path, body, headers)


def in_order(whole: Span, stages: list[Span]) -> None:
    """Each lies in the whole, and begins where the one before it has ended, or later."""
    times = [whole.start_time_unix_nano]
    for stage in stages:
        times += [stage.start_time_unix_nano, stage.end_time_unix_nano]
    times.append(whole.end_time_unix_nano)
    assert times == sorted(times)


async def test_a_request_and_its_stages(traced: Traced, collector: Collector, repository: Path) -> None:
    server = await traced(repository)
    assert (await ask(server, "/v2/models/plus/versions/1/infer", BODY)).status == 200
    infer = await collector.span("infer", SERVICE)
    assert (infer.trace_id.hex(), infer.parent_span_id.hex(), infer.kind) == (TRACE, SPAN, Span.SPAN_KIND_SERVER)
    assert about(infer) == {"model": "plus", "version": "1", "request": "r-1", "rows": "2", "batch": "2"}
    stages = collector.below(infer)
    names = ["ingress", "queue", "runtime", "postprocess", "egress"]
    assert sorted(stages) == sorted(names)
    in_order(infer, [stages[name] for name in names])


async def test_a_request_over_grpc(traced: Traced, collector: Collector, repository: Path) -> None:
    server = await traced(repository, PODPAIR_GRPC__PORT="0")
    address = (await asyncio.to_thread(server.record, "gRPC is ready"))["address"]
    request = pb.ModelInferRequest(model_name="plus", model_version="2", id="g")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    tensor.contents.fp32_contents.append(1.0)
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        await infer(request, metadata=(("traceparent", SAMPLED),))
    span = await collector.span("infer", SERVICE)
    assert span.parent_span_id.hex() == SPAN
    assert about(span) | {"model": "plus", "version": "2", "request": "g"} == about(span)
    assert set(collector.below(span)) == {"ingress", "queue", "runtime", "postprocess", "egress"}


async def test_a_stream_tells_when_its_first_part_came(traced: Traced, collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "words/1").mkdir(parents=True)
    (tmp_path / "words/1/model.py").write_text(STREAMING)
    server = await traced(tmp_path)
    reply = await ask(server, "/v2/models/words/generate_stream", {"input": "a b c"})
    assert reply.body.count(b"data:") == 3
    span = await collector.span("infer", SERVICE, parts="3")
    stages = collector.below(span)
    in_order(span, [stages["runtime"]])
    assert stages["first part"].start_time_unix_nano == stages["runtime"].start_time_unix_nano
    assert stages["first part"].end_time_unix_nano <= stages["runtime"].end_time_unix_nano


async def test_a_call_of_another_model_is_below_its_caller(
    traced: Traced, collector: Collector, tmp_path: Path
) -> None:
    caller = """
from podpair.inference import models

class Caller:
    def predict(self, batch):
        return models.infer("words", batch)["output"]

    async def stream(self, request):
        yield (await models.infer_async("words", request))["output"][0]
"""
    for name, code in (("caller", caller), ("words", STREAMING)):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1/model.py").write_text(code)
    server = await traced(tmp_path)
    for request, path in (("a", "generate"), ("b", "generate_stream")):
        assert (await ask(server, f"/v2/models/caller/{path}", {"id": request, "input": "a b"})).status == 200
        called = await collector.span("infer", SERVICE, model="caller", request=request)
        await collector.until(lambda called=called: "infer" in collector.below(called))
        below = collector.below(called)["infer"]
        assert (below.trace_id, about(below)["model"]) == (called.trace_id, "words")
        assert {"ingress", "queue", "runtime"} <= collector.below(below).keys()


async def test_images_are_a_stage(traced: Traced, collector: Collector) -> None:
    pytest.importorskip("cv2")
    folder = ROOT / "examples/images"
    server = await traced(folder)
    image = base64.b64encode((folder / "seven.png").read_bytes()).decode()
    assert (await ask(server, "/v2/models/digits_png/generate", {"image": image})).status == 200
    span = await collector.span("infer", SERVICE)
    stages = collector.below(span)
    in_order(span, [stages[name] for name in ("preprocess", "queue", "runtime", "postprocess")])


@pytest.mark.parametrize("path", ["plus/infer", "plus/versions/7/infer", "plus/generate"])
async def test_what_fails_is_told_as_that(traced: Traced, collector: Collector, repository: Path, path: str) -> None:
    server = await traced(repository)
    reply = await ask(server, f"/v2/models/{path}", {"inputs": []})
    assert reply.status in (400, 404)
    span = await collector.span("infer", SERVICE)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, reply.json["error"])


async def test_who_began_the_trace_decides(traced: Traced, collector: Collector, repository: Path) -> None:
    server = await traced(repository)
    for number, given in enumerate((None, UNSAMPLED, "noise", SAMPLED)):
        body = BODY | {"id": str(number)}
        assert (await ask(server, "/v2/models/plus/infer", body, given)).status == 200
    assert await asyncio.to_thread(server.terminate) == 0
    # What was not sent before is sent at the stop.
    assert [about(span)["request"] for _, span in collector.spans if span.name == "infer"] == ["3"]


async def test_a_share_of_the_others_is_recorded(traced: Traced, collector: Collector, repository: Path) -> None:
    server = await traced(repository, PODPAIR_TRACING__SAMPLE="1")
    await ask(server, "/v2/models/plus/infer", BODY, None)
    await ask(server, "/v2/models/plus/infer", BODY | {"id": "r-2"}, UNSAMPLED)
    assert await asyncio.to_thread(server.terminate) == 0
    infer = await collector.span("infer", SERVICE, request="r-1")
    assert infer.parent_span_id == b""
    assert {span.trace_id for _, span in collector.spans} == {infer.trace_id}


def test_a_collector_that_is_away_costs_no_request(start: Callable[..., Any], repository: Path) -> None:
    server = start(repository, "--tracing-endpoint", "http://127.0.0.1:1/v1/traces", PODPAIR_TRACING__SAMPLE="1")
    server.record("tracing is on")
    for _ in range(20):
        assert server.post("/v2/models/plus/infer", BODY).status == 200
    assert server.terminate() == 0


def test_without_tracing_nothing_of_it_is_loaded() -> None:
    code = (
        "import asyncio, sys; import podpair.inference.cli.main, podpair.inference.service, podpair.inference.grpc.server\n"
        "from podpair.inference.tracing import Tracing; from podpair.inference.config.settings import TracingSettings\n"
        "tracing = Tracing(TracingSettings()); asyncio.run(tracing.start()); assert tracing.tracer is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
