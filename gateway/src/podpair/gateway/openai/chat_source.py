"""The chunks of a chat completion, whoever makes them: a server of OpenAI's API, or a model that is called by V2."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from podpair.gateway.core.model_errors import Failed, TooLarge
from podpair.gateway.core.retry_after import parse_retry_after
from podpair.gateway.core.sse import EventParser, EventTooLarge
from podpair.gateway.http.infer import headers_to_model
from podpair.gateway.openai.core.bodies import read_options, refuse_unknown
from podpair.gateway.openai.core.completions import Completion
from podpair.gateway.openai.core.errors import ApiError, server_error
from podpair.gateway.openai.guard import Caller
from podpair.gateway.openai.server import OpenAIServer
from podpair.gateway.openai.v2_models import chat_input, parts_of, v2_request
from podpair.gateway.service import Service

_ERROR_BYTES = 1 << 16
_NOT_PASSED = ("Content-Type", "Content-Length", "Accept", "Idempotency-Key")
_chunk = msgspec.json.Decoder(dict[str, Any])


class ChatSource:
    """Asks for chat completions in chunks."""

    def __init__(self, service: Service, server: OpenAIServer) -> None:
        self._config = service.config
        self._server = server

    async def chunks(
        self, request: web.Request, caller: Caller, model: str, body: bytes
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of the answer to a body with `stream`. Raises what a call raises, also after chunks."""
        offered = self._config.openai.offers(model, "chat")
        if offered is False:
            raise refuse_unknown(model, "chat")
        source = self._v2(caller, body) if offered else self._chunks_of_server(request, caller, model, body)
        async with aclosing(source) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    async def _v2(self, caller: Caller, body: bytes) -> AsyncIterator[dict[str, Any]]:
        options = read_options(body, "chat")
        completion = Completion(options, chat=True, created=int(time.time()))
        call = parts_of(v2_request(options, "chat", caller, chat_input(options)), caller)
        async with aclosing(call) as parts:  # type: ignore[type-var]
            made = completion.first()
            async for part in parts:
                for chunk in made + completion.chunk(completion.add(part)):
                    yield chunk
                made = []
        for chunk in made + completion.last():
            yield chunk

    async def _chunks_of_server(
        self, request: web.Request, caller: Caller, model: str, body: bytes
    ) -> AsyncIterator[dict[str, Any]]:
        headers = CIMultiDict(headers_to_model(request, caller.identity, caller.grant))
        for name in _NOT_PASSED:
            headers.popall(name, None)
        headers.extend({"Content-Type": "application/json", "Accept": "text/event-stream"})
        limit = self._config.inference.max_response_bytes
        async with self._server.call("POST", "/v1/chat/completions", headers, body, model) as answer:
            if answer.status >= 400:
                wait = answer.headers.get("Retry-After")
                seconds = None if wait is None else parse_retry_after(wait.encode())
                raise server_error(answer.status, await answer.content.read(_ERROR_BYTES), seconds)
            if answer.content_type != "text/event-stream":
                raise Failed("the model's server answers a stream with no stream")
            events = EventParser(limit)
            async for piece in answer.content.iter_any():
                try:
                    found = events.feed(piece)
                except EventTooLarge:
                    raise TooLarge(limit) from None
                for data in found:
                    if data.strip() == b"[DONE]":
                        return
                    yield _decoded(data)


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        chunk = _chunk.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Failed("an event of the model's server is no chunk of a completion") from None
    if chunk.get("error") is not None:
        raise _error_of_chunk(data)
    return chunk


def _error_of_chunk(data: bytes) -> ApiError:
    return server_error(502, data, None)
