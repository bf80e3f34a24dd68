"""The routes of OpenAI's API, but for those of streams that exist (`response_routes`, `chat_streams`)."""

import msgspec
from aiohttp import web

from podpair.common.gateway_config.openai import Task
from podpair.gateway.http.admission import Admission
from podpair.gateway.http.routes import Routes
from podpair.gateway.openai.chat_source import ChatSource
from podpair.gateway.openai.chat_streams import ChatStreams, add_chat_streams, is_resumable
from podpair.gateway.openai.core.bodies import read_body, read_options, refuse_unknown
from podpair.gateway.openai.core.errors import request_id
from podpair.gateway.openai.guard import Caller, Guard, Handler
from podpair.gateway.openai.response_routes import add_responses
from podpair.gateway.openai.responses import Responses
from podpair.gateway.openai.server import OpenAIServer, model_entry
from podpair.gateway.openai.stream_runner import StreamRunner
from podpair.gateway.openai.v2_models import complete, embed
from podpair.gateway.service import Service

_PATHS: dict[Task, str] = {
    "chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings",
}  # fmt: skip


def add_openai(app: web.Application, routes: Routes, service: Service, admission: Admission) -> None:
    """Add the routes of OpenAI's API."""
    inference = service.config.inference.url
    url = service.config.openai.url or (inference if inference.startswith("http") else None)
    server = OpenAIServer(service.config, url)

    async def close(_: web.Application) -> None:
        await server.close()

    app.on_cleanup.append(close)
    guard = Guard(service, admission)
    runner, source = StreamRunner(service, guard), ChatSource(service, server)
    service.on_stop.append(runner.stop)
    streams = ChatStreams(source, runner)
    add_chat_streams(routes, guard, streams)
    add_responses(routes, guard, Responses(guard, source, runner))
    edge = OpenAIEdge(service, guard, server, streams)
    for task, path in _PATHS.items():
        routes.post(path, guard.route(path.removeprefix("/v1/"), edge.handler(task)))
    routes.get("/v1/models", guard.route("models", edge.models))
    routes.get("/v1/models/{id:.+}", guard.route("models", edge.model))


class OpenAIEdge:
    """Answers calls: by V2 for the models that are declared so, else by the server of OpenAI's API."""

    def __init__(self, service: Service, guard: Guard, server: OpenAIServer, streams: ChatStreams) -> None:
        self._streams = streams
        self._config = service.config.openai
        self._guard = guard
        self._server = server

    def handler(self, task: Task) -> Handler:
        """Return the handler of one kind of call."""

        async def handle(request: web.Request, caller: Caller) -> web.StreamResponse:
            body = await request.read()
            read = read_body(body)
            if task == "chat" and read.stream and is_resumable(request):
                return await self._streams.create(request, caller, read.model, body)
            offered = self._config.offers(read.model, task)
            if offered is None:
                async with self._guard.admitted(caller, read.model):
                    return await self._server.forward(request, caller, body, read.model, stream=bool(read.stream))
            if not offered:
                raise refuse_unknown(read.model, task)
            options = read_options(body, task)
            async with self._guard.admitted(caller, read.model):
                if task == "embeddings":
                    return await embed(options, caller)
                return await complete(request, options, task, caller)

        return handle

    async def models(self, request: web.Request, _: Caller) -> web.StreamResponse:
        """List the models: those that are declared here, and the server's."""
        own = [msgspec.Raw(model_entry(one.model)) for one in self._config.models]
        listed = {"object": "list", "data": own + await self._server.models(request)}
        body = msgspec.json.encode(listed)
        return web.Response(body=body, content_type="application/json", headers={"x-request-id": request_id()})

    async def model(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Describe one model."""
        name = request.match_info["id"]
        if any(one.model == name for one in self._config.models):
            return web.Response(
                body=model_entry(name), content_type="application/json", headers={"x-request-id": request_id()}
            )
        return await self._server.forward(request, caller, None, name)
