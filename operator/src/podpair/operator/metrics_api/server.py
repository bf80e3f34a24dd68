"""The TLS server that the API server passes questions on to.

Invariant: no question is answered unless it came with the API server's client certificate; only /healthz is for everyone. A new
certificate, its own or the API server's authority, counts for connections from then on, and refuses none: the socket stays.
Connections are accepted here rather than by asyncio's own server, which before Python 3.13 can't end those that it accepted: one
in the middle of its handshake would outlive `stop`.
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
_PAUSE = 1.0  # seconds
_HANDSHAKE = 10.0
_log = logging.getLogger(__name__)


class MetricsServer:
    """Listens from `serve` on, until `stop`."""

    def __init__(self, host: str, port: int, source: Source) -> None:
        self._host, self._port = host, port
        self._source = source
        self._socket: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._handshakes: set[asyncio.Task[None]] = set()
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
        before, self._context = self._context, await asyncio.to_thread(_context, certificate, front_proxy)
        self._serving = certificate, front_proxy
        if before is not None:
            _log.info("the metrics API has a new certificate")
            return
        self._accepting = asyncio.create_task(self._accept(self._socket, self._runner.server), name="metrics API")
        _log.info("the metrics API is served", extra={"port": self.port})

    async def stop(self) -> None:
        """End all connections; those whose peer is slow to say goodbye, too."""
        tasks = [*([self._accepting] if self._accepting is not None else []), *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._runner is not None and self._runner.server is not None:
            open_now = [one.transport for one in self._runner.server.connections]
            await self._runner.cleanup()
            for transport in open_now:
                if transport is not None:
                    transport.abort()
            await asyncio.sleep(0)  # the sockets are closed in the loop's next turn
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listening: socket.socket, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # such as too many open files: some are closed soon
                _log.warning("a connection to the metrics API could not be accepted: %s", error)
                await asyncio.sleep(_PAUSE)
                continue
            task = asyncio.create_task(self._begin(connection, server))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _begin(self, connection: socket.socket, server: web.Server) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                server, connection, ssl=self._context, ssl_handshake_timeout=_HANDSHAKE
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError: whoever it was is not the API server
            _log.debug("a connection to the metrics API came to nothing: %s", error or type(error).__name__)

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
