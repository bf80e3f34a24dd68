"""The typed events of a response, made of the chunks of a chat completion.

Invariant: every event has `type` and `sequence_number`, rising from 0 without a gap; each item and part is added before its
deltas and done after them; one terminal event ends it, and its response has the whole output. Source: OpenAI's API reference,
"Responses streaming"; what its clients insist on was seen with them (docs/openai.md).
"""

import copy
import secrets
from typing import Any

import msgspec

from podpair.gateway.core.model_errors import Failed

_Event = dict[str, Any]
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
TERMINAL = ("response.completed", "response.incomplete", "response.failed")
"""The types of events that end a stream."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    """What is read of a chunk."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class ResponseEvents:
    """Makes the events of one response. response: its object, with no output yet."""

    def __init__(self, response: dict[str, Any]) -> None:
        self._response = response
        self._output: list[dict[str, Any]] = response["output"]
        self._number = 0
        self._message: int | None = None  # the index of the message that is open
        self._calls: dict[int, int] = {}  # the index of each call's item, by the chunk's index
        self._reason: str | None = None
        self.ended = False

    def start(self) -> list[_Event]:
        """Return the first events."""
        return [self._of_response("response.created"), self._of_response("response.in_progress")]

    def add(self, chunk: dict[str, Any]) -> list[_Event]:
        """Take a chunk of the completion; return the events that it makes. Only the first choice counts. Raises Failed."""
        try:
            msgspec.convert(chunk, _Chunk)
        except msgspec.ValidationError as error:
            raise Failed(f"an event of the model's server is no chunk of a completion: {error}") from None
        if isinstance(usage := chunk.get("usage"), dict):
            self._response["usage"] = _usage(usage)
        events: list[_Event] = []
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            delta = choice.get("delta") or {}
            if isinstance(text := delta.get("content"), str) and text:
                events += self._text(text)
            for position, call in enumerate(delta.get("tool_calls") or ()):
                events += self._call(call.get("index", position), call)
            self._reason = choice.get("finish_reason") or self._reason
        return events

    @property
    def complete(self) -> bool:
        """Whether the model has said why it ended."""
        return self._reason is not None

    def finish(self) -> list[_Event]:
        """Return the events that close what is open, and the terminal one."""
        why = _INCOMPLETE.get(self._reason or "")
        status = "incomplete" if why else "completed"
        events = self._close(status)
        self._response["status"] = status
        if why:
            self._response["incomplete_details"] = {"reason": why}
        self.ended = True
        return [*events, self._of_response(f"response.{status}")]

    def fail(self, message: str, code: str = "server_error") -> list[_Event]:
        """Return the terminal event of a response that fails."""
        self._mark_open("incomplete")
        self._response |= {"status": "failed", "error": {"code": code, "message": message}}
        self.ended = True
        return [self._of_response("response.failed")]

    def _event(self, kind: str, **members: Any) -> _Event:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **members}

    def _of_response(self, kind: str) -> _Event:
        return self._event(kind, response=copy.deepcopy(self._response))

    def _text(self, text: str) -> list[_Event]:
        events = []
        if self._message is None:
            item = {
                "id": f"msg_{secrets.token_hex(12)}",
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
            }
            item["content"] = []  # type: ignore[assignment]
            self._message = len(self._output)
            self._output.append(item)
            at = {"output_index": self._message, "item_id": item["id"], "content_index": 0}
            part = {"type": "output_text", "text": "", "annotations": []}
            events = [
                self._event("response.output_item.added", output_index=self._message, item=copy.deepcopy(item)),
                self._event("response.content_part.added", **at, part=part.copy()),
            ]
            item["content"].append(part)  # type: ignore[attr-defined]
        item = self._output[self._message]
        item["content"][0]["text"] += text  # type: ignore[index]
        at = {"output_index": self._message, "item_id": item["id"], "content_index": 0}
        return [*events, self._event("response.output_text.delta", **at, delta=text, logprobs=[])]

    def _call(self, index: int, call: dict[str, Any]) -> list[_Event]:
        function = call.get("function") or {}
        events = []
        if index not in self._calls:
            events = self._close_message("completed")
            item = {
                "id": f"fc_{secrets.token_hex(12)}", "type": "function_call", "status": "in_progress",
                "call_id": call.get("id") or f"call_{secrets.token_hex(12)}", "name": function.get("name") or "",
                "arguments": "",
            }  # fmt: skip
            self._calls[index] = len(self._output)
            events.append(self._event("response.output_item.added", output_index=len(self._output), item=item.copy()))
            self._output.append(item)
        at = self._calls[index]
        item = self._output[at]
        if arguments := function.get("arguments"):
            item["arguments"] += arguments
            kind = "response.function_call_arguments.delta"
            events.append(self._event(kind, output_index=at, item_id=item["id"], delta=arguments))
        return events

    def _close(self, status: str) -> list[_Event]:
        events = self._close_message(status)
        for at in self._calls.values():
            item = self._output[at]
            item["status"] = "completed"
            kind = "response.function_call_arguments.done"
            about = {"output_index": at, "item_id": item["id"], "name": item["name"]}
            events.append(self._event(kind, **about, arguments=item["arguments"]))
            events.append(self._event("response.output_item.done", output_index=at, item=item.copy()))
        return events

    def _close_message(self, status: str) -> list[_Event]:
        at = self._message
        if at is None:
            return []
        self._message = None
        item = self._output[at]
        item["status"] = status
        place = {"output_index": at, "item_id": item["id"], "content_index": 0}
        part = item["content"][0]
        return [
            self._event("response.output_text.done", **place, text=part["text"], logprobs=[]),
            self._event("response.content_part.done", **place, part=copy.deepcopy(part)),
            self._event("response.output_item.done", output_index=at, item=copy.deepcopy(item)),
        ]

    def _mark_open(self, status: str) -> None:
        for item in self._output:
            if item["status"] == "in_progress":
                item["status"] = status


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": read, "input_tokens_details": {"cached_tokens": cached}, "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoning}, "total_tokens": usage.get("total_tokens") or read + written,
    }  # fmt: skip
