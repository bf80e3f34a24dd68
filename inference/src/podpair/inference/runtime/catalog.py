"""The models that are served: found by name and version, loaded, exchanged and let go while requests run.

A request holds its version (`using`) from before its body is read until its answer is complete. A version that is exchanged
takes no new requests, and ends when nobody holds it any more: no request notices.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from podpair.inference.core.choosing import VersionChoice, Weights, faults_of_weights, shares
from podpair.inference.core.errors import FaultsError, LoadError, NotFoundError, UnavailableError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.core.traces import Trace
from podpair.inference.core.v2 import RequestDecoder
from podpair.inference.metrics import Metrics, ModelMetrics
from podpair.inference.runtime.cpu import available_cores, preparing_threads
from podpair.inference.runtime.loading import Load, Loaded, close_all, load_each, load_models, load_runtime
from podpair.inference.runtime.preparing import Preparing
from podpair.inference.runtime.protocol import Down, Restarting, Runtime, Streaming
from podpair.inference.runtime.repository import ModelFolder, survey
from podpair.inference.runtime.scheduler import Entry, Scheduler
from podpair.inference.runtime.streams import Streams

log = logging.getLogger(__name__)

# How long a version that was exchanged may go on with what it had taken, in seconds.
RETIRE_SECONDS = 60.0


class Source(Protocol):
    """Where models are loaded from."""

    def read(self) -> list[ModelFolder]:
        """All of them. Raises FaultsError."""
        ...

    def find(self, name: str) -> ModelFolder:
        """One as it lies there now. Raises FaultsError or NotFoundError."""
        ...

    def names(self) -> list[str]:
        """Those that could be loaded."""
        ...

    def states(self) -> dict[str, str]:
        """Those that may change, and how their files look."""
        ...


@dataclass(slots=True, eq=False)
class ServedVersion:
    """One version of a model, ready to answer."""

    model: str
    version: str
    runtime: Runtime
    signature: Signature
    # Reads requests to it.
    decode: RequestDecoder
    scheduler: Entry
    metrics: ModelMetrics
    # Where the model can answer in parts.
    streams: Streams | None
    # The stage before the scheduler, where the model takes images.
    preparing: Preparing | None = None
    # Why it can't answer for the time being, where its process has ended and is started again.
    down: str | None = None
    # Requests that hold it.
    users: int = 0
    # Set while there is none.
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    async def parts(
        self,
        arrays: Sequence[Array],
        parameters: Mapping[str, Any],
        deadline: float | None,
        trace: Trace | None = None,
    ) -> AsyncGenerator[list[Array], None]:
        """The answer to one row in parts; the whole answer as the only one where the model doesn't stream."""
        if self.streams is None:
            yield await self.scheduler.submit(arrays, deadline, parameters, trace)
            return
        if self.preparing is not None:
            arrays = await self.preparing.prepared(arrays, deadline, trace)
        async with aclosing(self.streams.parts(arrays, parameters, deadline, trace)) as parts:
            async for part in parts:
                yield part


@dataclass(slots=True)
class ServedModel:
    """A model and its versions, ascending."""

    name: str
    config: ModelConfig
    # Version → weight, of those that answer requests which name none.
    weights: dict[str, float]
    choice: VersionChoice
    versions: dict[str, ServedVersion]


class Catalog:
    """Everything that is served. `ready` from the end of the warm-up to the beginning of the stop."""

    def __init__(
        self,
        source: Source,
        metrics: Metrics,
        load: Load = load_runtime,
        weights: Weights | None = None,
        prepare_threads: int | None = None,
        exit_on_error: bool = False,
    ) -> None:
        self._source = source
        self._metrics = metrics
        self._load = load
        # As set from outside; a model that isn't in it goes by its own model.yaml.
        self._weights: Weights = weights or {}
        # Threads that pre-process, of all models together; made when the first model needs them.
        self._prepare_threads = prepare_threads
        self._exit_on_error = exit_on_error
        self._threads: ThreadPoolExecutor | None = None
        self._models: dict[str, ServedModel] = {}
        # Model → why it isn't served now.
        self._absent: dict[str, str] = dict.fromkeys(source.names(), "it is being loaded")
        # Loads and unloads of one model wait for each other.
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._retiring: set[asyncio.Task[None]] = set()
        self.ready = False
        self.stopping = False

    @property
    def models(self) -> list[ServedModel]:
        """Those that are served, by name."""
        return [self._models[name] for name in sorted(self._models)]

    async def start(self) -> list[str]:
        """Load and warm up every version of every model; the names of those that can't be loaded, whose faults are logged.

        FaultsError with all that is wrong where none can be loaded, or to be strict one.
        """
        folders, faults = survey(self._source, self._exit_on_error)
        for folder in folders:
            try:
                self._check_weights({folder.name: folder.versions})
            except FaultsError as error:
                faults[folder.name] = error.faults
        folders = [folder for folder in folders if folder.name not in faults]
        loaded, unloadable = await asyncio.to_thread(load_each, folders, self._load)
        faults |= unloadable
        if faults and (self._exit_on_error or not loaded):
            close_all(loaded)
            raise FaultsError(list(dict.fromkeys(fault for found in faults.values() for fault in found)))
        for folder in folders:
            if folder.name in loaded:
                self._serve(folder, loaded[folder.name])
        for name, found in faults.items():
            self._leave_out(name, "; ".join(found))
            log.error("a model can't be served, the others are", extra={"model": name, "faults": found})
        self.ready = not self.stopping
        return list(faults)

    async def stop(self, seconds: float) -> None:
        """Take nothing new, and wait up to `seconds` for what was taken."""
        self.stopping, self.ready = True, False
        await asyncio.gather(*(_finish(model, seconds) for model in self._models.values()))
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def load(self, name: str, state: str | None = None) -> None:
        """Load a model as it lies there now; where it is served already, exchange it. What fails leaves all as it was.

        state: how its files look; they must look so still when they have been loaded.
        Raises LoadError with all that is wrong, NotFoundError or UnavailableError.
        """
        async with self._changing(name):
            try:
                folder = await asyncio.to_thread(self._source.find, name)
                self._check_weights({name: folder.versions})
                loaded = await asyncio.to_thread(load_models, [folder], self._load)
                if state is not None and state != (await asyncio.to_thread(self._source.states)).get(name):
                    close_all(loaded)
                    raise FaultsError([f"{folder.path}: its files changed while they were loaded"])
            except FaultsError as error:
                if name not in self._models:
                    self._leave_out(name, "; ".join(error.faults))
                raise LoadError(f"model {name} can't be loaded: {'; '.join(error.faults)}") from None
            before = self._models.get(name)
            self._serve(folder, loaded[name])
            log.info("model loaded", extra={"model": name, "versions": list(self._models[name].versions)})
            if before is not None:
                self._retire(before)

    async def unload(self, name: str) -> None:
        """Serve a model no longer. Raises NotFoundError."""
        async with self._changing(name):
            model = self.model(name)
            del self._models[name]
            self._leave_out(name, "it was unloaded")
            log.info("model unloaded", extra={"model": name})
            self._retire(model)

    def reweigh(self, weights: Weights) -> None:
        """Versions have these weights from now on. Raises FaultsError with all that is wrong, and changes nothing then."""
        before, self._weights = self._weights, weights
        try:
            self._check_weights({name: [*map(int, model.versions)] for name, model in self._models.items()})
        except FaultsError:
            self._weights = before
            raise
        for name, model in self._models.items():
            given = self._shares(name, model.config, model.versions)
            if given != model.weights:
                model.weights, model.choice = given, VersionChoice(given)
                log.info("weights changed", extra={"model": name, "weights": given})

    def index(self) -> list[dict[str, Any]]:
        """The repository as V2's index tells it: served versions, then models that aren't, and why."""
        served = [
            {"name": model.name, "version": version, "state": self._state(served), "reason": served.down or ""}
            for model in self.models
            for version, served in model.versions.items()
        ]
        names = (set(self._source.names()) | set(self._absent)) - set(self._models)
        absent = {name: self._absent.get(name, "it was never loaded") for name in sorted(names)}
        return served + [
            {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason} for name, reason in absent.items()
        ]

    def model(self, name: str) -> ServedModel:
        """The model of that name; NotFoundError, or UnavailableError while nothing is loaded yet."""
        model = self._models.get(name)
        if model is not None:
            return model
        reason = self._absent.get(name)
        if reason is not None and not self.ready:
            raise UnavailableError(f"model {name} is being loaded")
        if reason is not None:
            raise NotFoundError(f"model {name} is not served: {reason}")
        raise NotFoundError(f"no model {name!r}; there are {', '.join(m.name for m in self.models) or 'none'}")

    def version(self, name: str, version: str | None, key: str | None = None) -> ServedVersion:
        """A version of a model; where none is named, by their weights, for a key always the same. Raises NotFoundError."""
        model = self.model(name)
        served = model.versions.get(version or model.choice.choose(key))
        if served is None:
            raise NotFoundError(f"model {name} has no version {version!r}; there are {', '.join(model.versions)}")
        return served

    def described(self, name: str, version: str | None) -> tuple[ServedModel, ServedVersion]:
        """A model, and the version that is named or else describes it. Raises NotFoundError or UnavailableError."""
        model = self.model(name)
        return model, self.version(name, version or model.choice.default)

    def take(self, name: str, version: str | None, key: str | None = None) -> ServedVersion:
        """As `version`, held until `release`; only while requests are taken, else UnavailableError."""
        if self.stopping:
            raise UnavailableError("the container is stopping")
        served = self.version(name, version, key)
        if not self.ready:
            raise UnavailableError("the container is not ready yet")
        if served.down is not None:
            raise UnavailableError(f"model {name} is not ready: {served.down}; it is being started again")
        if not served.users:
            served.unused.clear()
        served.users += 1
        return served

    def release(self, served: ServedVersion) -> None:
        """Let go of what was taken."""
        served.users -= 1
        if not served.users:
            served.unused.set()

    @contextmanager
    def using(self, name: str, version: str | None, key: str | None = None) -> Iterator[ServedVersion]:
        """As `take`, for as long as the `with` lasts."""
        served = self.take(name, version, key)
        try:
            yield served
        finally:
            self.release(served)

    def absence(self, name: str) -> str | None:
        """Why a model that is known isn't served; None: it is, or nobody knows it."""
        return None if name in self._models else self._absent.get(name)

    def _state(self, served: ServedVersion) -> str:
        if served.down is not None:
            return "UNAVAILABLE"
        return "READY" if self.ready else "LOADING"

    def _watch(self, served: ServedVersion, runtime: Restarting) -> None:
        """Follow a version that goes down and comes back by itself."""
        loop = asyncio.get_running_loop()

        def tell(down: Down | None) -> None:
            # The loop may be gone after a stop that didn't wait.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._changed, served, down)

        runtime.watch(tell)

    def _changed(self, served: ServedVersion, down: Down | None) -> None:
        if down is not None:
            self._metrics.worker_restarts.labels(served.model, down.how).inc()
        served.down = down.reason if down else None
        model = self._models.get(served.model)
        if model is not None and model.versions.get(served.version) is served:
            ready = all(version.down is None for version in model.versions.values())
            self._metrics.model_ready.labels(served.model).set(int(ready))

    def _leave_out(self, name: str, reason: str) -> None:
        self._absent[name] = reason
        self._metrics.model_ready.labels(name).set(0)

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator[None]:
        """One change of a model after the other, and none before the start or after the stop."""
        async with self._locks[name]:
            if self.stopping or not self.ready:
                raise UnavailableError(f"the container is {'stopping' if self.stopping else 'not ready yet'}")
            yield

    def _serve(self, folder: ModelFolder, loaded: dict[str, Loaded]) -> None:
        name = folder.name
        metrics = self._metrics.of(name)
        versions = {}
        for version, found in loaded.items():
            scheduler = Scheduler(name, found.runtime, found.signature, folder.config, metrics, found.times)
            preparing = self._preparing(scheduler, folder, found) if found.decoders else None
            streams = None
            if isinstance(found.runtime, Streaming) and found.runtime.streams:
                streams = Streams(name, found.runtime, found.signature, folder.config.runtime.max_streams)
            versions[version] = ServedVersion(
                name,
                version,
                found.runtime,
                found.signature,
                RequestDecoder(found.signature),
                preparing or scheduler,
                metrics,
                streams,
                preparing,
            )
            versions[version].unused.set()
            if isinstance(found.runtime, Restarting):
                self._watch(versions[version], found.runtime)
        weights = self._shares(name, folder.config, versions)
        for gauge, what in (
            (metrics.queue_depth, "depth"),
            (metrics.depths["queue"], "depth"),
            (metrics.running, "running"),
            (metrics.depths["runtime"], "running"),
        ):
            gauge.set_function(partial(self._sum, name, what))
        metrics.open_streams.set_function(partial(self._streaming, name))
        self._models[name] = ServedModel(name, folder.config, weights, VersionChoice(weights), versions)
        self._absent.pop(name, None)
        self._metrics.model_ready.labels(name).set(1)

    def _preparing(self, scheduler: Scheduler, folder: ModelFolder, found: Loaded) -> Preparing:
        if self._threads is None:
            count = self._prepare_threads or preparing_threads(available_cores())
            self._threads = ThreadPoolExecutor(count, thread_name_prefix="prepare")
        metrics = self._metrics.stage(folder.name, "preprocess")
        metrics.queue_depth.set_function(partial(self._waiting, folder.name))
        size = folder.config.batching.queue_size
        return Preparing(scheduler, found.signature, found.decoders, size, self._threads, metrics)

    def _shares(self, name: str, config: ModelConfig, versions: Mapping[str, object]) -> dict[str, float]:
        return shares(config, [*map(int, versions)], self._weights.get(name))

    def _check_weights(self, models: Mapping[str, Collection[int]]) -> None:
        """Raise FaultsError where the weights from outside name versions that these models don't have."""
        faults = faults_of_weights(self._weights, models, all_there=False)
        if faults:
            raise FaultsError(faults)

    def _waiting(self, name: str) -> int:
        model = self._models.get(name)
        return sum(v.preparing.waiting for v in model.versions.values() if v.preparing) if model else 0

    def _streaming(self, name: str) -> int:
        model = self._models.get(name)
        return sum(v.streams.open for v in model.versions.values() if v.streams) if model else 0

    def _sum(self, name: str, what: str) -> int:
        model = self._models.get(name)
        return sum(getattr(served.scheduler, what) for served in model.versions.values()) if model else 0

    def _retire(self, model: ServedModel) -> None:
        task = asyncio.create_task(_finish(model, RETIRE_SECONDS))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


async def _finish(model: ServedModel, seconds: float) -> None:
    """Wait until nobody holds any version, at most so long; then end what is left, and let go of the runtimes."""

    async def finish(served: ServedVersion) -> None:
        end = time.monotonic() + seconds
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(served.unused.wait(), seconds)
            await served.scheduler.drain(max(0.0, end - time.monotonic()))
        finally:
            await asyncio.to_thread(served.runtime.close)

    await asyncio.gather(*map(finish, model.versions.values()))
