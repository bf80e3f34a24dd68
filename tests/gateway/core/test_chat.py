"""A chat completion that comes in parts is, in the end, what it would have been at once."""

import json
from typing import Any

import pytest

from podpair.gateway.core.chat import CompletionAssembler, is_chat
from podpair.gateway.core.generate import StreamFailed
from podpair.gateway.core.models import model_of
from podpair.gateway.core.records import is_json
from podpair.gateway.core.request import InferenceRequest


def chunk(*choices: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": list(choices), **members}).encode()


def delta(index: int = 0, finish: str | None = None, **members: Any) -> dict[str, Any]:
    return {"index": index, "delta": members, "finish_reason": finish}


def fed(*events: bytes, limit: int = 10_000) -> tuple[list[Any], Any]:
    completion = CompletionAssembler(limit)
    parts = [json.loads(part) for event in events for part in completion.feed(event)]
    assert completion.count == len(parts)
    whole = completion.result()
    return parts, None if whole is None else json.loads(whole)


def test_tools_are_put_together_by_index() -> None:
    def call(index: int, **members: Any) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, **members}])

    parts, whole = fed(
        chunk(delta(role="assistant", content=None)),
        chunk(call(0, id="a", type="function", function={"name": "f", "arguments": ""})),
        chunk(call(0, function={"arguments": '{"x":'})),
        chunk(call(1, id="b", type="function", function={"name": "g", "arguments": "{}"})),
        chunk(call(0, function={"arguments": "1}"})),
        chunk(delta(finish="tool_calls")),
        b"[DONE]",
    )
    assert len(parts) == 4
    assert parts[1] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]}
    calls = whole["choices"][0]["message"]["tool_calls"]
    assert [(c["id"], c["function"]) for c in calls] == [
        ("a", {"name": "f", "arguments": '{"x":1}'}), ("b", {"name": "g", "arguments": "{}"}),
    ]  # fmt: skip
    assert whole["choices"][0]["finish_reason"] == "tool_calls"


def test_choices_are_kept_apart() -> None:
    parts, whole = fed(
        chunk(delta(content="a"), delta(1, content="b")), chunk(delta(1, content="c"), delta(content="d"))
    )
    assert parts == ["a", {"index": 1, "content": "b"}, {"index": 1, "content": "c"}, "d"]
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["ad", "bc"]


def test_what_is_too_large_is_not_kept() -> None:
    parts, whole = fed(*[chunk(delta(content="x" * 100))] * 5, limit=300)
    assert len(parts) == 5
    assert whole is None


@pytest.mark.parametrize(
    "event", [b"", b"[]", b"{", b'{"choices":5}', b'{"choices":[5]}', b'{"choices":[{"delta":5}]}']
)
def test_what_is_no_chunk(event: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's DecodeError is one
        CompletionAssembler(1000).feed(event)


def test_an_error_in_the_stream() -> None:
    with pytest.raises(StreamFailed, match="no memory"):
        CompletionAssembler(1000).feed(b'{"error": {"message": "no memory"}}')


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"messages":[]}', True), (b' {"messages":[{}],"n":1}', True), (b'{"messages":1}', False),
        (b"{}", False), (b"{", False), (b'"messages"', False), (b"[1]", False),
    ],
)  # fmt: skip
def test_what_is_a_chat(data: bytes, expected: bool) -> None:
    assert is_chat(InferenceRequest("r", "m", data=data)) is expected


@pytest.mark.parametrize("depth", [100, 600, 1_500, 10_000])
def test_whatever_the_depth_a_chunk_is_read_or_is_no_chunk(depth: int) -> None:
    completion = CompletionAssembler(1 << 20)
    chunk = b'{"choices":[{"index":0,"delta":{"x":%b1%b}}]}' % (b'{"a":' * depth, b"}" * depth)
    try:
        parts = completion.feed(chunk)
    except ValueError:
        assert depth > 100
    else:
        assert all(map(is_json, parts))
    whole = completion.result()
    assert is_json(whole) if whole is not None else depth > 100


def test_a_model_whose_description_is_nested_too_deep_has_none() -> None:
    deep = b'{"inputs":[],"outputs":[],"x":%b%b}' % (b"[" * 10_000, b"]" * 10_000)
    with pytest.raises(ValueError, match="nested too deep"):
        model_of("m", deep, None)
    assert model_of("m", b'{"inputs":[],"outputs":[]}', deep).max_rows is None
