"""Answers of a model that is called by V2, as OpenAI's completions.

A part of its stream is a text, or, where the model has these outputs, an object: `content` (text), `finish_reason` (empty until
the last part), `prompt_tokens` and `completion_tokens` (so far).
"""

import base64
import secrets
import struct
from typing import Any, Literal

import msgspec

from podpair.gateway.core.model_errors import Failed
from podpair.gateway.openai.core.bodies import Options

_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"
_Reason = Literal["", "stop", "length", "content_filter", "tool_calls"]


class _Part(msgspec.Struct):
    content: str = ""
    finish_reason: _Reason = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


_part = msgspec.json.Decoder(str | _Part)


def event(document: object) -> bytes:
    """Encode one server-sent event."""
    return b"data: %b\n\n" % _encode(document)


def events(documents: list[dict[str, Any]]) -> bytes:
    """Encode server-sent events."""
    return b"".join(map(event, documents))


class Completion:
    """Turns the parts of one answer into a completion, whole or in chunks. chat: of chat completions. created: Unix seconds."""

    def __init__(self, options: Options, *, chat: bool, created: int) -> None:
        self._chat = chat
        kind = "chat.completion" if chat else "text_completion"
        self._head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}", "created": created}
        self._head["model"] = options.model
        self._whole, self._chunk = {**self._head, "object": kind}, {**self._head, "object": kind}
        if chat:
            self._chunk["object"] = "chat.completion.chunk"
        self._usage_wanted = options.stream_options is not None and bool(options.stream_options.include_usage)
        self._texts: list[str] = []
        self._reason: str = "stop"
        self._usage: dict[str, int] | None = None

    def add(self, data: bytes) -> str:
        """Take the next part of the model's stream; return its text. Raises Failed if it is none."""
        try:
            part: str | _Part = _part.decode(data)
        except (msgspec.DecodeError, RecursionError):
            raise Failed("a part of its stream is neither text nor an object with `content`") from None
        if isinstance(part, str):
            part = _Part(part)
        self._reason = part.finish_reason or self._reason
        if part.prompt_tokens is not None and part.completion_tokens is not None:
            self._usage = {
                "prompt_tokens": part.prompt_tokens, "completion_tokens": part.completion_tokens,
                "total_tokens": part.prompt_tokens + part.completion_tokens,
            }  # fmt: skip
        self._texts.append(part.content)
        return part.content

    def first(self) -> list[dict[str, Any]]:
        """Return the chunks before the first text."""
        return [self._choice({"role": "assistant", "content": ""})] if self._chat else []

    def chunk(self, text: str) -> list[dict[str, Any]]:
        """Return the chunks of a text."""
        return [self._choice({"content": text})] if text else []

    def last(self) -> list[dict[str, Any]]:
        """Return the chunks that end the completion: the reason, and the usage if it is known and wanted."""
        end = [self._choice({}, self._reason)]
        if self._usage_wanted and self._usage is not None:
            end.append({**self._chunk, "choices": [], "usage": self._usage})
        return end

    def whole(self) -> bytes:
        """Encode the completion as one response."""
        text = "".join(self._texts)
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        document: dict[str, Any] = {**self._whole, "choices": [{"index": 0, **said, "finish_reason": self._reason}]}
        if not self._chat:
            document["choices"][0]["logprobs"] = None
        return _encode(document | ({"usage": self._usage} if self._usage is not None else {}))

    def _choice(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        new = {"delta": delta} if self._chat else {"text": delta.get("content", ""), "logprobs": None}
        return {**self._chunk, "choices": [{"index": 0, **new, "finish_reason": reason}]}


class _Rows(msgspec.Struct):
    data: Any


def texts_of(options: Options) -> list[str]:
    """Return the texts whose embeddings are wanted."""
    return [options.input] if isinstance(options.input, str) else options.input or []


def embeddings(options: Options, result: bytes) -> bytes:
    """Encode the response with the vectors in a V2 result of `data`. Raises Failed if they are no vectors, one for each text."""
    count = len(texts_of(options))
    rows = msgspec.json.decode(result, type=_Rows).data
    if isinstance(rows, dict) and len(rows) == 1:
        (rows,) = rows.values()
    try:
        vectors = msgspec.convert([rows] if count == 1 else rows, list[list[float]])
    except msgspec.ValidationError:
        raise Failed("its answer is no vector for each text") from None
    if len(vectors) != count:
        raise Failed(f"its answer has {len(vectors)} vectors for {count} texts")
    packed = options.encoding_format == "base64"
    found = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if packed else vector}
        for index, vector in enumerate(vectors)
    ]
    return _encode({"object": "list", "data": found, "model": options.model})


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
