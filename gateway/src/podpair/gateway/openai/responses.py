"""Responses: made of chat completions, logged as streams, and given from the log by any gateway."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from podpair.gateway.openai.chat_source import ChatSource
from podpair.gateway.openai.core.errors import ApiError, invalid
from podpair.gateway.openai.core.response_bodies import (
    ResponseRequest,
    chat_body,
    chat_messages,
    input_items,
    read_response_request,
    response_object,
)
from podpair.gateway.openai.core.response_events import ResponseEvents
from podpair.gateway.openai.core.response_state import response_of
from podpair.gateway.openai.core.stream_ids import StreamId, new_name
from podpair.gateway.openai.core.stream_records import StreamState
from podpair.gateway.openai.guard import CALL_ERRORS, Caller, Guard, converted
from podpair.gateway.openai.response_stream import json_response, send_events, send_stream
from podpair.gateway.openai.stream_runner import Made, Maker, Plan, StreamRunner

KIND = "resp"
_CUT = "the model's server ended the stream before it was complete"
_encode = msgspec.json.Encoder().encode


class Responses:
    """Creates responses; those that are stored are logged streams."""

    def __init__(self, guard: Guard, source: ChatSource, runner: StreamRunner) -> None:
        self._guard = guard
        self._source = source
        self.runner = runner

    async def load(self, caller: Caller, response_id: str) -> tuple[StreamId, StreamState] | None:
        """Return a response of this caller; None if there is none, or it is another's."""
        return await self.runner.load(caller, response_id, KIND)

    async def create(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Create a response."""
        asked = read_response_request(await request.read())
        items = input_items(asked)
        messages = await self._history(caller, asked.previous_response_id) + chat_messages(items)
        run = _Run(asked, items, messages)
        if asked.store is False:
            return await self._unstored(request, caller, run)
        plan = Plan(KIND, asked.model, run.about(), partial(self._open, request, caller, run))
        stream = await self.runner.start(caller, plan)
        if asked.background and not asked.stream:
            return json_response(run.response(str(stream)) | {"status": "queued"})
        return await self._answer(request, caller, asked, stream)

    async def _answer(
        self, request: web.Request, caller: Caller, asked: ResponseRequest, stream: StreamId
    ) -> web.StreamResponse:
        log = self.runner.log(caller)
        if asked.stream:
            return await send_stream(request, log, stream, 0)
        try:
            async with aclosing(log.follow(stream)) as states:  # type: ignore[type-var]
                async for state in states:
                    if state.ending is not None:
                        return json_response(response_of(state, str(stream)))
        except asyncio.CancelledError:
            # Nobody knows its id.
            self.runner.cancel(caller, stream)
            raise
        raise ApiError(500, "the response can't be read any more")

    async def _history(self, caller: Caller, previous: str | None) -> list[dict[str, Any]]:
        """Return the messages up to and including the answer of the response that this one goes on from. Raises ApiError."""
        if previous is None:
            return []
        found = await self.load(caller, previous)
        if found is None:
            message = f"Previous response with id {previous[:100]!r} not found."
            raise invalid(message, "previous_response_id", code="previous_response_not_found")
        stream, state = found
        if state.ending is None:
            raise invalid("the previous response has not ended yet", "previous_response_id")
        assert state.begin is not None  # noqa: S101 - `load` has seen to that
        output = [item for item in response_of(state, str(stream))["output"] if item.get("status") != "in_progress"]
        messages: list[dict[str, Any]] = state.begin.about["messages"]
        return messages + chat_messages(output)

    async def _unstored(self, request: web.Request, caller: Caller, run: "_Run") -> web.StreamResponse:
        """Answer with a response that nobody can ask for again: nothing of it is logged."""
        response_id = str(StreamId(KIND, 0, 0, new_name()))
        maker = ResponseEvents(run.response(response_id))
        async with self._guard.admitted(caller, run.asked.model):
            first, chunks = await self._begin(request, caller, run)
            async with aclosing(chunks):  # type: ignore[type-var]
                events = _events(maker, first, chunks)
                if run.asked.stream:
                    return await send_events(request, events)
                last: dict[str, Any] = {}
                async for more in events:
                    last = more[-1]
        return json_response(last["response"])

    async def _begin(
        self, request: web.Request, caller: Caller, run: "_Run"
    ) -> tuple[dict[str, Any] | None, AsyncIterator[dict[str, Any]]]:
        """Ask the model, and wait for its first chunk: an error before it is the response's own status."""
        chunks = self._chunks(request, caller, run)
        return await anext(chunks, None), chunks

    def _chunks(self, request: web.Request, caller: Caller, run: "_Run") -> AsyncIterator[dict[str, Any]]:
        return self._source.chunks(request, caller, run.asked.model, chat_body(run.asked, run.messages))

    async def _open(self, request: web.Request, caller: Caller, run: "_Run") -> Maker:
        first: dict[str, Any] | None = None
        if run.asked.background:  # its id does not wait for the model
            chunks = self._chunks(request, caller, run)
        else:
            first, chunks = await self._begin(request, caller, run)

        async def made(stream: StreamId) -> AsyncIterator[Made]:
            maker = ResponseEvents(run.response(str(stream)))
            async with aclosing(chunks):  # type: ignore[type-var]
                async for events in _events(maker, first, chunks):
                    yield Made([_encode(event) for event in events], maker.ended)

        return made


class _Run:
    """What is asked, and what becomes of it."""

    def __init__(self, asked: ResponseRequest, items: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
        self.asked = asked
        self.messages = messages
        self._items = items
        self._created_at = int(time.time())

    def response(self, response_id: str) -> dict[str, Any]:
        """Return the response object before it has any output."""
        return response_object(self.asked, response_id, self._created_at)

    def about(self) -> dict[str, Any]:
        """Return what the log keeps of it besides its events."""
        response = self.response("")
        del response["id"]
        if self.asked.background:
            response["status"] = "queued"
        return {"response": response, "items": self._items, "messages": self.messages}


async def _events(
    maker: ResponseEvents, first: dict[str, Any] | None, chunks: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the events of a response, those of a chunk at a time, to its terminal one."""
    yield maker.start()
    try:
        if first is not None and (events := maker.add(first)):
            yield events
        async for chunk in chunks:
            if events := maker.add(chunk):
                yield events
        end = maker.finish() if maker.complete else maker.fail(_CUT)
    except CALL_ERRORS as error:
        found = converted(error)
        end = maker.fail(found.message, "rate_limit_exceeded" if found.status == 429 else "server_error")
    yield end
