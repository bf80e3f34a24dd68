"""The metadata of a workflow whose container is called over gRPC, as a client of V2 over HTTP reads it."""

import json
from typing import Any, cast

from gateway.core.test_described_workflows import DECLARED, METADATA, TENSORS, over_grpc, over_rest
from podpair.gateway.core.models import Model
from podpair.gateway.http.v2_transcoder import v2_document
from podpair.gateway.upstream.client import InferenceClient


class Described:
    """A client that knows one model."""

    def __init__(self, model: Model) -> None:
        self.model = model

    async def describe(self, name: str) -> Model:
        assert name == self.model.name
        return self.model


async def document(model: Model) -> dict[str, Any]:
    answer = await v2_document("/v2/models/flow", cast("InferenceClient", Described(model)), cast("Any", None))
    assert isinstance(answer.body, bytes)
    return cast("dict[str, Any]", json.loads(answer.body))


async def test_it_is_what_the_container_says_over_rest() -> None:
    model = over_grpc(version="2", workflow=json.dumps(DECLARED))
    assert await document(model) == {"name": "flow", **METADATA, **TENSORS}


async def test_a_model_has_no_declaration() -> None:
    assert "workflow" not in await document(over_rest(platform="python"))
