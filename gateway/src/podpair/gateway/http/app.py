"""The routes of the public port. Routes for operators are on another one (`operations`)."""

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from podpair.gateway.http.admission import Admission
from podpair.gateway.http.channels import ChannelsEdge
from podpair.gateway.http.console import add_console
from podpair.gateway.http.cors import PagePolicy
from podpair.gateway.http.errors import PATH, error_of, refuse_coding, unreadable_body
from podpair.gateway.http.events import EventStreamEdge
from podpair.gateway.http.infer import InferEdge
from podpair.gateway.http.operations import healthy
from podpair.gateway.http.presence import PresenceEdge
from podpair.gateway.http.routes import Routes, path_of
from podpair.gateway.http.subscriptions import SubscriptionsEdge
from podpair.gateway.http.websocket import WebSocketEdge
from podpair.gateway.openai.edge import add_openai
from podpair.gateway.service import Service


def make_app(service: Service) -> web.Application:
    """Create the application of the public port."""
    admission = Admission(service)
    infer = InferEdge(service, admission)
    limit = service.config.limits.message_bytes
    app = web.Application(client_max_size=limit, middlewares=[_ignore_disconnect, _errors_as_json(limit)])
    PagePolicy(service.config.http, admission).add_to(app)
    routes = Routes(app, service.config.http.base_path)

    async def ready(_: web.Request) -> web.Response:
        """Answer load balancers with yes or no; the reasons are on the operators' port."""
        return web.json_response(
            {"status": "ok"} if service.ready else {"status": "not ready"}, status=200 if service.ready else 503
        )

    routes.get("/healthz", healthy)
    routes.get("/readyz", ready)
    routes.get("/v1/ws", WebSocketEdge(service, admission).handle, head=False)
    routes.get("/v1/events", EventStreamEdge(service, admission).handle, head=False)
    routes.post("/v1/infer", infer.post)
    for call in ("infer", "generate", "generate_stream"):
        routes.post(f"/v2/models/{{model}}/{call}", infer.v2)
        routes.post(f"/v2/models/{{model}}/versions/{{version}}/{call}", infer.v2)
    if service.config.openai.enabled:
        add_openai(app, routes, service, admission)
    else:
        routes.post("/v1/chat/completions", infer.chat)
    for path in ("/v2", "/v2/{rest:(?:health/(?:live|ready)|models/[^/]+(?:/versions/[^/]+)?(?:/ready)?)}"):
        routes.get(path, infer.v2)
    if service.config.deliveries.enabled:
        subscriptions = SubscriptionsEdge(service, admission)
        routes.post("/v1/subscriptions", subscriptions.create)
        routes.get("/v1/subscriptions", subscriptions.list)
        routes.delete("/v1/subscriptions/{id}", subscriptions.delete)
    if service.config.channels.enabled:
        routes.post("/v1/channels/{channel}", ChannelsEdge(admission).publish)
    if service.config.presence.enabled:
        routes.get("/v1/presence/{subject}", PresenceEdge(admission).handle)
    add_console(routes, service)
    return app


@web.middleware
async def _ignore_disconnect(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ignore the error of a client that left before its answer, or its upgrade, began."""
    try:
        return await handler(request)
    except ConnectionError:
        if request.transport is not None and not request.transport.is_closing():
            raise
        return web.Response()  # required by aiohttp, never sent


def _errors_as_json(limit: int) -> Middleware:
    """Return a middleware that answers aiohttp's own errors (no route, body too large or unreadable) in the API's form."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[PATH] = path_of(request)
        if (refused := refuse_coding(request)) is not None:
            return refused
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return error_of(request, error, {413: f"the body is larger than {limit} bytes (limits.message_bytes)"})
        except web.RequestPayloadError as error:
            return unreadable_body(request, error)

    return middleware
