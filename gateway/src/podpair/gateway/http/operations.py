"""The routes of the operators' port: metrics, and why a gateway isn't ready.

Invariant: addresses of systems behind the gateway are shown only here and in the log: the public port is for everyone.
"""

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from podpair.gateway.core.exposition import filter_family
from podpair.gateway.metrics import INFERENCE_LATENCY
from podpair.gateway.service import Service


def make_operations_app(service: Service) -> web.Application:
    """Make the application of the operators' port for one gateway."""
    app = web.Application()

    async def ready(_: web.Request) -> web.Response:
        checks = service.checks
        return web.json_response({"ready": service.ready, "checks": checks}, status=200 if service.ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        """Ours, and the model's latency: its container listens on localhost only, so nobody else can ask for it."""
        own = generate_latest(service.metrics.registry)
        beside = await service.components.model.upstream.metrics() if service.components is not None else ""
        body = own + filter_family(beside, INFERENCE_LATENCY).encode()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/healthz", healthy)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)
    return app


async def healthy(_: web.Request) -> web.Response:
    """Answer that the process serves, which is all that a liveness probe wants to know."""
    return web.json_response({"status": "ok"})
