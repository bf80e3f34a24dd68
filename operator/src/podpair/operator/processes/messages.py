"""Messages between the operator and a child process: a length of four bytes, then as many bytes.

A call goes to the child as a pickle, for the child trusts the operator. An answer comes back as JSON and is read as the type
that the caller names: a child that has been taken over can't make the operator run anything. Neither is ever longer than
`MAX_BYTES`.
"""

import asyncio
import json
import pickle
import struct
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

MAX_BYTES = 8 << 20
_LENGTH = struct.Struct(">I")


class MessageError(Exception):
    """What came is no message."""


class Call(NamedTuple):
    """A function of a module, as `module:function`, and its arguments."""

    number: int
    function: str
    args: tuple[Any, ...]


class Answer(NamedTuple):
    """What a call returned, as JSON, or the text of what it raised. Number 0: the child is ready for calls."""

    number: int
    value: Any = None
    error: str | None = None


_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def encode_call(call: Call) -> bytes:
    """Return the bytes of a call. Raises MessageError if they are too many."""
    return _framed(pickle.dumps(tuple(call)))


def decode_call(body: bytes) -> Call:
    """Return the call that the operator sent."""
    return Call(*pickle.loads(body))  # noqa: S301 - only the operator can write to this pipe


def encode_answer(answer: Answer) -> bytes:
    """Return the bytes of an answer; one that is too long becomes an error."""
    try:
        return _framed(to_json(list(answer)))
    except (MessageError, ValueError) as error:
        return _framed(to_json([answer.number, None, f"the answer can't be sent: {error}"]))


def decode_answer(body: bytes) -> Answer:
    """Return the answer that a child sent. Raises MessageError."""
    try:
        return _ANSWER.validate_python(tuple(json.loads(body)))
    except (ValueError, TypeError, RecursionError, ValidationError) as error:
        raise MessageError(f"no answer: {type(error).__name__}") from None


async def read_message(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next message; None: there won't be any more. Raises MessageError."""
    try:
        head = await reader.readexactly(_LENGTH.size)
        (length,) = _LENGTH.unpack(head)
        if length > MAX_BYTES:
            raise MessageError(f"a message of {length} bytes")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _framed(body: bytes) -> bytes:
    if len(body) > MAX_BYTES:
        raise MessageError(f"{len(body)} bytes are more than {MAX_BYTES}")
    return _LENGTH.pack(len(body)) + body
