"""What is asked of a model, however it came: over a connection, or as a record of the requests topic."""

from typing import Any

import msgspec

from podpair.gateway.core.frames import is_utf8
from podpair.gateway.core.protocol import Code, Fault, why_no_question

_encode = msgspec.json.Encoder().encode


class Question(msgspec.Struct):
    """One request. `inputs`, `data` and `parameters` are JSON, empty where they are absent; one of `inputs`, `data`, `row` is
    there.
    """

    id: str
    model: str
    inputs: bytes = b""
    data: bytes = b""
    parameters: bytes = b""
    deadline: float | None = None  # Unix seconds
    row: list[Any] | None = None  # `data`, where it is a list of numbers that has been read already
    stream: bool = False  # the answer is wanted in parts
    key: str = ""  # whose it is: the same version of a model answers what has the same key
    trace: str = ""  # the traceparent of its span, where it is traced


class _Body(msgspec.Struct):
    inputs: msgspec.Raw = msgspec.Raw(b"")
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: msgspec.Raw = msgspec.Raw(b"")
    stream: bool = False


class _RowBody(msgspec.Struct, forbid_unknown_fields=True):
    data: list[int | float]


_body = msgspec.json.Decoder(_Body)
_row_body = msgspec.json.Decoder(_RowBody)


def data_of(question: Question) -> bytes:
    """The shorthand in JSON, empty where there is none."""
    return question.data if question.row is None else _encode(question.row)


def question_body(question: Question) -> bytes:
    """The value of a request record."""
    members = (("inputs", question.inputs), ("data", data_of(question)), ("parameters", question.parameters))
    stated = [b'"%b":%b' % (name.encode(), value) for name, value in members if value]
    if question.stream:
        stated.append(b'"stream":true')
    return b"{%b}" % b",".join(stated)


def question_of_body(body: bytes, request_id: str, model: str, deadline: float | None, key: str = "") -> Question:
    """The reverse of `question_body`. Raises Fault(invalid)."""
    if body.startswith(b'{"data":[') and body.endswith(b"]}"):  # what there is most of: a list of numbers, read at once
        try:
            return Question(request_id, model, deadline=deadline, row=_row_body.decode(body).data, key=key)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    if not is_utf8(body):  # of what is passed on as it stands the decoder looks at the structure only
        raise Fault(Code.INVALID, "the request's value is not JSON: it is not UTF-8")
    try:
        found = _body.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"the request's value is not JSON: {error}") from None
    inputs, data, parameters = bytes(found.inputs), bytes(found.data), bytes(found.parameters)
    wrong = why_no_question(inputs, data, parameters)
    if wrong is not None:
        raise Fault(Code.INVALID, wrong)
    return Question(request_id, model, inputs, data, parameters, deadline, stream=found.stream, key=key)
