"""A model's server for `openai_streams.py`: `token_server.py PORT`, with OpenAI's streamed chat completions.

The message says how many tokens a stream has and how many come a second (`TOKENS RATE`, RATE 0: as fast as they are taken). Each
token is the time at which it was written, in nanoseconds of the machine's monotonic clock.
"""

import asyncio
import json
import sys
import time

from aiohttp import web

_CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"%d "},"finish_reason":null}]}\n\n'
)
_END = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


async def chat(request: web.Request) -> web.StreamResponse:
    """Write the tokens, each when it is due."""
    body = json.loads(await request.read())
    tokens, rate = map(int, body["messages"][-1]["content"].split())
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    began = time.monotonic()
    for number in range(tokens):
        if rate:
            await asyncio.sleep(began + number / rate - time.monotonic())
        await response.write(_CHUNK % time.monotonic_ns())
    await response.write(_END)
    return response


async def healthy(_: web.Request) -> web.Response:
    return web.Response()


async def models(_: web.Request) -> web.Response:
    entry = {"id": "m", "object": "model", "created": 1, "owned_by": "bench"}
    return web.json_response({"object": "list", "data": [entry]})


def main() -> None:
    app = web.Application()
    app.router.add_get("/health", healthy)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
