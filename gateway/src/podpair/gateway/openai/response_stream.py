"""Events of responses as server-sent events, live or from the log.

A heartbeat is a comment line without a blank line behind it: a blank one would be an event without data to some clients.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from podpair.gateway.openai.core.errors import ApiError, invalid, request_id
from podpair.gateway.openai.core.response_state import outside_event
from podpair.gateway.openai.core.stream_ids import StreamId
from podpair.gateway.openai.core.stream_records import StreamState
from podpair.gateway.openai.guard import start_stream
from podpair.gateway.openai.stream_log import StreamLog
from podpair.gateway.openai.v2_models import SSE_HEADERS

_HEARTBEAT = b": hb\n"
_HEARTBEAT_SECONDS = 10.0
_encode = msgspec.json.Encoder().encode


class _Type(msgspec.Struct):
    type: str


_type = msgspec.json.Decoder(_Type)


def json_response(document: object) -> web.Response:
    """Return a response with a JSON body."""
    headers = {"x-request-id": request_id()}
    return web.Response(body=_encode(document), content_type="application/json", headers=headers)


def first_wanted(after: str | None, count: int) -> int:
    """Return the number of the first event behind `after`, of `count` that there are. Raises ApiError."""
    if after is None:
        return 0
    if not (after.isascii() and after.isdigit() and len(after) < 16):
        raise invalid("'starting_after' is the number of an event", "starting_after")
    if int(after) >= count:
        raise invalid(f"'starting_after' is {after}: there are events up to {count - 1}", "starting_after")
    return int(after) + 1


def sse_of(event: bytes) -> bytes:
    """Encode an event of a response, which is JSON, as a server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (_type.decode(event).type.encode(), event)


async def send_stream(request: web.Request, log: StreamLog, stream: StreamId, start: int) -> web.StreamResponse:
    """Send the events of a logged response from number `start` on, and go on until it has ended."""

    def end_of(state: StreamState) -> bytes:
        event = outside_event(state, str(stream))
        return b"" if event is None else sse_of(event)

    form = StreamForm(lambda _, event: sse_of(event), end_of)
    return await follow_stream(request, log, stream, start, form)


class StreamForm(NamedTuple):
    """How a stream is sent."""

    event: Callable[[int, bytes], bytes]
    """Encodes an event, by its number and its JSON."""
    end: Callable[[StreamState], bytes]
    """Encodes what follows the last event of a stream that has ended."""
    headers: Mapping[str, str] = MappingProxyType({})


async def follow_stream(
    request: web.Request, log: StreamLog, stream: StreamId, start: int, form: StreamForm
) -> web.StreamResponse:
    """Send the events of a logged stream from number `start` on, and go on until it has ended."""
    response = await start_stream(request, {**SSE_HEADERS, "x-request-id": request_id(), **form.headers})
    sent, wrote, over = start, time.monotonic(), False
    async with aclosing(log.follow(stream)) as states:  # type: ignore[type-var]
        async for state in states:
            block = b"".join(form.event(at, bytes(event)) for at, event in enumerate(state.events[sent:], sent))
            # A client that has had what follows the last event gets it no second time.
            over = state.ending is not None
            if over and sent <= len(state.events):
                block += form.end(state)
            sent = max(sent, len(state.events))
            if not block and time.monotonic() - wrote > _HEARTBEAT_SECONDS:
                block = _HEARTBEAT
            if block:
                await response.write(block)
                wrote = time.monotonic()
    if not over:  # most clients would take it for whole
        raise ApiError(500, "the stream can't be read any more")
    await response.write_eof()
    return response


async def send_events(request: web.Request, events: AsyncIterator[list[dict[str, Any]]]) -> web.StreamResponse:
    """Send events as they are made."""
    response = await start_stream(request, SSE_HEADERS | {"x-request-id": request_id()})
    async for made in events:
        await response.write(b"".join(sse_of(_encode(event)) for event in made))
    await response.write_eof()
    return response
