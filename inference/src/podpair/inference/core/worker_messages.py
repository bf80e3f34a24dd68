"""Messages between the server and a model's worker process: a frame is a prefix, a head and a body.

    prefix  16 bytes  version and 0 (uint16), length of the head (uint32), length of the body (uint64), little-endian
    head    msgpack   [message, [[datatype, shape, bytes in the body], …]]
    body    raw       each tensor's elements, row-major and little-endian, padded to 16 bytes; BYTES: a msgpack list of bin

A message is a msgpack list that begins with its kind. Nothing in it can be code: both sides read data only, so that neither
what a client sends nor what a model answers is ever unpickled.

The server has a connection for each run that may go on at the same time, on which a `Run` is answered by an `Answer` or a
`Failure`; and one for all else: `Load`, answered by `Loaded` or `Faults`; `AskReady`, by `Ready`; streams, of which the worker
sends no more chunks than it was asked for. A third kind of connection is for the worker's own calls to other models: a `Call` is
answered by a `CallAnswer` or a `CallFailure`, in any order.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from podpair.inference.core.request_context import NO_REQUEST, RequestContext
from podpair.inference.core.tensors import DATATYPES, Array, datatype_of

VERSION = 2
PREFIX = struct.Struct("<HHIQ")
_ALIGNMENT = 16
_PADDING = b"\0" * _ALIGNMENT
# msgpack's own integers have 64 bits; JSON's any number.
_BIG_INTEGER = 1


class MessageError(Exception):
    """A frame that can't be read: of another version, or none at all."""


class Message(msgspec.Struct, array_like=True, frozen=True):
    """The content of a frame, besides its tensors."""


class Load(Message, frozen=True, tag="load"):
    """Load a class, or a workflow's steps.py. config: its model.yaml as JSON. reference: `module:Class`, where it isn't in a
    repository.
    """

    path: str
    config: bytes
    # Of its threads.
    name: str
    model: str
    reference: str | None = None
    steps: bool = False


class Tensor(Message, frozen=True):
    """A tensor of the model's, or one in the body."""

    datatype: str
    shape: tuple[int, ...]
    # Of an input or output.
    name: str = ""
    # Bytes in the body.
    size: int = 0


class Loaded(Message, frozen=True, tag="loaded"):
    """The class is loaded, with these capabilities. functions: those of a steps.py, each with why it can't be a step, empty if it
    can.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    predicts: bool
    streams: bool
    takes_parameters: bool
    checks_ready: bool
    functions: Mapping[str, str] = {}


class Faults(Message, frozen=True, tag="faults"):
    """Why it can't be loaded."""

    faults: list[str]


class Run(Message, frozen=True, tag="run"):
    """Run a batch, the tensors; with the parameters of each row's request, and what its calls to other models inherit."""

    parameters: Sequence[Mapping[str, Any]] = ()
    context: RequestContext = NO_REQUEST


class Answer(Message, frozen=True, tag="answer"):
    """The outputs, as tensors."""


class Failure(Message, frozen=True, tag="failure"):
    """Why there are none. kind: the class of the error. traceback: for the log."""

    kind: str
    text: str
    retry_after: float = 0.0
    traceback: str = ""


class Begin(Message, frozen=True, tag="begin"):
    """Answer a row, the tensors, in parts: up to `parts` of them for now."""

    stream: int
    chunks: int
    parameters: Mapping[str, Any] = {}
    context: RequestContext = NO_REQUEST


class More(Message, frozen=True, tag="more"):
    """So many parts more of a stream."""

    stream: int
    chunks: int


class Cancel(Message, frozen=True, tag="cancel"):
    """Nobody reads a stream any more."""

    stream: int


class Chunk(Message, frozen=True, tag="chunk"):
    """A part of a stream, the tensors."""

    stream: int


class End(Message, frozen=True, tag="end"):
    """A stream has ended, and nothing of it runs any more."""

    stream: int
    failure: Failure | None = None


class AskReady(Message, frozen=True, tag="ask-ready"):
    """Say whether the class is ready."""

    number: int


class Ready(Message, frozen=True, tag="ready"):
    """Whether it is: None, or why it isn't."""

    number: int
    reason: str | None


class Call(Message, frozen=True, tag="call"):
    """Run another model of the server on the tensors, which have these names."""

    call: int
    model: str
    version: str | None
    names: tuple[str, ...]
    parameters: Mapping[str, Any]
    context: RequestContext


class CallAnswer(Message, frozen=True, tag="call-answer"):
    """The outputs of another model, as tensors with these names."""

    call: int
    names: tuple[str, ...]


class CallFailure(Message, frozen=True, tag="call-failure"):
    """Why there are none."""

    call: int
    failure: Failure


class Withdraw(Message, frozen=True, tag="withdraw"):
    """Nobody waits for the answer to a call any more."""

    call: int


_Any = (
    Load | Loaded | Faults | Run | Answer | Failure | Begin | More | Cancel | Chunk | End
    | AskReady | Ready | Call | CallAnswer | CallFailure | Withdraw
)  # fmt: skip


def _beyond(code: int, data: memoryview) -> int:
    if code != _BIG_INTEGER:
        raise ValueError(f"unknown extension {code}")
    return int(bytes(data))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[_Any, list[Tensor]], ext_hook=_beyond)
_strings = msgspec.msgpack.Decoder(list[bytes])


def encode(message: Message, arrays: Sequence[Array] = ()) -> list[Any]:
    """Encode a frame as a list of buffers; large tensors aren't copied."""
    tensors, body, length = [], [], 0
    for array in arrays:
        datatype = datatype_of(array.dtype)
        data = _raw(array, datatype)
        size = memoryview(data).nbytes
        tensors.append(Tensor(datatype, array.shape, size=size))
        body.append(data)
        length += size
        if padding := -size % _ALIGNMENT:
            body.append(_PADDING[:padding])
            length += padding
    try:
        head = _encoder.encode((message, tensors))
    except OverflowError:
        head = _encoder.encode((_with_big_integers(message), tensors))
    return [PREFIX.pack(VERSION, 0, len(head), length) + head, *body]


def lengths(prefix: bytes | bytearray) -> tuple[int, int]:
    """Return the bytes of the head and of the body. Raises MessageError for another version's prefix."""
    version, zero, head, body = PREFIX.unpack(prefix)
    if version != VERSION or zero:
        raise MessageError(f"a frame of version {version}, this is {VERSION}: was the installation exchanged?")
    return head, body


def decode(head: bytes | bytearray, body: Array) -> tuple[_Any, list[Array]]:
    """Decode a frame's message and its tensors, views of the body. Raises MessageError."""
    try:
        message, tensors = _decoder.decode(head)
        arrays, start = [], 0
        for tensor in tensors:
            arrays.append(_array(tensor, body[start : start + tensor.size]))
            start += tensor.size + -tensor.size % _ALIGNMENT
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, ValueError) as error:
        raise MessageError(f"a frame that can't be read: {error}") from None
    return message, arrays


def _raw(array: Array, datatype: str) -> Any:
    if datatype == "BYTES":
        values = array.ravel().tolist()
        return _encoder.encode([value if isinstance(value, bytes) else value.encode() for value in values])
    plain = np.ascontiguousarray(array, DATATYPES[datatype])
    return plain.reshape(-1).view(np.uint8)


def _array(tensor: Tensor, data: Array) -> Array:
    if tensor.datatype != "BYTES":
        return data.view(DATATYPES[tensor.datatype]).reshape(tensor.shape)
    values = _strings.decode(memoryview(data))  # type: ignore[arg-type]
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(tensor.shape)


def _with_big_integers(message: Message) -> Message:
    if isinstance(message, Run):
        return msgspec.structs.replace(message, parameters=[_packed(parameters) for parameters in message.parameters])
    if isinstance(message, Begin | Call):
        return msgspec.structs.replace(message, parameters=_packed(message.parameters))
    return message


def _packed(value: Any) -> Any:
    """Replace integers of more than 64 bits by extensions."""
    if isinstance(value, Mapping):
        return {key: _packed(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(member) for member in value]
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 63:
        return msgspec.msgpack.Ext(_BIG_INTEGER, str(value).encode())
    return value
