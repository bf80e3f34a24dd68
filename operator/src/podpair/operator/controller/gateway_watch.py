"""kopf watches the resources, and reports every change. It writes nothing: no annotation, no finalizer, no event.

Its handlers only queue a resource: kopf would run handlers for one object's changes one by one, while a reconciliation here
depends on a dozen kinds. Those are watched by `podpair.operator.kube.informer`: kopf misses what was deleted while a watch was
broken off, and ends if it may not read.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import aiohttp
import kopf

from podpair.operator.config.settings import Settings
from podpair.operator.controller.gateway_store import GatewayStore
from podpair.operator.core.api.igw import GROUP, PLURAL, VERSION
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.kube.client import Client
from podpair.operator.kube.informer import Key

_DEAD = 3  # in lengths of a watch
_MARGIN = 10.0  # seconds that an answer may be late


class _Backoffs:
    """Endless pauses between retries: the operator waits for the API server, however long it is gone."""

    def __iter__(self) -> Iterator[float]:
        pause = 0.5
        while True:
            yield pause
            pause = min(pause * 2, 10.0)


class GatewayWatch:
    """kopf's operator for InferenceGateways."""

    def __init__(
        self, settings: Settings, client: Client, gateways: GatewayStore, on_change: Callable[[Key], None]
    ) -> None:
        self._settings = settings
        self._client = client
        self._gateways = gateways
        self._on_change = on_change
        self._heard = time.monotonic()
        self.begun = False
        """Whether the watch has been under way once."""

    @property
    def dead(self) -> bool:
        """Whether the watch has been silent for too long to be trusted."""
        return time.monotonic() - self._heard > _DEAD * self._settings.watch_seconds

    def __str__(self) -> str:
        return PLURAL

    async def run(self) -> None:
        """Watch until cancelled. Raises what kopf ends with.

        kopf has a thread and a loop of its own: at its end it stops every task that it finds on its loop.
        """
        self._loop = asyncio.get_running_loop()
        stop = threading.Event()
        ended = self._loop.create_future()

        def in_thread() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._operate(stop))
            except BaseException as raised:  # whatever it is: it is raised where it is awaited
                error = raised
            self._loop.call_soon_threadsafe(_end, ended, error)

        thread = threading.Thread(target=in_thread, name="kopf", daemon=True)
        thread.start()
        try:
            await asyncio.shield(ended)
        finally:
            stop.set()

    async def _operate(self, stop: threading.Event) -> None:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self._seen)
        namespaces = self._settings.namespaces
        await kopf.operator(
            registry=registry,
            settings=self._kopf_settings(),
            # kopf's own names the user, and a container's user has no name.
            identity=cast("Any", self._settings.identity),
            standalone=True,  # the Lease decides which of several operators writes
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
        )

    def _kopf_settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True  # the CRD is there before this begins, and namespaces have names
        settings.networking.error_backoffs = _Backoffs()
        seconds = self._settings.watch_seconds
        settings.watching.server_timeout = seconds
        settings.watching.client_timeout = seconds + _MARGIN
        settings.watching.inactivity_timeout = seconds + _MARGIN
        settings.watching.reconnect_backoff = 0.1
        return settings

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=self._client.server, aiohttp_session=self._client.session(self._listen))

    async def _listen(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Count an accepted watch request as a sign of life: there is one per watch interval."""
        response = await handler(request)
        if request.url.query.get("watch") == "true" and request.url.name == PLURAL and response.status == 200:
            self._heard = time.monotonic()
            self.begun = True
        return response

    async def _seen(self, event: kopf.RawEvent, **_: Any) -> None:
        self._loop.call_soon_threadsafe(self._take, dict(event["object"]), event["type"] == "DELETED")

    def _take(self, one: Manifest, gone: bool) -> None:
        self._on_change(self._gateways.update(one, gone=gone))


def _end(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if ended.done():
        return
    if error is None or isinstance(error, asyncio.CancelledError):
        ended.set_result(None)
    else:
        ended.set_exception(error)
