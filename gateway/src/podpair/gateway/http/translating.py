"""V2 over HTTP for a model that is asked over gRPC: the same questions as a session's, so that they share its calls."""

import re

import msgspec
from aiohttp import web

from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.questions import Question
from podpair.gateway.core.tensors import TensorSpec
from podpair.gateway.upstream.asking import Asking
from podpair.gateway.upstream.readiness import Readiness


class _Asked(msgspec.Struct):
    inputs: msgspec.Raw
    id: str = ""
    parameters: msgspec.Raw = msgspec.Raw(b"")


class _Answer(msgspec.Struct):
    outputs: msgspec.Raw
    model_version: str | None = None


# As the model's container reads it: up to the largest INT64, by which clients mean "never".
_MILLISECONDS = re.compile(r"[0-9]{1,19}(\.[0-9]{0,9})?")
_YEAR_9999 = 253_402_300_800.0  # its end, in Unix seconds

_asked = msgspec.json.Decoder(_Asked)
_answer = msgspec.json.Decoder(_Answer)


async def v2_infer(
    request: web.Request, body: bytes, model: str, asking: Asking, key: str, trace: str = ""
) -> web.Response:
    """`infer` in JSON; `trace`: the span that it is below. Raises Fault, Unavailable, Busy or Failed."""
    if "Inference-Header-Content-Length" in request.headers:
        raise Fault(Code.INVALID, "binary tensors are not taken here: the model is asked over gRPC; send JSON")
    try:
        asked = _asked.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"the body is not V2's: {error}") from None
    question = Question(
        asked.id, model, bytes(asked.inputs), parameters=bytes(asked.parameters), deadline=_deadline(request),
        key=request.headers.get("podpair-key", key), trace=trace,
    )  # fmt: skip
    found = _answer.decode(await asking.ask(question))
    said = {"model_name": model, "model_version": found.model_version, "id": asked.id or None, "outputs": found.outputs}
    return _json({name: value for name, value in said.items() if value is not None})


def _deadline(request: web.Request) -> float | None:
    text = request.headers.get("podpair-deadline")
    if text is None:
        return None
    if _MILLISECONDS.fullmatch(text) is None:
        raise Fault(Code.INVALID, f"podpair-deadline is {text[:40]!r}; it is a time in Unix milliseconds")
    return min(float(text) / 1000, _YEAR_9999)


async def v2_document(path: str, asking: Asking, readiness: Readiness) -> web.Response:
    """What can be read: of the server, its health, and its models. Raises Fault, Unavailable, Busy or Failed."""
    match path.strip("/").split("/")[1:]:
        case []:
            return _json({"name": "podpair-gateway", "extensions": []})
        case ["health", state]:
            return web.Response(status=200 if state == "live" or readiness.ready else 503)
        case ["models", name]:
            return _json(_described(await asking.describe(name)))
        case ["models", name, "ready"]:
            await asking.describe(name)
            return web.Response(status=200 if readiness.ready else 503)
    raise Fault(Code.NOT_FOUND, f"there is no {path} where the model is asked over gRPC")


def _described(model: Model) -> dict[str, object]:
    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
        return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]

    described = {"name": model.name, "versions": list(model.versions), "platform": ""}
    return {**described, "inputs": tensors(model.inputs), "outputs": tensors(model.outputs)}


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")
