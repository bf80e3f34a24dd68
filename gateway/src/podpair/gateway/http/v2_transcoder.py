"""V2 over HTTP for a model that is called over gRPC. Requests become those of sessions, and are batched with them."""

import re

import msgspec
from aiohttp import web

from podpair.gateway.auth.identity import Identity
from podpair.gateway.core.lanes import MIDDLE
from podpair.gateway.core.models import WORKFLOW, Model
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.tensors import TensorSpec
from podpair.gateway.upstream.client import InferenceClient
from podpair.gateway.upstream.readiness import Readiness


class _InferBody(msgspec.Struct):
    inputs: msgspec.Raw
    id: str = ""
    parameters: msgspec.Raw = msgspec.Raw(b"")


class _Answer(msgspec.Struct):
    outputs: msgspec.Raw
    model_version: str | None = None
    cache: str = ""


# The format that the model's container accepts, up to the largest INT64, which clients use for "never".
_MILLISECONDS = re.compile(r"[0-9]{1,19}(\.[0-9]{0,9})?")
_YEAR_9999 = 253_402_300_800.0  # its end, in Unix seconds

_decoder = msgspec.json.Decoder(_InferBody)
_answer = msgspec.json.Decoder(_Answer)


async def v2_infer(
    request: web.Request,
    body: bytes,
    model: str,
    inference: InferenceClient,
    identity: Identity,
    trace: str = "",
    lane: int = MIDDLE,
) -> web.Response:
    """Answer `infer` in JSON. trace: the parent span. lane: where it waits. Raises Fault, Unavailable, Busy or Failed."""
    if "Inference-Header-Content-Length" in request.headers:
        raise Fault(Code.INVALID, "binary tensors are not accepted: the model is called over gRPC; send JSON")
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"the body is not V2's: {error}") from None
    inference_request = InferenceRequest(
        fields.id, model, bytes(fields.inputs), parameters=bytes(fields.parameters), deadline=deadline_of(request),
        key=request.headers.get("podpair-key", identity.session or identity.subject), trace=trace, lane=lane,
        subject=identity.subject,
    )  # fmt: skip
    found = _answer.decode(await inference.infer(inference_request))
    response = {
        "model_name": model,
        "model_version": found.model_version,
        "id": fields.id or None,
        "outputs": found.outputs,
    }
    answer = _json({name: value for name, value in response.items() if value is not None})
    if found.cache:
        answer.headers["Cache-Status"] = "podpair; hit" if found.cache == "hit" else "podpair; fwd=miss; collapsed"
    return answer


def deadline_of(request: web.Request) -> float | None:
    """Return the deadline that a call's headers state, in Unix seconds. Raises Fault(invalid)."""
    text = request.headers.get("podpair-deadline")
    if text is None:
        return None
    if _MILLISECONDS.fullmatch(text) is None:
        raise Fault(Code.INVALID, f"podpair-deadline is {text[:40]!r}; it is a time in Unix milliseconds")
    return min(float(text) / 1000, _YEAR_9999)


async def v2_document(path: str, inference: InferenceClient, readiness: Readiness) -> web.Response:
    """Answer GET requests about the server, its health and its models. Raises Fault, Unavailable, Busy or Failed."""
    match path.strip("/").split("/")[1:]:
        case []:
            return _json({"name": "podpair-gateway", "extensions": []})
        case ["health", state]:
            return web.Response(status=200 if state == "live" or readiness.ready else 503)
        case ["models", name]:
            return _json(_described(await inference.describe(name)))
        case ["models", name, "ready"]:
            await inference.describe(name)
            return web.Response(status=200 if readiness.ready else 503)
    raise Fault(Code.NOT_FOUND, f"there is no {path}: the model is called over gRPC")


def _described(model: Model) -> dict[str, object]:
    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
        return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]

    described: dict[str, object] = {"name": model.name, "versions": list(model.versions), "platform": ""}
    if model.workflow is not None:  # as the container has it over REST
        declared = model.workflow.model_dump(mode="json", exclude_unset=True)
        described |= {"platform": WORKFLOW, "workflow": declared, "parameters": {"version": model.workflow_version}}
    return {**described, "inputs": tensors(model.inputs), "outputs": tensors(model.outputs)}


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")
