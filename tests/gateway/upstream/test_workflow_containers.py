"""A workflow as the gateway finds it at podpair's container, over REST and gRPC: its declaration, its steps, how they end."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from harness.pair import Inference
from harness.waiting import soon
from podpair.common.gateway_config.model import Inference as Settings
from podpair.gateway.core.model_errors import Busy, Failed, Late, ServiceUnavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.upstream.calls import Upstream
from podpair.gateway.upstream.grpc import GrpcUpstream
from podpair.gateway.upstream.rest import RestUpstream

pytestmark = pytest.mark.process

STEPS = """
import asyncio, pathlib
from podpair.inference import InvalidRequestError, UnavailableError

VERSION = %d
ENDED = pathlib.Path(__file__).with_name("ended")

def version(given, context):
    return [VERSION, given, context.key, context.attempt, context.checkpoint]

def talks(given, context):
    context.progress({"pages": 1})
    context.save("page 1")
    return "done"

async def slow(given):
    await asyncio.sleep(given)

async def waits(given, context):
    context.progress("begun")
    try:
        await asyncio.Event().wait()
    finally:
        ENDED.touch()

async def ends(given, context):
    kind, talks = given
    if talks:
        context.progress("begun")
        await asyncio.sleep(0.05)
    raise {"invalid": InvalidRequestError, "away": UnavailableError, "bug": ValueError}[kind]("why")
"""
NAMES = ("version", "talks", "slow", "waits", "ends")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("flows")
    for version in (1, 2):
        folder = repository / "flow" / str(version)
        folder.mkdir(parents=True)
        stages = {name: {"step": name, "timeout": f"{version}s"} for name in NAMES}
        (folder / "workflow.yaml").write_text(json.dumps({"stages": stages}))
        (folder / "steps.py").write_text(STEPS % version)
    (repository / "flow/model.yaml").write_text("runtime: {max_streams: 2}\n")
    return repository


@pytest.fixture(scope="module")
def container(repository: Path) -> Iterator[Inference]:
    running = Inference(models=repository)
    yield running
    running.stop()


@pytest.fixture(params=["rest", "grpc"])
async def upstream(request: pytest.FixtureRequest, container: Inference) -> AsyncIterator[Upstream]:
    settings = {"url": container.url if request.param == "rest" else container.grpc, "timeout_seconds": 0.5}
    made = (RestUpstream if request.param == "rest" else GrpcUpstream)(Settings.model_validate(settings))
    yield made
    await made.close()


def asked(step: str | None, value: Any = None, **more: Any) -> InferenceRequest:
    parameters = {"step": step, "key": "s/r/a/3", "attempt": 2, "checkpoint": '"page 1"'}
    data = json.dumps(json.dumps(value)).encode()
    return InferenceRequest("r", "flow", data=data, parameters=json.dumps(parameters).encode(), stream=True, **more)


async def call(upstream: Upstream, request: InferenceRequest) -> list[Any]:
    model = await upstream.model("flow")
    async with aclosing(upstream.stream(request, model)) as chunks:
        return [json.loads(json.loads(chunk.data)) async for chunk in chunks]


async def test_its_declaration_is_that_of_the_version_that_serves(upstream: Upstream) -> None:
    model = await upstream.model("flow")
    assert model.workflow is not None
    assert list(model.workflow.stages) == list(NAMES)
    assert (model.workflow.stages["talks"].timeout, model.workflow_version, model.versions) == (2.0, "2", ("1", "2"))
    assert await upstream.model("flow") == model


async def test_a_step_is_run_of_the_version_that_the_instance_began_with(upstream: Upstream) -> None:
    known = [{"a": 1}, "s/r/a/3", 2, "page 1"]
    for version, answers in (("", 2), ("1", 1), ("2", 2)):
        assert await call(upstream, asked("version", {"a": 1}, version=version)) == [{"output": [answers, *known]}]
    with pytest.raises(Fault, match="flow has no version '3'") as gone:
        await call(upstream, asked("version", version="3"))
    assert gone.value.code is Code.NOT_FOUND


async def test_what_a_step_says_while_it_runs(upstream: Upstream) -> None:
    expected = [{"progress": {"pages": 1}}, {"checkpoint": "page 1"}, {"output": "done"}]
    assert await call(upstream, asked("talks")) == expected


@pytest.mark.parametrize("after_progress", [False, True])
async def test_how_it_failed_is_known_before_its_first_chunk_and_behind_it(
    upstream: Upstream, after_progress: bool
) -> None:
    with pytest.raises(Fault, match=r"^why$") as refused:
        await call(upstream, asked("ends", ["invalid", after_progress]))
    assert refused.value.code is Code.INVALID
    with pytest.raises(ServiceUnavailable) as away:
        await call(upstream, asked("ends", ["away", after_progress]))
    assert away.value.client_message == "why"
    with pytest.raises(Failed, match=r"ValueError: why \(steps.py:\d+, in ends\)"):
        await call(upstream, asked("ends", ["bug", after_progress]))


async def test_a_workflow_without_a_step_is_refused(upstream: Upstream) -> None:
    model = await upstream.model("flow")
    inputs = b'[{"name":"input","datatype":"BYTES","shape":[1],"data":["1"]}]'
    with pytest.raises(Fault, match="flow is a workflow, which a gateway runs") as refused:
        await upstream.infer(InferenceRequest("r", "flow", inputs=inputs, version="1"), inputs, 5)
    assert refused.value.code is Code.INVALID
    with pytest.raises(Fault, match="flow has no step 'nothing'"):
        await call(upstream, asked("nothing"))
    with pytest.raises(Fault, match="flow has no version '7'"):
        await upstream.infer(InferenceRequest("r", "flow", inputs=inputs, version="7"), inputs, 5)
    assert model.decoupled


async def test_a_step_may_take_as_long_as_its_stage(upstream: Upstream) -> None:
    with pytest.raises(Late, match=r"no further part in 0\.5 s"):
        await call(upstream, asked("slow", 30))
    assert await call(upstream, asked("slow", 0.7, timeout=20.0)) == [{"output": None}]
    with pytest.raises(Late, match=r"no further part in 0\.1 s"):
        await call(upstream, asked("slow", 30, timeout=0.1))


async def test_a_step_that_is_given_up_is_cancelled_and_its_place_free(upstream: Upstream, repository: Path) -> None:
    ended = repository / "flow/2/ended"
    ended.unlink(missing_ok=True)
    model = await upstream.model("flow")
    async with (
        aclosing(upstream.stream(asked("waits"), model)) as one,
        aclosing(upstream.stream(asked("waits"), model)) as two,
    ):
        assert [json.loads(json.loads((await anext(chunks)).data)) for chunks in (one, two)] == [
            {"progress": "begun"}
        ] * 2
        with pytest.raises(Busy):  # as many as runtime.max_streams, for a second
            await call(upstream, asked("version", timeout=20.0))
    await soon(ended.exists, "it was not cancelled")

    async def free() -> bool:
        try:
            return bool(await call(upstream, asked("version")))
        except Busy:
            return False

    await soon(free, "its place isn't free")


async def test_a_step_past_its_deadline_is_cancelled(upstream: Upstream, repository: Path) -> None:
    ended = repository / "flow/2/ended"
    ended.unlink(missing_ok=True)
    with pytest.raises(Fault) as late:
        await call(upstream, asked("waits", deadline=time.time() + 0.3, timeout=20.0))
    assert late.value.code is Code.DEADLINE_EXCEEDED
    await soon(ended.exists, "it was not cancelled")
