"""The two ports of a gateway: the public one, for clients, and the operators' one, which no Ingress leads to.

Invariant: the operators' port opens before the public one, and closes after it: operators see all of a gateway's life.
"""

import ssl

from aiohttp import web

from podpair.common.listener.acceptor import Acceptor
from podpair.gateway.http.app import make_app
from podpair.gateway.http.operations import make_operations_app
from podpair.gateway.http.port import make_acceptor
from podpair.gateway.service import Service


class CannotListen(Exception):
    """A port can't be opened; the message names the port and its setting."""


class Listeners:
    """Both ports; `context` is the public one's TLS. The operators' port is plain HTTP."""

    def __init__(self, service: Service, context: ssl.SSLContext | None) -> None:
        self._service = service
        self._context = context
        self._runners: list[web.AppRunner] = []
        self._acceptors: list[Acceptor] = []

    async def start(self) -> dict[str, str]:
        """Listen. Returns the URL of the public port as `address`, that of the operators' as `operations` unless it is off.

        Raises CannotListen.
        """
        http, operations = self._service.config.http, self._service.config.operations
        addresses = {}
        if operations.enabled:
            app, host = make_operations_app(self._service), operations.host or http.host
            addresses["operations"] = await self._listen(app, host, operations.port, "operations.port")
        app = make_app(self._service)
        addresses["address"] = await self._listen(app, http.host, http.port, "http.port", self._context)
        return addresses

    async def _listen(
        self, app: web.Application, host: str, port: int, setting: str, context: ssl.SSLContext | None = None
    ) -> str:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._runners.append(runner)
        await runner.setup()
        service = self._service
        acceptor = make_acceptor(runner, service.config, service.metrics, context, public=setting == "http.port")
        self._acceptors.append(acceptor)
        try:
            await acceptor.listen(host, port)
        except OSError as error:
            raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error} ({setting})") from None
        host, port = acceptor.addresses[0][:2]
        scheme = "https" if context is not None else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def close(self) -> None:
        """Close both, the public one first."""
        for acceptor in reversed(self._acceptors):
            await acceptor.close()
        for runner in reversed(self._runners):
            await runner.cleanup()
