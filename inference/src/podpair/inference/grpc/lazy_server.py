"""Imports and starts the gRPC server if it is enabled, after the models are ready.

The imports, of protobuf above all, take a while, which REST alone need not wait for.
"""

import asyncio
import importlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from podpair.inference.config.addresses import refuse_taken
from podpair.inference.config.settings import Settings
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.fork_guard import sockets_at
from podpair.inference.tracing import Tracing

if TYPE_CHECKING:
    from podpair.inference.grpc.server import Server

log = logging.getLogger(__name__)


class LazyServer:
    """The gRPC server, once it has been imported."""

    def __init__(
        self, settings: Settings, catalog: Catalog, metrics: Metrics, tracing: Tracing, budget: MemoryBudget
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._metrics = metrics
        self._tracing = tracing
        self._budget = budget
        self._server: Server | None = None
        # Its port; 0: none, or a Unix socket.
        self._port = 0

    async def start(self) -> None:
        """Listen. Raises OSError if a configured port is taken; if the default one is taken, gRPC stays off."""
        settings = self._settings.grpc
        if not settings.enabled:
            return
        # In a thread, for the import; the server itself belongs to the loop.
        module = await asyncio.to_thread(importlib.import_module, "podpair.inference.grpc.server")
        selection = await asyncio.to_thread(importlib.import_module, "podpair.inference.grpc.selection")
        options = module.options(self._settings.server.max_body_bytes, settings.compression)
        calls = module.Calls(self._metrics, self._budget)
        rpc_server = await selection.make_server(settings.server, options, calls)
        server: Server = module.Server(rpc_server, self._catalog, calls, self._tracing)
        host, port = self._settings.server.host, self._settings.grpc_port
        address = f"{host}:{port}"
        if settings.socket is not None:
            refuse_taken(settings.socket)
            address = f"unix:{settings.socket}"
        try:
            bound = await server.start(address)
        except RuntimeError as error:
            if settings.socket is not None:
                raise OSError(f"{address} (grpc.socket): {error}") from None
            if settings.port is not None:
                raise OSError(f"{address} is taken (grpc.port)") from None
            log.warning("gRPC is off: its default port is taken; set grpc.port", extra={"address": address})
        else:
            self._server = server
            self._port = bound if settings.socket is None else 0
            log.info("gRPC is ready", extra={"address": f"{host}:{bound}" if settings.socket is None else address})

    def files(self) -> Iterable[int]:
        """Return the file descriptors of its sockets at a port."""
        return sockets_at(self._port) if self._port else ()

    async def refuse(self) -> None:
        """Report that it is unhealthy, because the container stops."""
        if self._server is not None:
            await self._server.refuse()

    async def stop(self) -> None:
        """Close the remaining connections."""
        if self._server is not None:
            await self._server.stop(1.0)
