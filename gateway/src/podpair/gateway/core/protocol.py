"""The messages of `podpair.v1`, both ways; docs/protocol.md is their description.

What passes through unread (tensors, data, parameters) stays `msgspec.Raw`: the gateway looks only at what it needs.
"""

from collections.abc import Container
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw

from podpair.gateway.core.frames import is_utf8

_Message = TypeVar("_Message")
RouteName = Literal["auto", "direct", "queue"]
_ABSENT = Raw(b"")
_LONGEST = 300  # characters of a message that may quote what the client sent
_LONGEST_FAULT = 2000  # characters of a fault's message, which may quote a model: it has to fit into a record


class Code(StrEnum):
    """What an `error` event says went wrong."""

    INVALID = "invalid"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    UPSTREAM = "upstream"
    INTERNAL = "internal"
    LOST = "lost"


class CloseCode:
    """Why the gateway closes a WebSocket. 3xxx: reconnect and resume; 4xxx: something has to change first."""

    UNSUPPORTED = 1003
    POLICY = 1008
    TOO_LARGE = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_AGAIN = 1013
    IDLE = 3001
    SLOW = 3008
    EXPIRED = 4001
    REPLACED = 4009


_REASONS = {
    1002: "protocol_error", 1003: "unsupported", 1007: "invalid_text", 1008: "policy", 1009: "too_large",
    1011: "internal", 1012: "restart", 1013: "try_again_later",
    3001: "idle", 3008: "slow", 4001: "expired", 4009: "replaced",
}  # fmt: skip


def closing_reason(code: int) -> str:
    """Return the name of a close code in metrics, on every kind of connection."""
    return _REASONS.get(code, str(code))


def shortened(message: str) -> str:
    """Cut a message that may quote somebody's input to what a record or a header can hold."""
    return message if len(message) <= _LONGEST_FAULT else message[:_LONGEST_FAULT] + " …"


class Fault(Exception):
    """A request that can't be served: what an `error` event, or an HTTP error, tells its client."""

    def __init__(self, code: Code, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = shortened(message)
        self.retry_after_ms = retry_after_ms


class QueueOnly(Fault):
    """A request for a workflow that came on another route."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(Code.INVALID, f"{model} is a workflow: it runs through the queue (route `queue`, or `auto`)")


class InvalidFrame(Exception):
    """A frame that is no message of the protocol; `id` is that of the `infer` that it wants to be."""

    def __init__(self, message: str, request_id: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.id = request_id


class Infer(msgspec.Struct, tag="infer", tag_field="type", forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """Ask a model. Exactly one of `inputs` (V2 tensors) and `data` (shorthand for a model with one input) is there."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")]
    inputs: Raw = _ABSENT
    data: Raw = _ABSENT
    parameters: Raw = _ABSENT
    route: RouteName = "auto"
    deadline_ms: Annotated[int, Meta(gt=0, le=86_400_000)] | None = None
    delay_ms: Annotated[int, Meta(gt=0, le=31_536_000_000)] | None = None
    on_disconnect: Literal["detach", "cancel"] = "detach"
    retry: bool = False
    stream: bool = False
    seen: Annotated[int, Meta(ge=-1)] = -1
    traceparent: Annotated[str, Meta(max_length=128)] = ""


class InferRow(
    msgspec.Struct, tag="infer", tag_field="type", forbid_unknown_fields=True, omit_defaults=True, frozen=True
):
    """An `infer` whose `data` is one list of numbers: what there is most of, read at once."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: str
    data: list[int | float]
    parameters: Raw = _ABSENT
    route: RouteName = "auto"
    deadline_ms: Annotated[int, Meta(gt=0, le=86_400_000)] | None = None
    on_disconnect: Literal["detach", "cancel"] = "detach"
    retry: bool = False
    traceparent: Annotated[str, Meta(max_length=128)] = ""

    @property
    def plain(self) -> bool:
        """Whether a PlainRow says the same."""
        asks = self.parameters or self.deadline_ms is not None or self.retry or self.traceparent
        return not asks and self.route != "queue" and self.on_disconnect == "detach"


class PlainRow(msgspec.Struct, tag="infer", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """An `infer` of one list of numbers that asks for nothing else, and not for the queue."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: str
    data: list[int | float]
    route: Literal["auto", "direct"] = "auto"


class Cancel(msgspec.Struct, tag="cancel", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """The client no longer wants the answer to `id`."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]


class Signal(msgspec.Struct, tag="signal", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """A message to the workflow that request `id` has begun: what its stage with `wait_for: name` waits for."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,128}\Z")]
    data: Raw = Raw(b"null")


class Refresh(msgspec.Struct, tag="refresh", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """A newer token for the connection."""

    token: str


class Subscribe(msgspec.Struct, tag="subscribe", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """Subscribe to a channel, from a position or from now on; `subscribed`, or an `error` with the channel, has the same id."""

    channel: Annotated[str, Meta(min_length=1, max_length=256)]
    position: Annotated[str, Meta(max_length=256)] | None = None
    id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class Unsubscribe(msgspec.Struct, tag="unsubscribe", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """End a subscription to a channel."""

    channel: Annotated[str, Meta(min_length=1, max_length=256)]


class Publish(msgspec.Struct, tag="publish", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """Publish to a channel; `published`, or an `error` with the channel, has the same id."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    channel: Annotated[str, Meta(min_length=1, max_length=256)]
    data: Raw


class AskPresence(msgspec.Struct, tag="presence", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """Ask which sessions of a subject are connected; `watch`: whether to hear of changes from now on, None: as before."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    subject: Annotated[str, Meta(min_length=1, max_length=1024)]
    watch: bool | None = None


ChannelMessage = Subscribe | Unsubscribe | Publish
ClientMessage = Infer | Cancel | Signal | Refresh | ChannelMessage | AskPresence

_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_row_decoder = msgspec.json.Decoder(InferRow)
_infer_decoder = msgspec.json.Decoder(Infer)
decode_plain_row = msgspec.json.Decoder(PlainRow).decode
"""Decodes a text frame to a PlainRow. Raises msgspec.DecodeError, or RecursionError, if it is anything else."""
_encoder = msgspec.json.Encoder()


class _Envelope(msgspec.Struct):
    id: Any = None
    type: Any = None


def decode(frame: str | bytes) -> ClientMessage:
    """Decode a client frame. Raises InvalidFrame, with the request's id if it can be found."""
    message = _read(_decoder, frame, needs_type=True)
    if isinstance(message, Infer):
        _check(message)
    return message


def decode_row(frame: str | bytes, models: Container[str]) -> InferRow | None:
    """Decode a client frame that is an `infer` of one list of numbers, for one of these models; return None for any other
    frame.
    """
    try:
        message = _row_decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if message.model not in models or message.parameters or (isinstance(frame, bytes) and not is_utf8(frame)):
        return None
    return message


def decode_infer(body: bytes) -> Infer:
    """Decode the body of POST /v1/infer: an `infer` whose `type` may be left out. Raises InvalidFrame."""
    message = _read(_infer_decoder, body, needs_type=False)
    _check(message)
    return message


def _read(decoder: msgspec.json.Decoder[_Message], frame: str | bytes, *, needs_type: bool) -> _Message:
    try:
        if isinstance(frame, bytes) and not is_utf8(frame):
            raise InvalidFrame("not JSON: it is not UTF-8", None)
        return decoder.decode(frame)
    except msgspec.ValidationError as error:
        raise InvalidFrame(str(error)[:_LONGEST], _id_of(frame, needs_type=needs_type)) from None
    except msgspec.DecodeError as error:
        raise InvalidFrame(f"not JSON: {error}", None) from None
    except RecursionError:
        raise InvalidFrame("not JSON that is read here: it is nested too deep", None) from None


def _check(message: Infer) -> None:
    wrong = validate_request(bytes(message.inputs), bytes(message.data), bytes(message.parameters))
    if wrong is not None:
        raise InvalidFrame(wrong, message.id)


def validate_request(inputs: bytes, data: bytes, parameters: bytes) -> str | None:
    """Return what is wrong with a request's members (JSON, empty if absent); None if nothing is visible from outside."""
    if bool(inputs) == bool(data):
        return "exactly one of `inputs` and `data` is needed"
    if inputs and not inputs.startswith(b"["):
        return "`inputs` must be a list of V2 tensors"
    if parameters and not parameters.startswith(b"{"):
        return "`parameters` must be an object"
    return None


def _id_of(frame: str | bytes, *, needs_type: bool) -> str | None:
    """Return the id for the error to a faulty `infer`. For any other frame it would look like the end of a request."""
    try:
        found = msgspec.json.decode(frame, type=_Envelope)
    except (msgspec.MsgspecError, RecursionError):
        return None
    is_infer = found.type == "infer" if needs_type else found.type in (None, "infer")
    return found.id if is_infer and isinstance(found.id, str) and 0 < len(found.id) <= 128 else None


def event(kind: str, **members: Any) -> bytes:
    """Encode a server event as JSON; members that are None are left out."""
    return _encoder.encode({"type": kind, **{k: v for k, v in members.items() if v is not None}})


def error_event(fault: Fault, request_id: str | None) -> bytes:
    """Build the `error` event for `fault`; without an id it belongs to no open request."""
    return event("error", id=request_id, code=fault.code, message=fault.message, retry_after_ms=fault.retry_after_ms)
