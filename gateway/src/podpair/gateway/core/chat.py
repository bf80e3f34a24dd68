"""OpenAI's chat completions, asked through a session: `data` is the body, and its chunks are assembled into one completion.

Source: OpenAI's API reference, "Chat completions" and "Streaming".
"""

from typing import Any

import msgspec

from podpair.gateway.core.generate import StreamFailed
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest

_MESSAGE = 1000  # characters of what an error says
_DONE = b"[DONE]"
_ONCE = frozenset({"role", "id", "type", "name"})  # texts that are said once, not in pieces
_encode = msgspec.json.Encoder().encode


class _Body(msgspec.Struct):
    messages: list[Any] | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Refused(msgspec.Struct):
    error: _Error | str = ""


_body = msgspec.json.Decoder(_Body)
_object = msgspec.json.Decoder(dict[str, Any])


def is_chat(request: InferenceRequest) -> bool:
    """Return whether `data` is an object with `messages`, which is no tensor of any model."""
    if request.row is not None or not request.data.lstrip().startswith(b"{"):
        return False
    try:
        return _body.decode(request.data).messages is not None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def chat_body(request: InferenceRequest) -> bytes:
    """Build the body of the completion's request. Raises Fault(invalid)."""
    try:
        body = _object.decode(request.data)
        more = _object.decode(request.parameters) if request.parameters else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"data is not a chat completion's request: {error}") from None
    return _encode({**body, **more, "model": request.model, "stream": request.stream})


def reason_of(body: bytes) -> str:
    """Return the message of an error response; empty if its form is unknown."""
    try:
        found = msgspec.json.decode(body, type=_Refused).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return (found if isinstance(found, str) else found.message)[:_MESSAGE]


class CompletionAssembler:
    """Assembles the events of a stream into a completion, as long as it is not larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self.count = 0
        self.complete = False

    def feed(self, event: bytes) -> list[bytes]:
        """Return the data (JSON) of the chunks in an event: a choice's text, or all that is new in it if that is more.

        Raises StreamFailed, or ValueError if it is no chunk of a completion, or one that is nested too deep to be read.
        """
        if event.strip() == _DONE:
            self.complete = True
            return []
        try:
            return self._chunk(event)
        except RecursionError:
            raise ValueError("nested too deep") from None

    def _chunk(self, event: bytes) -> list[bytes]:
        completion_chunk = _object.decode(event)
        if "error" in completion_chunk:
            raise StreamFailed(reason_of(event) or "the model failed")
        choices = completion_chunk.pop("choices", None) or []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise ValueError("`choices` is no list of objects")
        self._size += len(event) if self._size <= self._limit else 0
        if self._size <= self._limit:
            self._head |= {name: value for name, value in completion_chunk.items() if value is not None}
        chunks = [chunk for choice in choices if (chunk := self._take(choice)) is not None]
        self.count += len(chunks)
        return chunks

    def _take(self, choice: dict[str, Any]) -> bytes | None:
        index, delta = choice.get("index", 0), choice.get("delta") or {}
        if not isinstance(index, int) or not isinstance(delta, dict):
            raise ValueError("a choice has no `delta`")
        if self._size <= self._limit:
            kept = self._choices.setdefault(index, {"index": index, "message": {}, "finish_reason": None})
            _merge(kept["message"], delta)
            kept["finish_reason"] = choice.get("finish_reason") or kept["finish_reason"]
        new = {name: value for name, value in delta.items() if name != "role" and value not in (None, "")}
        if not new:
            return None
        if index == 0 and new.keys() == {"content"}:
            return _encode(new["content"])
        return _encode({"index": index, **new} if index else new)

    def result(self) -> bytes | None:
        """Return the completion as one response; None if it is too large to be kept, or nested too deep."""
        if self._size > self._limit:
            return None
        choices = [self._choices[index] for index in sorted(self._choices)]
        try:
            return _encode({**self._head, "object": "chat.completion", "choices": _joined(choices)})
        except RecursionError:
            return None


class _Text(list[str]):
    """A text that comes in pieces."""


class _Items(dict[Any, dict[str, Any]]):
    """A list whose items come in pieces, by their `index`."""


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in new.items():
        old = into.get(name)
        if isinstance(value, str) and name not in _ONCE:
            if isinstance(old, _Text):
                old.append(value)
            else:
                into[name] = _Text([value])
        elif isinstance(value, dict):
            inner = into[name] = old if isinstance(old, dict) else {}
            _merge(inner, value)
        elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
            items = into[name] = old if isinstance(old, _Items) else _Items()
            for position, item in enumerate(value):
                _merge(items.setdefault(item.get("index", position), {}), item)
        elif old is None:
            into[name] = value


def _joined(value: Any) -> Any:
    """Join the pieces of texts, and turn what was kept by index into lists."""
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, list):
        return [_joined(item) for item in value]
    if isinstance(value, _Items):
        return [_joined(item) for item in value.values()]
    if isinstance(value, dict):
        return {name: _joined(item) for name, item in value.items()}
    return value


def completion_members(request: InferenceRequest, data: bytes | None, chunks: int | None) -> bytes:
    """Encode the members of a chat's `result`."""
    return b'%b"model":%b,"model_version":null,%b"timing":{}' % (
        b"" if data is None else b'"data":%b,' % data, _encode(request.model),
        b"" if chunks is None else b'"parts":%d,' % chunks,
    )  # fmt: skip
