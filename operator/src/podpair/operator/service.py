"""The operator, put together: started and stopped in the right order.

The caches are full before the first resource is looked at, and writing ends before the Lease is let go.
"""

import asyncio
import logging
import signal
from collections.abc import Coroutine, Iterator

import aiohttp

from podpair.operator.config.settings import Settings
from podpair.operator.core.api_service import Place
from podpair.operator.core.external_api_state import ExternalApiSeen
from podpair.operator.core.objects.naming import GATEWAY_LABEL, Manifest
from podpair.operator.core.resource.igw import GROUP, PLURAL, VERSION
from podpair.operator.health import HealthServer
from podpair.operator.kube.caches import Cache, Caches
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.events import EventPoster
from podpair.operator.kube.kinds import GATEWAY, Resource
from podpair.operator.kube.leading import Leadership
from podpair.operator.kube.references import References
from podpair.operator.metrics import Metrics
from podpair.operator.metrics_api.keeping import ExternalMetricsApi
from podpair.operator.metrics_api.server import MetricsServer
from podpair.operator.reconciling.applying import Applier
from podpair.operator.reconciling.brokers import Brokers, TopicKeeper
from podpair.operator.reconciling.credential_copy import CredentialCopies
from podpair.operator.reconciling.finishing import Finisher
from podpair.operator.reconciling.gateways import Gateways
from podpair.operator.reconciling.handlers import GatewayWatch
from podpair.operator.reconciling.load import Load
from podpair.operator.reconciling.loop import Loop
from podpair.operator.reconciling.queue import WorkQueue
from podpair.operator.reconciling.step import Step
from podpair.operator.reconciling.surroundings import SurroundingsReader
from podpair.operator.scraping.scraper import Scraper

_log = logging.getLogger(__name__)
_CRD_SECONDS = 5.0
_FINISHING = 10.0  # seconds that work under way may take when the operator stops


class Service:
    """One operator. `run` until SIGTERM."""

    def __init__(self, settings: Settings, topics: TopicKeeper, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._client = client = Client(metrics)
        self._queue = queue = WorkQueue(metrics)
        self._gateways = gateways = Gateways(client, settings.namespaces)
        seconds = settings.watch_seconds
        self._caches = Caches(client, settings.namespaces, self._changed, self._look_at_all, seconds)
        self._references = References(client, queue.add, seconds)
        self._applier = applier = Applier(client, self._caches, metrics)
        self._brokers = brokers = Brokers(topics, settings.kafka_seconds, queue.add)
        image, namespace = settings.gateway_image, settings.namespace
        reader = SurroundingsReader(client, self._caches, self._references, applier, image, namespace, settings.policy)
        events = EventPoster(client, settings.identity)
        copies = CredentialCopies(client, self._caches)
        finisher = Finisher(client, applier, brokers, reader, copies, events)
        self._load = load = Load(Scraper(), gateways, self._caches, brokers.seen, settings.scrape_seconds, queue.add)
        self._metrics_api = self._external_metrics(load)
        step = Step(client, gateways, applier, reader, brokers, load.seen, self._external_state, finisher, events)
        self._loop = Loop(queue, step, metrics, settings.workers)
        self._leadership = Leadership(
            client,
            metrics,
            settings.namespace,
            settings.lease.name,
            settings.identity,
            settings.lease.duration_seconds,
            self._led,
        )
        client.fence = self._leadership.fence
        self._watch = GatewayWatch(settings, client, gateways, queue.add)
        self._health = HealthServer(metrics, self._unhealthy, self._unready)
        self._tasks: list[asyncio.Task[None]] = []

    def _external_metrics(self, load: Load) -> ExternalMetricsApi:
        wanted = self._settings.metrics_api
        return ExternalMetricsApi(
            self._client,
            MetricsServer(wanted.host, wanted.port, load.source, self._metrics),
            Place(self._settings.namespace, wanted.service),
            wanted.secret,
            enabled=wanted.enabled,
            owner=wanted.owner,
            client_ca=wanted.client_ca,
            leading=lambda: self._leadership.leading,
            on_change=self._look_at_all,
        )

    def _external_state(self) -> ExternalApiSeen:
        return self._metrics_api.state

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises what can't be mended by waiting."""
        settings = self._settings
        await self._client.start()
        await self._health.start(settings.http.host, settings.http.port)
        _log.info("started", extra={"address": self._health.url, "server": self._client.server})
        try:
            await self._await_crd()
            for cache in self._caches.all():
                self._start(cache.run(), f"watch of {cache}")
            self._start(self._resync(), "resync")
            self._start(self._begin(), "workers")
            self._start(self._count_watches(), "watches")
            self._start(self._load.run(), "load")
            if settings.metrics_api.enabled != "never":
                self._start(self._metrics_api.run(), "metrics API")
            self._start(self._watch.run(), "kopf")
            asked = asyncio.create_task(self._asked_to_stop(), name="signals")
            done, _ = await asyncio.wait([asked, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._stop()

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _asked_to_stop(self) -> None:
        asked = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        await asked.wait()

    async def _await_crd(self) -> None:
        """The CRD is a chart of its own, and may come later."""
        told = False
        while True:
            try:
                if await self._client.get(f"/apis/{GROUP}/{VERSION}") is not None:
                    return
                if not told:
                    _log.warning("the cluster does not know %s: install the chart podpair-crds", PLURAL)
                    told = True
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                _log.warning("the API server can't be asked: %s", error or type(error).__name__)
            await asyncio.sleep(_CRD_SECONDS)

    async def _begin(self) -> None:
        """Once all that is known is known: lead, and work."""
        for cache in self._caches.all():
            await cache.synced.wait()
        await self._gateways.listed.wait()
        _log.info("ready")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._leadership.run(), name="lease")
            group.create_task(self._loop.run(), name="workers")

    async def _resync(self) -> None:
        """Look at every resource now and then, whatever the watches told."""
        while True:
            try:
                for key in await self._gateways.list():
                    self._queue.add(key)
                wait = self._settings.resync_seconds
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                _log.warning("resources can't be listed: %s", error or type(error).__name__)
                wait = min(_CRD_SECONDS, self._settings.resync_seconds)
            await asyncio.sleep(wait)

    async def _count_watches(self) -> None:
        while True:
            watches = self._watches()
            dead = sum(one.dead for one in watches)
            self._metrics.watches.labels("alive").set(len(watches) - dead)
            self._metrics.watches.labels("dead").set(dead)
            await asyncio.sleep(1)

    def _changed(self, resource: Resource, one: Manifest) -> None:
        self._applier.saw(one)
        metadata = one["metadata"]
        name = (metadata.get("labels") or {}).get(GATEWAY_LABEL)
        if name is not None:
            self._queue.add((metadata["namespace"], name))

    def _look_at_all(self) -> None:
        for key in self._gateways.all():
            self._queue.add(key)

    def _led(self, leading: bool) -> None:
        self._loop.lead(leading)
        if leading:
            self._look_at_all()
        else:
            self._brokers.stop_all()

    def _watches(self) -> list[Cache | GatewayWatch]:
        return [self._watch, *self._caches.all(), *self._references.all()]

    def _unhealthy(self) -> Iterator[str]:
        for one in self._watches():
            if one.dead:
                yield f"the watch of {one} has been silent for too long"

    def _unready(self) -> Iterator[str]:
        for cache in self._caches.all():
            if not cache.synced.is_set():
                yield f"{cache} are not known yet"
        if not self._gateways.listed.is_set() or not self._watch.begun:
            yield f"{GATEWAY.plural} are not known yet"

    async def _stop(self) -> None:
        """Writing ends before the Lease is let go, which is the last thing that the workers' task does."""
        self._loop.lead(False)
        self._brokers.stop_all()
        for task in reversed(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FINISHING)
        self._references.stop()
        await self._brokers.close()
        await self._health.stop()
        await self._client.stop()
        _log.info("stopped")
