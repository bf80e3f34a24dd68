"""One question to the model, however it came: shorthand expanded, answer in the form that was asked in."""

import time
from typing import NamedTuple

import msgspec

from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.shorthand import InputSpec, collapse, expand
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.upstream.v2 import V2Client


class Question(NamedTuple):
    """What `infer` asks, or a record on the requests topic. Each part is JSON, empty where it is absent."""

    id: str
    model: str
    inputs: bytes
    data: bytes
    parameters: bytes
    deadline: float | None  # Unix seconds


class _Body(msgspec.Struct):
    inputs: msgspec.Raw = msgspec.Raw(b"")
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: msgspec.Raw = msgspec.Raw(b"")


_body = msgspec.json.Decoder(_Body)


def question_body(question: Question) -> bytes:
    """The value of a request record."""
    members = (("inputs", question.inputs), ("data", question.data), ("parameters", question.parameters))
    return b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members if value) + b"}"


def question_of_body(body: bytes, request_id: str, model: str, deadline: float | None) -> Question:
    """The reverse of `question_body`. Raises Fault(invalid)."""
    try:
        found = _body.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"the request's value is not JSON: {error}") from None
    inputs, data = bytes(found.inputs), bytes(found.data)
    if bool(inputs) == bool(data):
        raise Fault(Code.INVALID, "exactly one of `inputs` and `data` is needed")
    return Question(request_id, model, inputs, data, bytes(found.parameters), deadline)


class Asking:
    """Asks the model next door; knows the inputs of those models that were asked in shorthand."""

    def __init__(self, client: V2Client, readiness: Readiness) -> None:
        self._client = client
        self._specs: dict[str, InputSpec] = {}
        readiness.on_change(lambda _: self._specs.clear())  # another model may stand there now

    async def ask(self, question: Question, *, queue_ms: float | None = None) -> bytes:
        """The body of the `result` event, as a JSON object.

        Raises Fault where the question is at fault or its deadline has passed, Unavailable, Busy or Failed where the
        container is.
        """
        timeout = None
        if question.deadline is not None:
            timeout = question.deadline - time.time()
            if timeout <= 0:
                raise Fault(Code.DEADLINE_EXCEEDED, "the deadline had passed before the model was asked")
        inputs, single = question.inputs, False
        if question.data:
            inputs, single = expand(question.data, await self._spec(question.model))
        parameters = b',"parameters":' + question.parameters if question.parameters else b""
        body = b'{"id":%b,"inputs":%b%b}' % (msgspec.json.encode(question.id), inputs, parameters)
        answer = await self._client.infer(question.model, body, deadline=question.deadline, timeout=timeout)
        timing = {"queue_ms": queue_ms, "inference_ms": answer.inference_ms}
        what, value = (
            (b"data", collapse(answer.outputs, single=single)) if question.data else (b"outputs", answer.outputs)
        )
        return b'{"%b":%b,"model":%b,"model_version":%b,"timing":%b}' % (
            what, value, msgspec.json.encode(question.model), msgspec.json.encode(answer.model_version),
            msgspec.json.encode({name: round(ms, 3) for name, ms in timing.items() if ms is not None}),
        )  # fmt: skip

    async def _spec(self, model: str) -> InputSpec:
        spec = self._specs.get(model)
        if spec is None:
            spec = self._specs[model] = await self._client.only_input(model)
        return spec
