"""/healthz, /readyz and /metrics.

/healthz fails if a watch has been silent for too long: an operator that sees nothing looks healthy and does nothing.
"""

from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import generate_latest

from podpair.common.listener.acceptor import Acceptor
from podpair.common.listener.connections import ConnectionLimits
from podpair.operator.listener import LIMITS, make_acceptor
from podpair.operator.metrics import Metrics

Check = Callable[[], Iterable[str]]
"""What is wrong, a line each; nothing if all is well."""


class HealthServer:
    """Serves the three; `url` is known once it is started."""

    def __init__(self, metrics: Metrics, unhealthy: Check, unready: Check, limits: ConnectionLimits = LIMITS) -> None:
        self._metrics = metrics
        self._checks = {"/healthz": unhealthy, "/readyz": unready}
        self._limits = limits
        self._runner: web.AppRunner | None = None
        self._acceptor: Acceptor | None = None
        self.url = ""

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        app = web.Application()
        for path in self._checks:
            app.router.add_get(path, self._check)
        app.router.add_get("/metrics", self._all_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        metrics = self._metrics
        self._acceptor = make_acceptor(
            self._runner, "health", metrics.connections_closed, metrics.connections_refused, limits=self._limits
        )
        await self._acceptor.listen(host, port)
        bound = self._acceptor.addresses[0][1]
        self.url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{bound}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._acceptor is not None:
            await self._acceptor.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _check(self, request: web.Request) -> web.Response:
        wrong = list(self._checks[request.path]())
        return web.Response(text="\n".join(wrong or ["ok"]) + "\n", status=503 if wrong else 200)

    async def _all_metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
