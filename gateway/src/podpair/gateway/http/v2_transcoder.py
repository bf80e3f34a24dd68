"""V2 over HTTP for a model that is called over gRPC. Requests become those of sessions, and are batched with them."""

import re

import msgspec
from aiohttp import web

from podpair.gateway.core.models import Model
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


# The format that the model's container accepts, up to the largest INT64, which clients use for "never".
_MILLISECONDS = re.compile(r"[0-9]{1,19}(\.[0-9]{0,9})?")
_YEAR_9999 = 253_402_300_800.0  # its end, in Unix seconds

_decoder = msgspec.json.Decoder(_InferBody)
_answer = msgspec.json.Decoder(_Answer)


async def v2_infer(
    request: web.Request, body: bytes, model: str, inference: InferenceClient, key: str, trace: str = ""
) -> web.Response:
    """Answer `infer` in JSON. trace: the parent span. Raises Fault, Unavailable, Busy or Failed."""
    if "Inference-Header-Content-Length" in request.headers:
        raise Fault(Code.INVALID, "binary tensors are not accepted: the model is called over gRPC; send JSON")
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"the body is not V2's: {error}") from None
    inference_request = InferenceRequest(
        fields.id, model, bytes(fields.inputs), parameters=bytes(fields.parameters), deadline=_deadline(request),
        key=request.headers.get("podpair-key", key), trace=trace,
    )  # fmt: skip
    found = _answer.decode(await inference.infer(inference_request))
    response = {
        "model_name": model,
        "model_version": found.model_version,
        "id": fields.id or None,
        "outputs": found.outputs,
    }
    return _json({name: value for name, value in response.items() if value is not None})


def _deadline(request: web.Request) -> float | None:
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

    described = {"name": model.name, "versions": list(model.versions), "platform": ""}
    return {**described, "inputs": tensors(model.inputs), "outputs": tensors(model.outputs)}


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")
