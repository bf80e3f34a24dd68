"""What the metadata of a workflow says, over REST and over gRPC, and what is no such metadata."""

import json
from typing import Any

import pytest

from podpair.gateway.core.model_errors import Failed
from podpair.gateway.core.models import Model, model_of
from podpair.gateway.upstream.grpc_messages import model_of_messages
from podpair.gateway.upstream.proto import v2_pb2 as pb

TENSORS = {
    "inputs": [{"name": "input", "datatype": "BYTES", "shape": [1]}],
    "outputs": [{"name": "output", "datatype": "BYTES", "shape": [1]}],
}
DECLARED = {"stages": {"draft": {"step": "draft", "timeout": 5.0}, "look": {"model": "judge", "input": "draft.text"}}}
METADATA = {
    "platform": "podpair_workflow",
    "versions": ["1", "2"],
    "parameters": {"version": "2"},
    "workflow": DECLARED,
}


def over_rest(**changed: Any) -> Model:
    return model_of("flow", json.dumps(TENSORS | METADATA | changed).encode(), None)


def over_grpc(**parameters: str) -> Model:
    metadata = pb.ModelMetadataResponse(name="flow", platform="podpair_workflow", versions=["1", "2"])
    metadata.inputs.add(name="input", datatype="BYTES", shape=[1])
    metadata.outputs.add(name="output", datatype="BYTES", shape=[1])
    config = pb.ModelConfigResponse()
    for name, value in parameters.items():
        config.config.parameters[name].string_value = value
    return model_of_messages("flow", metadata.SerializeToString(), config.SerializeToString())


def test_a_workflow_comes_with_its_declaration_and_version() -> None:
    for model in (over_rest(), over_grpc(version="2", workflow=json.dumps(DECLARED))):
        assert model.workflow is not None
        assert model.workflow.needs() == {"draft": frozenset(), "look": {"draft"}}
        assert (model.workflow_version, model.versions, model.batchable) == ("2", ("1", "2"), False)
    assert over_rest() == over_rest()


def test_a_model_is_no_workflow_whatever_it_calls_itself_beside() -> None:
    model = over_rest(platform="python")
    assert (model.workflow, model.workflow_version) == (None, "")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"workflow": {"stages": {"a": {"step": "b", "timeot": 1}}}}, "flow: stages.a.timeot: no such setting; did you mean"),
        ({"workflow": {"format": 2, "stages": {"a": {"step": "b"}}}}, "newer than this gateway: flow: format: input should be 1"),
        ({"workflow": "none"}, "its workflow can't be read"),
        ({"workflow": None}, "its workflow can't be read"),
        ({"parameters": {}}, "its workflow flow comes without its version"),
    ],
)  # fmt: skip
def test_a_declaration_that_cannot_be_read(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Failed, match=message):
        over_rest(**changed)


def test_a_server_without_the_declaration() -> None:
    with pytest.raises(Failed, match="its workflow flow comes without its declaration"):
        over_grpc()
