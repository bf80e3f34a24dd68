"""Serves models that are called by V2 over OpenAI's API: those that `openai.models` declares."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from podpair.common.gateway_config.openai import Task
from podpair.gateway.core.lanes import MIDDLE, direct_lane
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.openai.core.bodies import Options, model_parameters
from podpair.gateway.openai.core.completions import DONE, Completion, embeddings, events, texts_of
from podpair.gateway.openai.core.errors import request_id
from podpair.gateway.openai.guard import Caller, start_stream

_QUEUED = 16  # parts that may wait for a slow client before the model does
SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no",
}  # fmt: skip


def v2_request(options: Options, task: Task, caller: Caller, data: object) -> InferenceRequest:
    """Return the call of a model by V2 with this input, as JSON."""
    identity, grant = caller.identity, caller.grant
    return InferenceRequest(
        secrets.token_hex(8), options.model, data=msgspec.json.encode(data), parameters=model_parameters(options, task),
        deadline=caller.deadline, stream=task != "embeddings", key=identity.session or identity.subject,
        lane=MIDDLE if grant is None else direct_lane(grant.priority), subject=identity.subject,
    )  # fmt: skip


async def parts_of(request: InferenceRequest, caller: Caller) -> AsyncIterator[bytes]:
    """Stream the data of the parts of a model's answer; one of a model that does not stream. Raises what a call raises."""
    parts: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUED)

    async def call() -> bytes:
        try:
            return await caller.components.model.client.stream(request, lambda _, data: parts.put(data))
        finally:
            if not work.cancelling():
                await parts.put(None)

    work = asyncio.create_task(call())
    count = 0
    try:
        while (data := await parts.get()) is not None:
            count += 1
            yield data
        result = await work
        if not count:
            yield _whole_text(result)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def _whole_text(result: bytes) -> bytes:
    """Return the data of the only part, if the model answered at once: the value of its only output."""
    found = msgspec.json.decode(b"{%b}" % result)["data"]
    value = next(iter(found.values())) if isinstance(found, dict) and len(found) == 1 else found
    return msgspec.json.encode(value)


def chat_input(options: Options) -> str:
    """Return what a model gets of a chat."""
    return msgspec.json.encode(options.messages).decode()


def _prompt(options: Options) -> str:
    return options.prompt if isinstance(options.prompt, str) else (options.prompt or [""])[0]


async def complete(request: web.Request, options: Options, task: Task, caller: Caller) -> web.StreamResponse:
    """Answer a chat completion or a completion, whole or as events. Raises what a call raises, before anything is sent."""
    chat = task == "chat"
    data = chat_input(options) if chat else _prompt(options)
    completion = Completion(options, chat=chat, created=int(time.time()))
    parts = parts_of(v2_request(options, task, caller, data), caller)
    try:
        if options.stream:
            return await _stream(request, completion, parts)
        async for part in parts:
            completion.add(part)
    finally:
        await parts.aclose()  # type: ignore[attr-defined]
    return web.Response(
        body=completion.whole(), content_type="application/json", headers={"x-request-id": request_id()}
    )


async def _stream(request: web.Request, completion: Completion, parts: AsyncIterator[bytes]) -> web.StreamResponse:
    part = await anext(parts, None)  # an error before the first part is a response of its own
    text = completion.add(part) if part is not None else ""
    response = await start_stream(request, SSE_HEADERS | {"x-request-id": request_id()})
    await response.write(events(completion.first() + completion.chunk(text)))
    async for part in parts:
        if chunks := completion.chunk(completion.add(part)):
            await response.write(events(chunks))
    await response.write(events(completion.last()) + DONE)
    await response.write_eof()
    return response


async def embed(options: Options, caller: Caller) -> web.Response:
    """Answer with the embeddings of texts. Raises what a call raises."""
    texts = texts_of(options)
    request = v2_request(options, "embeddings", caller, texts[0] if len(texts) == 1 else texts)
    result = await caller.components.model.client.infer(request)
    return web.Response(
        body=embeddings(options, result), content_type="application/json", headers={"x-request-id": request_id()}
    )
