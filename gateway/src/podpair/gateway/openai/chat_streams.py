"""Chat completions whose stream goes on after a break, for clients that ask for it.

They ask by the header `podpair-resumable: true`, or the query `resumable=true`.

Each event has an id, its number; the response header `podpair-stream` names the stream. Only who asks gets ids: some clients take
an event without data, which heartbeats may be once ids are there, for an error.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from podpair.gateway.http.routes import Routes
from podpair.gateway.openai.chat_source import ChatSource
from podpair.gateway.openai.core.completions import DONE, event
from podpair.gateway.openai.core.errors import ApiError
from podpair.gateway.openai.core.stream_ids import StreamId
from podpair.gateway.openai.core.stream_records import Note, StreamState
from podpair.gateway.openai.guard import CALL_ERRORS, Caller, Guard, converted
from podpair.gateway.openai.response_stream import StreamForm, first_wanted, follow_stream, json_response
from podpair.gateway.openai.stream_runner import Made, Maker, Plan, StreamRunner

_KIND = "chat"
_CUT = "the model's server ended the stream before it was complete"
_encode = msgspec.json.Encoder().encode


def is_resumable(request: web.Request) -> bool:
    """Return whether a client asks for a stream that can be resumed."""
    asked = request.headers.get("podpair-resumable") or request.query.get("resumable") or ""
    return asked.lower() in ("true", "1")


def add_chat_streams(routes: Routes, guard: Guard, streams: "ChatStreams") -> None:
    """Add the routes of chat streams that exist."""
    routes.get("/v1/chat/completions/{id}", guard.route("chat/completions/get", streams.resume), head=False)
    routes.delete("/v1/chat/completions/{id}", guard.route("chat/completions/delete", streams.delete))


class ChatStreams:
    """Starts streams, and goes on with them."""

    def __init__(self, source: ChatSource, runner: StreamRunner) -> None:
        self._source = source
        self._runner = runner

    async def create(self, request: web.Request, caller: Caller, model: str, body: bytes) -> web.StreamResponse:
        """Answer a chat completion with a stream that goes on when the client leaves."""
        plan = Plan(_KIND, model, {}, partial(self._open, request, caller, model, body))
        stream = await self._runner.start(caller, plan)
        return await follow_stream(request, self._runner.log(caller), stream, 0, _form(stream))

    async def _open(self, request: web.Request, caller: Caller, model: str, body: bytes) -> Maker:
        chunks = self._source.chunks(request, caller, model, body)
        first = await anext(chunks, None)

        async def made(_: StreamId) -> AsyncIterator[Made]:
            async with aclosing(chunks):  # type: ignore[type-var]
                complete = _ends(first)
                try:
                    if first is not None:
                        yield Made([_encode(first)])
                    async for chunk in chunks:
                        complete = complete or _ends(chunk)
                        yield Made([_encode(chunk)])
                    error = None if complete else ApiError(502, _CUT)
                except CALL_ERRORS as failure:
                    error = converted(failure)
                yield Made([] if error is None else [_encode({"error": error.members})], last=True)

        return made

    async def resume(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Go on behind the event that `Last-Event-ID` or `starting_after` names; without either, from the start."""
        stream, state = await self._load(request, caller)
        after = request.query.get("starting_after") or request.headers.get("Last-Event-ID")
        start = first_wanted(after, len(state.events))
        return await follow_stream(request, self._runner.log(caller), stream, start, _form(stream))

    async def delete(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """End a stream, if it still runs, and forget it."""
        stream, _ = await self._load(request, caller)
        await self._runner.log(caller).append(stream, Note("deleted"))
        return json_response({"id": str(stream), "object": "chat.completion.deleted", "deleted": True})

    async def _load(self, request: web.Request, caller: Caller) -> tuple[StreamId, StreamState]:
        name = request.match_info["id"]
        found = await self._runner.load(caller, name, _KIND)
        if found is None:
            raise ApiError(404, f"Chat stream {name[:100]!r} not found.")
        return found


def _ends(chunk: dict[str, Any] | None) -> bool:
    choices = (chunk or {}).get("choices")
    found = choices if isinstance(choices, list) else []
    return any(isinstance(choice, dict) and choice.get("finish_reason") is not None for choice in found)


def _form(stream: StreamId) -> StreamForm:
    return StreamForm(lambda at, data: b"id: %d\ndata: %b\n\n" % (at, data), _end, {"podpair-stream": str(stream)})


def _end(state: StreamState) -> bytes:
    """Encode what follows the last event."""
    if state.ending is None or state.ending.how == "whole":
        failed = bool(state.events) and bytes(state.events[-1]).startswith(b'{"error":')
        return b"" if failed else DONE
    message = state.ending.message or (
        "the stream was deleted" if state.deleted else "the gateway that generated it is gone"
    )
    return event({"error": ApiError(500, message).members})
