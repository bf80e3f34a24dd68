"""A model in V2 that does what the test says: answer, wait, refuse, fail, go away. It runs on a thread of its own."""

import asyncio
import json
import threading
from typing import Any

from aiohttp import web

from harness.threaded_server import ThreadedServer

_METADATA = {"name": "fake", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}
# A model whose requests share calls where the gateway is told so (`batching.include`).
_ROWS = {**_METADATA, "name": "rows", "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]}
_ANSWER: dict[str, Any] = {
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}],
    "model_version": "1",
}


class FakeModel(ThreadedServer):
    """Answers every infer alike: with `answer` (status, body) once `open` is set."""

    handler_cancellation = False

    def __init__(self) -> None:
        self.answer: tuple[int, Any] = (200, _ANSWER)
        self.ready = True
        self.delay = 0.0  # seconds that it takes for an answer
        self.open = threading.Event()
        self.open.set()
        self.traces: list[str | None] = []  # the header traceparent of each infer request
        self.asked: list[dict[str, Any]] = []  # bodies of infer requests, as they came
        self.dies_of: float | None = None  # a number in the inputs at which it goes away, with all that it has in hand
        self._in_hand: set[asyncio.Transport] = set()
        super().__init__()

    def reset(self) -> None:
        """Behave again."""
        self.answer, self.ready, self.dies_of, self.delay = (200, _ANSWER), True, None, 0.0
        self.open.set()
        self.asked.clear()
        self.traces.clear()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v2/health/ready", self._health)
        router.add_get("/v2/models/{model}", self._metadata)
        router.add_post("/v2/models/{model}/infer", self._infer)
        router.add_post("/v1/chat/completions", self._chat)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def _metadata(self, request: web.Request) -> web.Response:
        return web.json_response(_ROWS if request.match_info["model"] == "rows" else _METADATA)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        """Says the last message, word by word where a stream is wanted; the word `fail` fails it, `break` cuts it,
        `wait` waits for `open`."""
        body = await request.json()
        self.traces.append(request.headers.get("traceparent"))
        self.asked.append(body)
        said = body["messages"][-1]["content"]
        while said == "wait" and not self.open.is_set():
            await asyncio.sleep(0.01)
        head = {"id": "c-1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            if said == "fail":
                return web.json_response({"error": {"message": "told to fail", "type": "server_error"}}, status=500)
            message = {"role": "assistant", "content": said}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            return web.json_response({**head, "object": "chat.completion", "choices": choices})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def event(**members: Any) -> None:
            chunk = {**head, "object": "chat.completion.chunk", **members}
            await response.write(b"data: %b\n\n" % json.dumps(chunk).encode())

        await event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for word in said.split():
            if word == "fail":
                await event(error={"message": "told to fail"})
                return response
            if word == "break":
                return response
            while not self.open.is_set():
                await asyncio.sleep(0.005)
            await event(choices=[{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}])
        await event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage={"total_tokens": 3})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _infer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.traces.append(request.headers.get("traceparent"))
        self.asked.append(body)
        transport = request.transport
        assert transport is not None
        self._in_hand.add(transport)
        try:
            await asyncio.sleep(self.delay)
            while not self.open.is_set():
                await asyncio.sleep(0.005)
            if self.dies_of is not None and any(self.dies_of in tensor["data"] for tensor in body["inputs"]):
                for doomed in list(self._in_hand):
                    doomed.abort()
        finally:
            self._in_hand.discard(transport)
        status, answer = self.answer
        if answer is _ANSWER and request.match_info["model"] == "rows":
            rows = body["inputs"][0]["shape"][0]
            answer = {
                "outputs": [{**_ANSWER["outputs"][0], "shape": [rows, 1], "data": [1.0] * rows}],
                "model_version": "1",
            }
        body = answer
        return web.Response(
            status=status, text=body if isinstance(body, str) else json.dumps(body), content_type="application/json"
        )

    def close(self) -> None:
        self.open.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
