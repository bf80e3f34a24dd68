"""The life of the process: listen, load, be ready, stop without losing accepted requests."""

import asyncio
import contextlib
import gc
import logging
import math
import signal
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from podpair.inference.config.settings import Settings
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.grpc.lazy_server import LazyServer
from podpair.inference.http.app import Api
from podpair.inference.http1.server import Server
from podpair.inference.metrics import Metrics
from podpair.inference.model_calls import ModelCalls
from podpair.inference.models import connect
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.fork_guard import guard_forks
from podpair.inference.runtime.loader import runtime_loader
from podpair.inference.runtime.local_model_client import LocalModelClient
from podpair.inference.runtime.reloader import Reloader
from podpair.inference.runtime.repository import ModelSource
from podpair.inference.runtime.weights import WeightsSource
from podpair.inference.runtime.worker.call_connection import CallServer
from podpair.inference.tracing import Tracing

log = logging.getLogger(__name__)

# What answers have to be written in, however long a model budget up the stop before.
_LAST_SECONDS = 1.0


async def serve(settings: Settings, models: ModelSource, weights: WeightsSource) -> None:
    """Serve until SIGTERM or SIGINT. Raises FaultsError if a model can't be loaded, OSError if a port is taken.

    It listens before the models are loaded, so that a probe can tell "alive, not ready" from "dead".
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Our own, which can be abandoned if a model never returns from its thread.
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="work"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    strict = settings.models.exit_on_error
    tracing = Tracing(settings.tracing)
    calls = ModelCalls(metrics, tracing)
    connect(LocalModelClient(calls, loop))
    load = runtime_loader(settings.models.custom_op_libraries, CallServer(calls, loop))
    catalog = Catalog(models, metrics, load, weights.read(), settings.models.prepare_threads, strict)
    watched = models if settings.models.watch else None
    reloader = Reloader(catalog, weights, watched, settings.models.poll_seconds, strict)
    server = settings.server
    calls.open(catalog)
    budget = MemoryBudget(server.max_pending_bytes)
    grpc = LazyServer(settings, catalog, metrics, tracing, budget)
    rest = Api(catalog, metrics, server.max_body_bytes, tracing).server(budget)
    guard_forks(lambda: [*rest.files(), *grpc.files()])
    end = math.inf
    try:
        url = await _listen(rest, settings)
        log.info("listening", extra={"url": url})
        await _until_stopped(_serving(catalog, grpc, tracing, url, reloader), stop)
        log.info("stopping")
        end = time.monotonic() + server.shutdown_seconds
        await grpc.refuse()
        await catalog.stop(server.shutdown_seconds)
    finally:
        # Closes the open connections once their answers are written.
        left = min(server.shutdown_seconds, max(_LAST_SECONDS, end - time.monotonic()))
        await asyncio.gather(grpc.stop(), rest.close(left))
        await tracing.close()
        connect(None)
        guard_forks(None)
        loop.set_default_executor(ThreadPoolExecutor(1))
    log.info("stopped")


async def _listen(rest: Server, settings: Settings) -> str:
    server = settings.server
    if server.socket is not None:
        await rest.listen_unix(server.socket)
        return f"unix:{server.socket}"
    _, port = await rest.listen(server.host, server.port)
    return f"http://{server.host}:{port}"


async def _until_stopped(serving: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Serve until the signal comes; what fails before is raised."""
    stopped, task = asyncio.create_task(stop.wait()), asyncio.create_task(serving)
    try:
        await asyncio.wait({stopped, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        stopped.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _serving(catalog: Catalog, grpc: LazyServer, tracing: Tracing, url: str, reloader: Reloader) -> None:
    """Load the models, announce that they are ready, and poll for changes until cancelled.

    gRPC and tracing come last: their imports take a while, and REST answers by then.
    """
    await reloader.start()
    log.info("ready", extra={"url": url, "models": [model.name for model in catalog.models]})
    await grpc.start()
    await tracing.start()
    # What exists by now stays: the garbage collector needn't scan it, and can run less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await reloader.run()
