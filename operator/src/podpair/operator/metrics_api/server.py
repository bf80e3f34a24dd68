"""The TLS server to which the API server forwards requests.

Invariant: no request is answered unless it came with the API server's client certificate; only /healthz is for everyone. A new
certificate, its own or the API server's authority, counts for connections from then on, and refuses none: the socket stays.
Connections are accepted by `listener` rather than by asyncio's own server, which before Python 3.13 can't end those that it
accepted: one in the middle of its handshake would outlive `stop`.
"""

import asyncio
import datetime as dt
import logging
import os
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from podpair.common.listener.acceptor import Acceptor
from podpair.common.listener.connections import ConnectionLimits
from podpair.operator.core.external_metrics import (
    API_VERSION,
    Refusal,
    check_metric,
    discovery,
    gateways_wanted,
    values,
)
from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.core.front_proxy import FrontProxy
from podpair.operator.listener import LIMITS, make_acceptor
from podpair.operator.metrics import Metrics
from podpair.operator.metrics_api.certificates import ServingCertificate, expiration

Source = Callable[[str, str, str], Awaitable[MetricValues | None]]
"""(namespace, name, metric) → what is known of that InferenceGateway, at least of that metric; None: there is none."""
_HEALTH = "/healthz"
_log = logging.getLogger(__name__)


class MetricsServer:
    """Listens from `serve` on, until `stop`."""

    def __init__(
        self, host: str, port: int, source: Source, metrics: Metrics, limits: ConnectionLimits = LIMITS
    ) -> None:
        self._host, self._port = host, port
        self._source = source
        self._metrics = metrics
        self._limits = limits
        self._context: ssl.SSLContext | None = None
        self._acceptor: Acceptor | None = None
        self._runner: web.AppRunner | None = None
        self._serving: tuple[ServingCertificate, FrontProxy] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        addresses = self._acceptor.addresses if self._acceptor is not None else []
        return int(addresses[0][1]) if addresses else self._port

    async def serve(self, certificate: ServingCertificate, front_proxy: FrontProxy) -> None:
        """Serve with this certificate and this client authority from now on. Raises OSError if the address can't be bound."""
        if self._serving == (certificate, front_proxy):
            return
        if self._runner is None:
            self._runner = web.AppRunner(self._app(), access_log=None)
            await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the metrics API was stopped")
        self._context = await asyncio.to_thread(_context, certificate, front_proxy)
        self._metrics.certificate_expiration.set(expiration(certificate).timestamp())
        if self._acceptor is None:
            acceptor = self._acceptor = make_acceptor(
                self._runner,
                "metrics_api",
                self._metrics.connections_closed,
                self._metrics.connections_refused,
                context=lambda: self._context,
                limits=self._limits,
            )
        else:
            acceptor = self._acceptor
        if acceptor.addresses:
            self._serving = certificate, front_proxy
            _log.info("the metrics API has a new certificate")
            return
        await acceptor.listen(self._host, self._port)
        self._serving = certificate, front_proxy
        _log.info("the metrics API is served", extra={"port": self.port})

    async def stop(self) -> None:
        """End all connections; those whose peer is slow to close, too."""
        if self._acceptor is not None:
            await self._acceptor.close()
        if self._runner is not None and self._runner.server is not None:
            open_now = [one.transport for one in self._runner.server.connections]
            await self._runner.cleanup()
            for transport in open_now:
                if transport is not None:
                    transport.abort()
            await asyncio.sleep(0)  # the sockets are closed in the loop's next turn

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
            answer = Refusal(
                error.status, error.reason.replace(" ", ""), f"{request.method} {request.path}: {error.reason}"
            )
            return web.json_response(answer.status, status=answer.code)

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
