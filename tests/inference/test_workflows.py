"""Workflows in a repository: how they are described and served, and what they take from nobody."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness.waiting import until
from inference.worker_processes import gone, is_ready
from inference.workflow_folders import SEARCH, STEPS, run, write, write_model
from podpair.common.workflows.declaration import Workflow
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.grpc.proto import open_inference_pb2 as pb
from podpair.inference.runtime.workflow import step_timeout

pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).parents[2] / "examples/workflow/models"


def call(server: Any, model: str, step: str, value: Any = None, version: str = "") -> Any:
    body = {"input": json.dumps(value), "parameters": {"step": step, "key": "s/r/a", "attempt": 1}}
    return server.post(f"/v2/models/{model}{version}/generate_stream", body)


def output(reply: Any) -> Any:
    assert reply.status == 200, reply.body
    (event,) = reply.body.removeprefix(b"data: ").split(b"\n\n")[:-1]
    return json.loads(json.loads(event)["output"])["output"]


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any]) -> Iterator[Any]:
    """The workflow `flow` of two versions, before the model that it names in the alphabet, and `broken` beside it."""
    repository = tmp_path_factory.mktemp("flows")
    write_model(repository / "later")
    write(repository / "broken", {"stages": {"a": {"model": "latre"}, "b": SEARCH}})
    for version in (1, 2):
        code = f"{STEPS}\ndef version(given):\n    return {version}\n"
        stages = {"a": {"model": "later"}, "b": {"step": "version", "input": "a", "timeout": f"{version}h"}}
        write(repository / "flow", {"stages": stages | {"c": {"step": "end"}}}, code, version)
    (repository / "flow/model.yaml").write_text("description: does it\nversions: [{version: 1, weight: 1}]\n")
    with serve(repository, PODPAIR_LOG__LEVEL="info") as server:
        yield server


def declared(version: int) -> dict[str, Any]:
    step = {"step": "version", "input": "a", "timeout": version * 3600.0}
    return {"stages": {"a": {"model": "later"}, "b": step, "c": {"step": "end"}}}


def test_its_declaration_is_in_its_metadata(flows: Any) -> None:
    tensor = {"datatype": "BYTES", "shape": [1]}
    for path, version in (("", 1), ("/versions/1", 1), ("/versions/2", 2)):
        found = flows.get(f"/v2/models/flow{path}").json
        assert found["platform"] == "podpair_workflow"
        assert (found["inputs"], found["outputs"]) == ([{"name": "input"} | tensor], [{"name": "output"} | tensor])
        assert (found["versions"], found["parameters"]["version"]) == (["1", "2"], str(version))
        assert found["parameters"]["description"] == "does it"
        assert found["workflow"] == declared(version)
    config = flows.get("/v2/models/flow/config").json
    assert (config["max_batch_size"], config["model_transaction_policy"]) == (0, {"decoupled": True})
    assert "workflow" not in flows.get("/v2/models/later").json
    assert "workflow" not in flows.get("/v2/models/later/config").json["parameters"]
    assert flows.get("/v2/models/flow/ready").status == 200
    assert [found["version"] for found in flows.get("/v2/models/flow/stats").json["model_stats"]] == ["1", "2"]


def test_its_declaration_over_grpc(flows: Any) -> None:
    with grpc.insecure_channel(flows.record("gRPC is ready")["address"]) as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelConfig", response_deserializer=pb.ModelConfigResponse.FromString
        )
        for asked, version in (("", 1), ("2", 2)):
            message = pb.ModelConfigRequest(name="flow", version=asked).SerializeToString()
            parameters = ask(message, timeout=10).config.parameters
            assert json.loads(parameters["workflow"].string_value) == declared(version)
            assert parameters["version"].string_value == str(version)


def test_steps_are_run_of_the_version_that_is_asked(flows: Any) -> None:
    assert output(call(flows, "flow", "version")) == 1
    assert output(call(flows, "flow", "version", version="/versions/1")) == 1
    assert output(call(flows, "flow", "version", version="/versions/2")) == 2


@pytest.mark.parametrize("path", ["infer", "generate", "generate_stream"])
def test_a_workflow_has_no_answer_of_its_own(flows: Any, path: str) -> None:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["1"]}
    reply = flows.post(f"/v2/models/flow/{path}", {"inputs": [tensor]} if path == "infer" else {"input": "1"})
    message = "flow is a workflow, which a gateway runs: ask the gateway for it"
    assert (reply.status, reply.json) == (400, {"error": message})


def test_a_step_is_not_run_where_its_chunks_have_no_place(flows: Any) -> None:
    body = {"input": "1", "parameters": {"step": "end"}}  # it would end its process
    reply = flows.post("/v2/models/flow/generate", body)
    assert (reply.status, reply.json["error"]) == (
        400,
        "flow is a workflow, which a gateway runs: ask the gateway for it",
    )


def test_only_functions_that_the_declaration_names_are_steps(flows: Any) -> None:
    reply = call(flows, "flow", "search")
    assert (reply.status, reply.json["error"]) == (400, "workflow flow has no step 'search'; there are: end, version")


def test_a_faulty_workflow_takes_nothing_from_its_neighbours(flows: Any) -> None:
    reply = flows.get("/v2/models/broken/ready")
    assert reply.status == 503
    assert "stages.a.model: there is no model 'latre'; did you mean later?" in reply.json["error"]
    assert is_ready(flows, "flow")
    assert is_ready(flows, "later")


def test_a_step_that_ends_its_process_takes_along_only_its_own_version(flows: Any) -> None:
    reply = call(flows, "flow", "end", version="/versions/2")
    assert reply.status == 500
    assert "its process exited with status 3" in reply.json["error"]
    assert output(call(flows, "flow", "version", version="/versions/1")) == 1
    counted = b'inference_worker_restarts_total{model="flow",reason="exited"} 1.0'
    until(lambda: counted in flows.get("/metrics").body, "its end isn't noticed")
    until(lambda: call(flows, "flow", "version", version="/versions/2").status == 200, "it isn't started again")
    assert output(call(flows, "flow", "version", version="/versions/2")) == 2


@pytest.mark.parametrize(
    ("runtime", "stages", "seconds"),
    [
        ({}, {"a": SEARCH | {"timeout": "10s"}, "b": {"model": "m", "timeout": "1d"}}, 300),
        ({}, {"a": SEARCH | {"timeout": "1h"}}, 3630),
        ({}, {"a": {"model": "m", "compensate": SEARCH | {"timeout": "2h"}}}, 7230),
        ({"timeout_seconds": 5}, {"a": SEARCH | {"timeout": "1h"}}, 5),
    ],
)
def test_a_step_may_take_as_long_as_its_stage(runtime: Any, stages: Any, seconds: float) -> None:
    config = ModelConfig.model_validate({"runtime": runtime})
    assert step_timeout(config, Workflow.model_validate({"stages": stages})) == seconds


def test_a_step_that_never_ends_is_ended_with_its_process(tmp_path: Path, start: Callable[..., Any]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = (
        f"import os\n\ndef waits(given):\n    open({str(fifo)!r}).read()\n\ndef pid(given):\n    return os.getpid()\n"
    )
    stages = {"a": {"step": "waits", "timeout": "1h"}, "b": {"step": "pid"}}
    write(tmp_path / "models/flow", {"stages": stages}, code)
    (tmp_path / "models/flow/model.yaml").write_text("runtime: {timeout_seconds: 0.2}\n")
    server = start(tmp_path / "models")
    pid = output(call(server, "flow", "pid"))
    reply = call(server, "flow", "waits")
    assert reply.status == 500
    assert "had no part for 0.2 s (runtime.timeout_seconds)" in reply.json["error"]
    until(lambda: gone(pid), "a step that doesn't end keeps its process")


def test_a_step_that_is_cut_off_by_the_end_of_its_container_is_not_to_blame(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = f"def waits(given):\n    open({str(fifo)!r}).read()\n"
    write(tmp_path / "models/flow", {"stages": {"a": {"step": "waits"}}}, code)
    server = start(tmp_path / "models", PODPAIR_SERVER__SHUTDOWN_SECONDS="0.2")
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(call, server, "flow", "waits")
        with fifo.open("w"):  # it is there, and never returns
            server.terminate()
            reply = asked.result(60)
    assert (reply.status, reply.json["error"]) == (503, "model flow was unloaded or replaced before it had answered")


def test_a_workflow_is_mended_and_changed_while_it_is_served(tmp_path: Path, start: Callable[..., Any]) -> None:
    repository = tmp_path / "models"
    write_model(repository / "echo")
    write(repository / "flow", {"stages": {"a": {"step": "serch"}}})
    server = start(repository, PODPAIR_MODELS__WATCH="true", PODPAIR_MODELS__POLL_SECONDS="0.02")
    assert "did you mean search?" in server.get("/v2/models/flow/ready").json["error"]
    write(repository / "flow", {"stages": {"a": SEARCH}})
    until(lambda: is_ready(server, "flow"), "it isn't mended")
    assert output(call(server, "flow", "search", 5)) == 5
    # A second version is served beside the first.
    write(repository / "flow", {"stages": {"b": SEARCH}}, STEPS.replace("return given", "return [given]"), 2)
    until(lambda: server.get("/v2/models/flow").json["versions"] == ["1", "2"], "the second version isn't loaded")
    assert server.get("/v2/models/flow").json["workflow"] == {"stages": {"b": SEARCH}}
    assert output(call(server, "flow", "search", 5)) == [5]
    assert output(call(server, "flow", "search", 5, "/versions/1")) == 5
    # One that can't be read changes nothing of what is served.
    write(repository / "flow", {"stages": {"b": {}}}, STEPS, 3)
    until(lambda: any("needs one of model" in str(record) for record in server.records), "its faults aren't told")
    assert output(call(server, "flow", "search", 5)) == [5]


def test_the_example_is_sound() -> None:
    found = run("validate", EXAMPLE)
    assert (found.exit_code, found.stderr) == (0, "")
    assert "stages: read (model), judge (step), review (wait_for), book (step), receipt (step)" in found.stdout
