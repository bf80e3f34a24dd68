"""The operator's composition root: starts and stops everything in the right order.

The informers have synced before the first resource is reconciled, and writing ends before the Lease is released.
"""

import asyncio
import logging
import signal
from collections.abc import Coroutine, Iterator

import aiohttp

from podpair.operator.config.settings import Settings
from podpair.operator.controller.applier import Applier
from podpair.operator.controller.controller import Controller
from podpair.operator.controller.credential_copy import CredentialCopies
from podpair.operator.controller.deletion_costs import DeletionCosts
from podpair.operator.controller.dependencies import Cluster, DependencyResolver, Installation
from podpair.operator.controller.finalizer import Finalizer
from podpair.operator.controller.gateway_store import GatewayStore
from podpair.operator.controller.gateway_watch import GatewayWatch
from podpair.operator.controller.load_monitor import LoadMonitor
from podpair.operator.controller.reconciler import Reconciler, Reporting
from podpair.operator.controller.topic_supervisor import TopicManager, TopicSupervisor
from podpair.operator.controller.workqueue import WorkQueue
from podpair.operator.core.api.igw import GROUP, PLURAL, VERSION
from podpair.operator.core.api_service import Place
from podpair.operator.core.builders.naming import GATEWAY_LABEL, Manifest
from podpair.operator.core.external_api_state import ExternalApiState
from podpair.operator.health import HealthServer
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.events import EventPoster
from podpair.operator.kube.informer import Informer, Informers
from podpair.operator.kube.kinds import GATEWAY, Resource
from podpair.operator.kube.leader_election import Candidacy, LeaderElector
from podpair.operator.kube.reference_informers import ReferenceInformers
from podpair.operator.metrics import Metrics
from podpair.operator.metrics_api.registration import ExternalMetricsApi, Registration
from podpair.operator.metrics_api.server import MetricsServer
from podpair.operator.scraping.scraper import Scraper

_log = logging.getLogger(__name__)
_CRD_SECONDS = 5.0
_FINISHING = 10.0  # seconds that work under way may take when the operator stops


class Service:
    """One operator. `run` until SIGTERM."""

    def __init__(self, settings: Settings, topics: TopicManager, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._client = client = Client(metrics)
        self._queue = queue = WorkQueue(metrics)
        self._gateways = gateways = GatewayStore(client, settings.namespaces)
        seconds = settings.watch_seconds
        self._informers = Informers(client, settings.namespaces, self._on_object_changed, self._enqueue_all, seconds)
        self._references = ReferenceInformers(client, queue.add, seconds)
        self._applier = applier = Applier(client, self._informers, metrics)
        self._supervisor = supervisor = TopicSupervisor(topics, settings.kafka_seconds, queue.add)
        cluster = Cluster(client, self._informers, self._references, applier)
        installation = Installation(settings.gateway_image, settings.namespace, settings.policy)
        resolver = DependencyResolver(cluster, installation)
        events = EventPoster(client, settings.identity)
        copies = CredentialCopies(client, self._informers)
        finalizer = Finalizer(client, applier, supervisor, resolver, copies, events)
        scraper, scrape_seconds = Scraper(), settings.scrape_seconds
        self._load = load = LoadMonitor(scraper, gateways, self._informers, supervisor.state, scrape_seconds, queue.add)
        self._costs = DeletionCosts(client, gateways, self._informers, scraper.loads, scrape_seconds, metrics)
        self._metrics_api = self._external_metrics(load)
        reporting = Reporting(load.state, self._external_state, events)
        reconciler = Reconciler(cluster, gateways, resolver, supervisor, finalizer, reporting)
        self._controller = Controller(queue, reconciler, metrics, settings.workers)
        lease, owner = settings.lease, settings.metrics_api.owner
        candidacy = Candidacy(settings.namespace, lease.name, settings.identity, lease.duration_seconds, owner)
        self._elector = LeaderElector(client, metrics, candidacy, self._on_leading_changed)
        client.fence = self._elector.fence
        self._watch = GatewayWatch(settings, client, gateways, queue.add)
        self._health = HealthServer(metrics, self._unhealthy, self._unready)
        self._tasks: list[asyncio.Task[None]] = []

    def _external_metrics(self, load: LoadMonitor) -> ExternalMetricsApi:
        wanted = self._settings.metrics_api
        place = Place(self._settings.namespace, wanted.service)
        return ExternalMetricsApi(
            self._client,
            MetricsServer(wanted.host, wanted.port, load.values, self._metrics),
            Registration(place, wanted.secret, wanted.enabled, wanted.owner, wanted.client_ca),
            leading=lambda: self._elector.leading,
            on_change=self._enqueue_all,
        )

    def _external_state(self) -> ExternalApiState:
        return self._metrics_api.state

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises what can't be mended by waiting."""
        settings = self._settings
        await self._client.start()
        await self._health.start(settings.http.host, settings.http.port)
        _log.info("started", extra={"address": self._health.url, "server": self._client.server})
        try:
            await self._await_crd()
            for informer in self._informers.all():
                self._start(informer.run(), f"watch of {informer}")
            self._start(self._resync(), "resync")
            self._start(self._begin(), "workers")
            self._start(self._count_watches(), "watches")
            self._start(self._load.run(), "load")
            self._start(self._costs.run(), "deletion costs")
            if settings.metrics_api.enabled != "never":
                self._start(self._metrics_api.run(), "metrics API")
            self._start(self._watch.run(), "kopf")
            asked = asyncio.create_task(self._stop_signal(), name="signals")
            done, _ = await asyncio.wait([asked, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._stop()

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _stop_signal(self) -> None:
        asked = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        await asked.wait()

    async def _await_crd(self) -> None:
        """Wait for the CRD, which is a chart of its own and may come later."""
        warned = False
        while True:
            try:
                if await self._client.get(f"/apis/{GROUP}/{VERSION}") is not None:
                    return
                if not warned:
                    _log.warning("the cluster does not know %s: install the chart podpair-crds", PLURAL)
                    warned = True
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                _log.warning("the API server can't be asked: %s", error or type(error).__name__)
            await asyncio.sleep(_CRD_SECONDS)

    async def _begin(self) -> None:
        """After all informers have synced: start leader election and workers."""
        for informer in self._informers.all():
            await informer.synced.wait()
        await self._gateways.listed.wait()
        _log.info("ready")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._elector.run(), name="lease")
            group.create_task(self._controller.run(), name="workers")

    async def _resync(self) -> None:
        """Queue every resource from time to time, whatever the watches saw."""
        while True:
            try:
                for key in await self._gateways.relist():
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

    def _on_object_changed(self, resource: Resource, one: Manifest) -> None:
        self._applier.observe(one)
        metadata = one["metadata"]
        name = (metadata.get("labels") or {}).get(GATEWAY_LABEL)
        if name is not None:
            self._queue.add((metadata["namespace"], name))

    def _enqueue_all(self) -> None:
        for key in self._gateways.all_keys():
            self._queue.add(key)

    def _on_leading_changed(self, leading: bool) -> None:
        self._controller.set_leading(leading)
        if leading:
            self._enqueue_all()
        else:
            self._supervisor.stop_all()

    def _watches(self) -> list[Informer | GatewayWatch]:
        return [self._watch, *self._informers.all(), *self._references.all()]

    def _unhealthy(self) -> Iterator[str]:
        for one in self._watches():
            if one.dead:
                yield f"the watch of {one} has been silent for too long"

    def _unready(self) -> Iterator[str]:
        for informer in self._informers.all():
            if not informer.synced.is_set():
                yield f"{informer} are not known yet"
        if not self._gateways.listed.is_set() or not self._watch.begun:
            yield f"{GATEWAY.plural} are not known yet"

    async def _stop(self) -> None:
        """Stop in order: writing ends before the Lease is released, which is the last thing that the workers' task does."""
        self._controller.set_leading(False)
        self._supervisor.stop_all()
        for task in reversed(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FINISHING)
        self._references.stop()
        await self._supervisor.close()
        await self._health.stop()
        await self._client.stop()
        _log.info("stopped")
