"""The routes of the public port."""

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from podpair.gateway.core.exposition import only
from podpair.gateway.http.admission import Admission
from podpair.gateway.http.console import add_console
from podpair.gateway.http.cors import allow_origins
from podpair.gateway.http.errors import refusal, v2_error
from podpair.gateway.http.events import EventStreamEdge
from podpair.gateway.http.infer import InferEdge
from podpair.gateway.http.websocket import WebSocketEdge
from podpair.gateway.metrics import INFERENCE_LATENCY
from podpair.gateway.service import Service


def make_app(service: Service) -> web.Application:
    """The application for one gateway."""
    admission = Admission(service)
    infer = InferEdge(service, admission)
    limit = service.config.limits.message_bytes
    app = web.Application(client_max_size=limit, middlewares=[_gone, _errors_as_json(limit)])
    allow_origins(app, service.config.http.origins)

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        good = service.ready
        return web.json_response({"ready": good, "checks": service.checks}, status=200 if good else 503)

    async def metrics(_: web.Request) -> web.Response:
        """Ours, and the model's latency: its container listens on localhost only, so nobody else can ask for it."""
        own = generate_latest(service.metrics.registry)
        beside = await service.parts.upstream.metrics() if service.parts is not None else ""
        body = own + only(beside, INFERENCE_LATENCY).encode()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/healthz", health)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/v1/ws", WebSocketEdge(service, admission).handle, allow_head=False)
    app.router.add_get("/v1/events", EventStreamEdge(service, admission).handle, allow_head=False)
    app.router.add_post("/v1/infer", infer.post)
    app.router.add_post("/v2/models/{model}/infer", infer.v2)
    app.router.add_post("/v2/models/{model}/versions/{version}/infer", infer.v2)
    app.router.add_post("/v1/chat/completions", infer.chat)
    for path in ("/v2", "/v2/{rest:(?:health/(?:live|ready)|models/[^/]+(?:/versions/[^/]+)?(?:/ready)?)}"):
        app.router.add_get(path, infer.v2)
    add_console(app, service)
    return app


@web.middleware
async def _gone(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A client that left before its answer, or its upgrade, began is nothing to tell of."""
    try:
        return await handler(request)
    except ConnectionError:
        if request.transport is not None and not request.transport.is_closing():
            raise
        return web.Response()  # for aiohttp: nobody reads it


def _errors_as_json(limit: int) -> Middleware:
    """aiohttp's own refusals (no route, body too large) in the form of the part that they happen in."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            message = {
                404: f"there is no {request.path}",
                405: f"{request.path} does not take {request.method}",
                413: f"the body is larger than {limit} bytes (limits.message_bytes)",
            }.get(error.status, error.reason)
            if request.path.startswith("/v2"):
                return v2_error(error.status, message)
            return refusal(error.status, "not_found" if error.status == 404 else "invalid", message)

    return middleware
