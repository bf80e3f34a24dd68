"""An inference request, whether it came over a connection or as a record of the requests topic."""

from typing import Any

import msgspec

from podpair.gateway.core.frames import is_utf8
from podpair.gateway.core.lanes import MIDDLE
from podpair.gateway.core.protocol import Code, Fault, validate_request

_encode = msgspec.json.Encoder().encode


class InferenceRequest(msgspec.Struct):
    """One request. `inputs`, `data` and `parameters` are JSON, empty if they are absent; one of `inputs`, `data`, `row` is
    there.
    """

    id: str
    model: str
    inputs: bytes = b""
    data: bytes = b""
    parameters: bytes = b""
    deadline: float | None = None  # Unix seconds
    row: list[Any] | None = None  # `data`, if it is a list of numbers that has been read already
    stream: bool = False  # the answer is wanted in chunks
    key: str = ""  # sticky-routing key: equal keys get the same version of the model
    trace: str = ""  # the traceparent of its span, if it is traced
    lane: int = MIDDLE  # where it waits (`lanes`)
    subject: str = ""  # whose it is; empty: not known
    version: str = ""  # of the model; empty: which one answers is its server's choice
    timeout: float = (
        0.0  # seconds that its answer, or each chunk of a streamed one, may take; 0: as the model's settings say
    )
    not_before: float | None = None  # Unix seconds: when it is to begin; None: at once

    def release_row(self, body: bytes) -> None:
        """Hold the record's value, of which `decode_request` made the request, instead of numbers that were encoded.

        A value with two members `data`, of which the last one counts, stays numbers.
        """
        if self.row is not None and body.find(b'"', 8) < 0:
            self.data, self.row = body[8:-1], None


class _Body(msgspec.Struct):
    inputs: msgspec.Raw = msgspec.Raw(b"")
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: msgspec.Raw = msgspec.Raw(b"")
    stream: bool = False


class _RowBody(msgspec.Struct, forbid_unknown_fields=True):
    data: list[int | float]


_body = msgspec.json.Decoder(_Body)
_row_body = msgspec.json.Decoder(_RowBody)


def shorthand_of(request: InferenceRequest) -> bytes:
    """Return the shorthand in JSON; empty if there is none."""
    return request.data if request.row is None else _encode(request.row)


def encode_request(request: InferenceRequest) -> bytes:
    """Encode the value of a request record."""
    if request.data and not (request.inputs or request.parameters or request.stream):
        return b'{"data":%b}' % request.data  # the most common
    members = (("inputs", request.inputs), ("data", shorthand_of(request)), ("parameters", request.parameters))
    stated = [b'"%b":%b' % (name.encode(), value) for name, value in members if value]
    if request.stream:
        stated.append(b'"stream":true')
    return b"{%b}" % b",".join(stated)


def decode_request(body: bytes, request_id: str, model: str, deadline: float | None, key: str = "") -> InferenceRequest:
    """Decode the value of a request record. Raises Fault(invalid)."""
    if body.startswith(b'{"data":[') and body.endswith(b"]}"):  # the most common: a list of numbers, read at once
        try:
            return InferenceRequest(request_id, model, deadline=deadline, row=_row_body.decode(body).data, key=key)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    if not is_utf8(body):  # the decoder checks only the structure of what is passed on unchanged
        raise Fault(Code.INVALID, "the request's value is not JSON: it is not UTF-8")
    try:
        found = _body.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"the request's value is not JSON: {error}") from None
    inputs, data, parameters = bytes(found.inputs), bytes(found.data), bytes(found.parameters)
    wrong = validate_request(inputs, data, parameters)
    if wrong is not None:
        raise Fault(Code.INVALID, wrong)
    return InferenceRequest(request_id, model, inputs, data, parameters, deadline, stream=found.stream, key=key)
