"""Traces as a collector receives them: one way from the client's span to the call of the model, over Kafka too."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from gateway.conftest import Client, Connect
from gateway.fake_model import FakeModel
from harness.collector import SAMPLED, SPAN, TRACE, UNSAMPLED, Collector, about, traceparent
from harness.pair import MODELS, Gateway, Inference, token

pytestmark = pytest.mark.process

Start = Callable[..., Gateway]


@pytest.fixture
async def traced(collector: Collector, model: FakeModel, start_gateway: Start) -> Gateway:
    gateway = await asyncio.to_thread(
        start_gateway,
        {
            "kafka": {"embedded": True}, "inference": {"url": model.url, "probe_seconds": 0.1},
            "requests": {"max_attempts": 1}, "tracing": {"endpoint": collector.url, "sample": 0.0, "service": "traced"},
        },
    )  # fmt: skip
    await asyncio.to_thread(gateway.wait_ready)
    return gateway


async def ask(client: Client, request_id: str, **members: Any) -> dict[str, Any]:
    await client.infer(request_id, **{"model": "fake", "data": [1.0, 2.0], **members})
    return await client.answer(request_id)


@pytest.mark.parametrize("shape", ["row", "tensors"])
async def test_a_direct_request(
    traced: Gateway, collector: Collector, model: FakeModel, connect: Connect, shape: str
) -> None:
    client = await connect(traced)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
    body = {} if shape == "row" else {"data": None, "inputs": [tensor], "parameters": {"a": 1}}
    await ask(client, "direct", route="direct", traceparent=SAMPLED, **body)
    infer = await collector.span("infer", request="direct", model="fake", session=client.welcome["session"])
    call = await collector.span("call model", model="fake")
    assert (infer.trace_id.hex(), infer.parent_span_id.hex(), infer.kind) == (TRACE, SPAN, Told.SPAN_KIND_SERVER)
    assert (call.trace_id, call.parent_span_id, call.kind) == (infer.trace_id, infer.span_id, Told.SPAN_KIND_CLIENT)
    assert (
        infer.start_time_unix_nano <= call.start_time_unix_nano <= call.end_time_unix_nano <= infer.end_time_unix_nano
    )
    assert model.traces == [traceparent(call)]


async def test_a_queued_request(traced: Gateway, collector: Collector, model: FakeModel, connect: Connect) -> None:
    client = await connect(traced)
    await ask(client, "queued", route="queue", traceparent=SAMPLED)
    infer = await collector.span("infer", request="queued")
    work = await collector.span("work", request="queued")
    call = await collector.span("call model")
    assert work.parent_span_id == infer.span_id
    assert (call.parent_span_id, work.kind) == (work.span_id, Told.SPAN_KIND_CONSUMER)
    assert {span.trace_id.hex() for span in (infer, work, call)} == {TRACE}
    assert model.traces == [traceparent(call)]
    assert infer.end_time_unix_nano >= call.end_time_unix_nano  # it ends where its answer goes out


@pytest.mark.parametrize("path", ["/v2/models/fake/infer", "/v1/chat/completions"])
@pytest.mark.parametrize("status", [200, 500])
async def test_a_request_over_plain_http(
    traced: Gateway, collector: Collector, model: FakeModel, http: aiohttp.ClientSession, path: str, status: int
) -> None:
    model.answer = (status, {"outputs": []})
    headers = {"Authorization": f"Bearer {token()}", "traceparent": SAMPLED}
    said = "hello" if status == 200 else "fail"
    body = {"model": "fake", "messages": [{"role": "user", "content": said}], "inputs": []}
    async with http.post(traced.url + path, json=body, headers=headers) as answer:
        assert answer.status == status
    infer, call = await collector.span("infer", **{"url.path": path}), await collector.span("call model")
    assert (infer.trace_id.hex(), infer.parent_span_id.hex(), infer.kind) == (TRACE, SPAN, Told.SPAN_KIND_SERVER)
    assert (call.trace_id, call.parent_span_id, call.kind) == (infer.trace_id, infer.span_id, Told.SPAN_KIND_CLIENT)
    assert model.traces == [traceparent(call)]
    failed = Status.STATUS_CODE_ERROR if status == 500 else Status.STATUS_CODE_UNSET
    assert (infer.status.code, call.status.code) == (failed, failed)


async def test_what_is_not_sampled_is_handed_on_over_plain_http(
    traced: Gateway, collector: Collector, model: FakeModel, http: aiohttp.ClientSession
) -> None:
    for parent in (UNSAMPLED, SAMPLED):
        headers = {"Authorization": f"Bearer {token()}", "traceparent": parent}
        async with http.post(traced.url + "/v2/models/fake/infer", json={"inputs": []}, headers=headers):
            pass
    call = await collector.span("call model")
    await collector.span("infer")
    assert len(collector.spans) == 2
    assert model.traces == [UNSAMPLED, traceparent(call)]


async def test_a_request_that_is_posted_into_a_session(
    traced: Gateway, collector: Collector, connect: Connect, http: aiohttp.ClientSession
) -> None:
    client = await connect(traced, sid="posted")
    headers = {"Authorization": f"Bearer {token(sid='posted')}", "traceparent": SAMPLED}
    body = {"id": "p", "model": "fake", "data": [1.0, 2.0]}
    async with http.post(traced.url + "/v1/infer", json=body, headers=headers) as answer:
        assert answer.status == 202
    await client.answer("p")
    assert (await collector.span("infer", request="p")).parent_span_id.hex() == SPAN


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_what_fails_is_told_as_that(
    traced: Gateway, collector: Collector, model: FakeModel, connect: Connect, route: str
) -> None:
    model.answer = (400, {"error": "bad"})
    client = await connect(traced)
    await ask(client, "bad", route=route, traceparent=SAMPLED)
    for name in ("call model", "infer" if route == "direct" else "work"):
        assert (await collector.span(name)).status.code == Status.STATUS_CODE_ERROR


@pytest.mark.parametrize("over", ["http", "grpc"])
async def test_a_queued_request_is_one_trace_from_the_client_to_the_stages_in_the_model(
    collector: Collector, start_gateway: Start, connect: Connect, over: str
) -> None:
    model = await asyncio.to_thread(Inference, 0, MODELS, "--tracing-endpoint", collector.url)
    try:
        await asyncio.to_thread(model.wait_for_message, "tracing is on")
        tracing = {"endpoint": collector.url, "sample": 0.0, "service": "traced"}
        url = model.url if over == "http" else await asyncio.to_thread(lambda: model.grpc)
        config = {"kafka": {"embedded": True}, "inference": {"url": url}, "tracing": tracing}
        gateway = await asyncio.to_thread(start_gateway, config)
        await asyncio.to_thread(gateway.wait_ready)
        client = await connect(gateway)
        await client.infer("far", route="queue", traceparent=SAMPLED)
        assert (await client.answer("far"))["type"] == "result"
        way = [
            await collector.span("infer", request="far"),
            await collector.span("work"),
            await collector.span("call model"),
        ]
        inside = await collector.span("infer", service="podpair-inference")
        way.append(inside)
        assert {span.trace_id.hex() for span in way} == {TRACE}
        assert [span.parent_span_id.hex() for span in way] == [SPAN, *(span.span_id.hex() for span in way[:-1])]
        assert about(inside) | {"model": "digits", "version": "1", "rows": "1", "batch": "1"} == about(inside)
        assert {"ingress", "queue", "runtime", "postprocess", "egress"} == set(collector.below(inside))
    finally:
        await asyncio.to_thread(model.stop)


async def test_who_began_the_trace_decides_and_else_the_sample(
    traced: Gateway, collector: Collector, model: FakeModel, connect: Connect
) -> None:
    client = await connect(traced)
    for name, members in (
        ("plain", {}),
        ("unsampled", {"traceparent": UNSAMPLED}),
        ("noise", {"traceparent": "noise"}),
    ):
        assert (await ask(client, name, **members))["type"] == "result"
    await ask(client, "sampled", traceparent=SAMPLED)
    await collector.span("infer", request="sampled")
    await collector.span("call model")
    assert len(collector.spans) == 2
    assert [trace is None for trace in model.traces] == [True, True, True, False]


async def test_a_share_of_requests_is_traced(
    collector: Collector, model: FakeModel, start_gateway: Start, connect: Connect
) -> None:
    tracing = {"endpoint": collector.url, "sample": 1.0, "service": "traced"}
    config = {"kafka": {"embedded": True}, "inference": {"url": model.url}, "tracing": tracing}
    gateway = await asyncio.to_thread(start_gateway, config)
    client = await connect(gateway)
    await ask(client, "all")
    assert (await collector.span("infer", request="all")).parent_span_id == b""
    await asyncio.to_thread(gateway.stop)


async def test_a_collector_that_is_away_costs_no_request(
    model: FakeModel, start_gateway: Start, connect: Connect
) -> None:
    tracing = {"endpoint": "http://127.0.0.1:1/v1/traces", "sample": 1.0}
    gateway = start_gateway({"kafka": {"embedded": True}, "inference": {"url": model.url}, "tracing": tracing})
    client = await connect(gateway)
    for number in range(20):
        assert (await ask(client, f"r{number}"))["type"] == "result"


def test_without_tracing_nothing_of_it_is_loaded() -> None:
    code = (
        "import sys; import podpair.gateway.cli.serve, podpair.gateway.service as s\n"
        "from podpair.gateway.tracing import make_tracer; from podpair.common.gateway_config.model import Tracing\n"
        "assert make_tracer(Tracing(), 'n') is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
