"""Runs one gateway: the ports first, then the broker, so that a probe always gets an answer."""

import asyncio
import gc
import logging
import signal
import threading

import uvloop

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.model import Config
from podpair.gateway import logs
from podpair.gateway.http.listeners import CannotListen, Listeners
from podpair.gateway.http.port import raise_descriptor_limit
from podpair.gateway.http.tls import certificate_of
from podpair.gateway.kafka.threads import post_to_loop
from podpair.gateway.kafka.topics import MissingTopic
from podpair.gateway.service import Service

_log = logging.getLogger("podpair.gateway")


def run(config: Config) -> int:
    """Serve until a signal; return the exit status."""
    logs.set_up(config.log.level, config.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: Config) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()  # the exit status

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    def thread_died(died: threading.ExceptHookArgs) -> None:
        _log.critical("thread %s died", died.thread.name if died.thread else "?", exc_info=died.exc_value)
        post_to_loop(loop, end, 1)

    threading.excepthook = thread_died
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    certificate = certificate_of(config.http)
    service = Service(config)
    raise_descriptor_limit(config.limits.sessions + config.limits.connections)
    listeners = Listeners(service, certificate.context if certificate is not None else None)
    try:
        addresses = await listeners.start()
    except CannotListen as error:
        _log.error("%s", error)
        await service.stop()
        await listeners.close()
        return 1
    _log.info("listening", extra=addresses)

    def started(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("%s", failure, exc_info=None if isinstance(failure, MissingTopic | FaultsError) else failure)
            end(1)

    if certificate is not None:
        certificate.watch(service.metrics)
    starting = asyncio.create_task(_start(service, addresses))
    starting.add_done_callback(started)
    status = await ended
    starting.cancel()
    _log.info("stopping")
    await service.stop()
    await listeners.close()
    if certificate is not None:
        await certificate.close()
    _log.info("stopped")
    return status


async def _start(service: Service, addresses: dict[str, str]) -> None:
    await service.start()
    # Present objects stay: the garbage collector need not visit them, nor the sessions after each few allocations.
    gc.collect()
    gc.freeze()
    # A thousand requests in flight are some 50,000 objects, which each collection looks over; few are ever part of a cycle.
    gc.set_threshold(200_000, 20, 100)
    _log.info("ready", extra={**addresses, "gateway": service.name})
