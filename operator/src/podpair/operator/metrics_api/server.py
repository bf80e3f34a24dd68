"""The TLS server that the API server passes questions on to.

Invariant: no question is answered unless it came with the API server's client certificate; only /healthz is for everyone. A new
certificate, its own or the API server's authority, is taken without refusing a connection: two listeners share one socket
for a moment.
"""

import asyncio
import datetime as dt
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from podpair.operator.core.external_metrics import (
    API_VERSION,
    Refusal,
    check_metric,
    discovery,
    gateways_wanted,
    values,
)
from podpair.operator.core.front_proxy import FrontProxy
from podpair.operator.core.measures import Measures
from podpair.operator.metrics_api.certificates import ServingCertificate

Source = Callable[[str, str, str], Awaitable[Measures | None]]
"""(namespace, name, metric) → what is known of that InferenceGateway, at least of that metric; None: there is none."""
_HEALTH = "/healthz"
_log = logging.getLogger(__name__)


class MetricsServer:
    """Listens from `serve` on, until `stop`."""

    def __init__(self, host: str, port: int, source: Source) -> None:
        self._host, self._port = host, port
        self._source = source
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._serving: tuple[ServingCertificate, FrontProxy] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else self._port

    async def serve(self, certificate: ServingCertificate, front_proxy: FrontProxy) -> None:
        """From now on show this certificate, and answer those. Raises OSError where the address can't be had."""
        if self._serving == (certificate, front_proxy):
            return
        if self._socket is None:
            self._socket = await asyncio.to_thread(_listening, self._host, self._port)
        if self._runner is None:
            self._runner = web.AppRunner(self._app(), access_log=None)
            await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the metrics API was stopped")
        context = await asyncio.to_thread(_context, certificate, front_proxy)
        server = await asyncio.get_running_loop().create_server(
            self._runner.server, sock=self._socket.dup(), ssl=context
        )
        before, self._server = self._server, server
        if before is not None:
            before.close()
            _log.info("the metrics API has a new certificate")
        else:
            _log.info("the metrics API is served", extra={"port": self.port})
        self._serving = certificate, front_proxy

    async def stop(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get(_HEALTH, _healthy)
        app.router.add_get(f"/apis/{API_VERSION}/namespaces/{{namespace}}/{{metric}}", self._values)
        app.router.add_get("/{path:.*}", _discovered)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path != _HEALTH and not self._admits(request):
                message = "only the API server is answered here, by its client certificate (--proxy-client-cert-file)"
                raise Refusal(401, "Unauthorized", message)
            return await handler(request)
        except Refusal as refusal:
            return web.json_response(refusal.status, status=refusal.code)
        except web.HTTPException as error:
            told = Refusal(
                error.status, error.reason.replace(" ", ""), f"{request.method} {request.path}: {error.reason}"
            )
            return web.json_response(told.status, status=told.code)

    def _admits(self, request: web.Request) -> bool:
        certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
        return self._serving is not None and self._serving[1].admits(certificate)

    async def _values(self, request: web.Request) -> web.Response:
        namespace, metric = request.match_info["namespace"], request.match_info["metric"]
        check_metric(metric)
        names = gateways_wanted(request.query.get("labelSelector", ""))
        found = await asyncio.gather(*(self._source(namespace, name, metric) for name in names))
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return web.json_response(values(metric, dict(zip(names, found, strict=True)), namespace, now))


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _discovered(request: web.Request) -> web.Response:
    document = discovery(request.path.rstrip("/"))
    if document is None:
        raise Refusal(404, "NotFound", f"there is nothing at {request.path}")
    return web.json_response(document)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.create_server((host, port), family=family)
    made.setblocking(False)
    return made


def _context(certificate: ServingCertificate, front_proxy: FrontProxy) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Optional, so that /healthz can be asked without; a certificate of another authority ends the handshake.
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=front_proxy.ca_pem)
    context.set_alpn_protocols(["http/1.1"])
    # ssl reads certificates from paths only: this file is in memory, and has no name but its number.
    with os.fdopen(os.memfd_create("metrics-api"), "wb") as file:
        file.write((certificate.key + certificate.certificate).encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
