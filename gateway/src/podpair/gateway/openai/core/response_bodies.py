"""Bodies of POST /v1/responses, and the chat completion that each is made of.

Source: OpenAI's API reference, "Responses" and "Chat completions".
"""

import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from podpair.gateway.openai.core.bodies import decode_body
from podpair.gateway.openai.core.errors import invalid

_Items = list[dict[str, Any]]


class ResponseRequest(msgspec.Struct):
    """What is read of a body; other members are ignored unless `_UNSUPPORTED` has them."""

    model: Annotated[str, Meta(min_length=1, max_length=512)]
    input: str | _Items | None = None
    instructions: str | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    tools: _Items | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    conversation: Any = None
    prompt: Any = None


_request = msgspec.json.Decoder(ResponseRequest)
_ROLES = {"developer": "system"}
_PARTS = ("input_text", "output_text", "text")


def read_response_request(body: bytes) -> ResponseRequest:
    """Read a body. Raises ApiError."""
    found: ResponseRequest = decode_body(_request, body)
    if found.input is None or found.input == []:
        raise invalid("missing required parameter: 'input'", "input", code="missing_required_parameter")
    if found.background and found.store is False:
        raise invalid("a response in the background has to be stored: leave 'store' out", "store")
    for name in ("conversation", "prompt"):
        if getattr(found, name) is not None:
            raise invalid(f"{name!r} is not supported", name, code="unsupported_parameter")
    for index, tool in enumerate(found.tools or ()):
        if tool.get("type") != "function":
            param = f"tools[{index}].type"
            raise invalid(f"{param} is {tool.get('type')!r}: only functions are supported", param)
    return found


def input_items(request: ResponseRequest) -> _Items:
    """Return the input as items, each with an id."""
    given = request.input
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given or []
    found = []
    for item in items:
        kind = item.get("type") or "message"
        whole = {"id": f"{'msg' if kind == 'message' else 'item'}_{secrets.token_hex(12)}", **item, "type": kind}
        if kind == "message" and isinstance(whole.get("content"), str):
            part = "output_text" if whole.get("role") == "assistant" else "input_text"
            whole["content"] = [{"type": part, "text": whole["content"]}]
            whole.setdefault("status", "completed")
        found.append(whole)
    return found


def chat_messages(items: _Items) -> _Items:
    """Return the messages of a chat that items stand for. Raises ApiError."""
    messages: _Items = []
    for index, item in enumerate(items):
        match item.get("type"):
            case "message":
                role = item.get("role")
                if role not in ("user", "assistant", "system", "developer"):
                    raise invalid(f"role {role!r} is not supported", f"input[{index}].role")
                content = _content(item.get("content"), f"input[{index}].content")
                messages.append({"role": _ROLES.get(str(role), role), "content": content})
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                last = messages[-1] if messages else {}
                if last.get("tool_calls"):
                    last["tool_calls"].append(call)
                else:
                    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            case "function_call_output":
                output = item.get("output")
                text = output if isinstance(output, str) else _content(output, f"input[{index}].output")
                messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
            case "reasoning":
                continue  # no server of chat completions takes it
            case kind:
                raise invalid(f"items of type {kind!r} are not supported", f"input[{index}].type")
    return messages


def _content(content: Any, param: str) -> Any:
    """Return a message's content: one text where all of it is text, else the parts of a chat's."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise invalid("content is a text, or a list of parts", param)
    if all(part.get("type") in _PARTS and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    parts = []
    for index, part in enumerate(content):
        if part.get("type") in _PARTS:
            parts.append({"type": "text", "text": part.get("text")})
        elif part.get("type") == "input_image" and part.get("image_url"):
            image = {"url": part["image_url"], "detail": part.get("detail") or "auto"}
            parts.append({"type": "image_url", "image_url": image})
        else:
            raise invalid(f"parts of type {part.get('type')!r} are not supported", f"{param}[{index}].type")
    return parts


def chat_body(request: ResponseRequest, messages: _Items) -> bytes:
    """Encode the body of the chat completion."""
    if request.instructions:
        messages = [{"role": "system", "content": request.instructions}, *messages]
    body: dict[str, Any] = {"model": request.model, "messages": messages, "stream": True}
    body["stream_options"] = {"include_usage": True}
    optional = {
        "max_completion_tokens": request.max_output_tokens, "temperature": request.temperature, "top_p": request.top_p,
        "parallel_tool_calls": request.parallel_tool_calls, "user": request.user,
        "reasoning_effort": (request.reasoning or {}).get("effort"),
    }  # fmt: skip
    if request.tools:
        optional["tools"] = [_chat_tool(tool) for tool in request.tools]
        choice = request.tool_choice
        if isinstance(choice, dict) and choice.get("type") == "function":
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        optional["tool_choice"] = choice
    form = (request.text or {}).get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {name: form[name] for name in ("name", "schema", "strict", "description") if name in form}
        optional["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif isinstance(form, dict) and form.get("type") == "json_object":
        optional["response_format"] = form
    return msgspec.json.encode(body | {name: value for name, value in optional.items() if value is not None})


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def response_object(request: ResponseRequest, response_id: str, created_at: int) -> dict[str, Any]:
    """Return the response object before it has any output."""
    return {
        "id": response_id, "object": "response", "created_at": created_at, "status": "in_progress",
        "background": bool(request.background), "error": None, "incomplete_details": None,
        "instructions": request.instructions, "max_output_tokens": request.max_output_tokens, "model": request.model,
        "output": [], "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id, "reasoning": request.reasoning or {"effort": None},
        "store": request.store is not False, "temperature": request.temperature,
        "text": request.text or {"format": {"type": "text"}}, "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [], "top_p": request.top_p, "truncation": "disabled", "usage": None,
        "user": request.user, "metadata": request.metadata or {},
    }  # fmt: skip
