"""A server of OpenAI's API that says the same each time: the last message, word by word. It runs on a thread of its own.

A word of the message may be an order: `!fail` (an error event), `!break` (the connection is cut), `!end` (the stream ends with
no reason given), `!odd` (a chunk of another form), `!wait` (until `open` is set), `!status:<n>` (that status instead of an
answer).
"""

import asyncio
import base64
import json
import struct
import threading
from typing import Any

from aiohttp import web

from harness.threaded_server import ThreadedServer

TEXT_ERROR = "no such luck"
_FUNCTION = {"name": "look", "arguments": ""}
_FAILURE = b'data: {"error": {"message": "told to fail", "type": "server_error", "code": "f"}}\n\n'
_TOOL_CALL: list[dict[str, Any]] = [
    {"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": _FUNCTION}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
]


class OpenAIServer(ThreadedServer):
    """`url` is without /v1. `asked`: bodies, `headers` of requests as they came, `left`: messages whose client went away."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left: list[str] = []
        self.open = threading.Event()
        self.open.set()
        super().__init__()

    def reset(self) -> None:
        """Forget what was asked, and wait no more."""
        self.asked.clear()
        self.headers.clear()
        self.left.clear()
        self.open.set()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/health", self._healthy)
        router.add_get("/v1/models", self._models)
        router.add_get("/v1/models/{id}", self._model)
        router.add_post("/v1/chat/completions", self._chat)
        router.add_post("/v1/completions", self._completions)
        router.add_post("/v1/embeddings", self._embeddings)
        router.add_get("/internal", self._healthy)  # not of the API

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        entry = {"id": "llm", "object": "model", "created": 1, "owned_by": "them"}
        return web.json_response({"object": "list", "data": [entry]})

    async def _model(self, request: web.Request) -> web.Response:
        if request.match_info["id"] != "llm":
            return web.json_response({"error": {"message": "no such model", "code": 404}}, status=404)
        return web.json_response({"id": "llm", "object": "model", "created": 1, "owned_by": "them"})

    async def _take(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.asked.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return body

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._take(request)
        said = body["messages"][-1]["content"]
        if isinstance(said, list):
            said = "".join(part["text"] for part in said)
        return await self._answer(request, body, said, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._take(request)
        return await self._answer(request, body, body["prompt"], chat=False)

    async def _answer(self, request: web.Request, body: dict[str, Any], said: str, *, chat: bool) -> web.StreamResponse:
        words = said.split()
        if words and words[0].startswith("!status:"):
            status = int(words[0].partition(":")[2])
            if status == 418:
                return web.Response(status=status, text=TEXT_ERROR, headers={"Retry-After": "2"})
            error = {"message": "told so", "type": "made_up", "code": None}
            return web.json_response({"error": error}, status=status, headers={"retry-after-ms": "20"})
        kind = "chat.completion" if chat else "text_completion"
        head = {"id": "c-1", "object": kind, "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": len(words), "completion_tokens": len(words), "total_tokens": 2 * len(words)}
        if not body.get("stream"):
            try:
                while "!wait" in words and not self.open.is_set():
                    await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                self.left.append(said)
                raise
            told: dict[str, Any] = {"message": {"role": "assistant", "content": said}} if chat else {"text": said}
            if chat and body.get("tools"):
                call = {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
                told = {"message": {"role": "assistant", "content": None, "tool_calls": [call]}}
            reason = "tool_calls" if body.get("tools") else "stop"
            choice = {"index": 0, **told, "finish_reason": reason}
            return web.json_response({**head, "choices": [choice], "usage": usage}, headers={"x-request-id": "req-1"})
        return await self._stream(request, body, said, head, usage, chat=chat)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], said: str, head: dict[str, Any], usage: dict[str, int],
        *, chat: bool,
    ) -> web.StreamResponse:  # fmt: skip
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-request-id": "req-1"})
        await response.prepare(request)
        if chat:
            head = {**head, "object": "chat.completion.chunk"}

        async def event(delta: dict[str, Any], reason: str | None = None) -> None:
            new = {"delta": delta} if chat else {"text": delta.get("content", "")}
            chunk = {**head, "choices": [{"index": 0, **new, "finish_reason": reason}]}
            await response.write(b"data: %b\n\n" % json.dumps(chunk).encode())

        try:
            await event({"role": "assistant", "content": ""})
            for delta in _TOOL_CALL if body.get("tools") else ():
                await event(delta)
            for word in () if body.get("tools") else said.split():
                match word:
                    case "!fail":
                        await response.write(_FAILURE)
                        return response
                    case "!break":
                        await response.write(b'data: {"id": "c-1", "choi')
                        await asyncio.sleep(0.05)
                        assert request.transport is not None
                        request.transport.abort()
                        return response
                    case "!end":
                        return response
                    case "!odd":
                        await event({"tool_calls": [7]})
                    case "!wait":
                        await self._opened()
                    case _:
                        await event({"content": f"{word} "})
            await event({}, "tool_calls" if body.get("tools") else "stop")
            if (body.get("stream_options") or {}).get("include_usage"):
                await response.write(b"data: %b\n\n" % json.dumps({**head, "choices": [], "usage": usage}).encode())
            await response.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.left.append(said)
            raise
        return response

    async def _opened(self) -> None:
        while not self.open.is_set():
            await asyncio.sleep(0.005)

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await self._take(request)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        packed = body.get("encoding_format") == "base64"
        vectors = [[float(len(text)), 0.5] for text in texts]
        data = [
            {
                "object": "embedding", "index": index,
                "embedding": base64.b64encode(struct.pack("<2f", *vector)).decode() if packed else vector,
            }
            for index, vector in enumerate(vectors)
        ]  # fmt: skip
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})

    def close(self) -> None:
        """Stop."""
        self.open.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
