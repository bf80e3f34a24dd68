"""The models that are served: found by name and version, loaded, replaced and unloaded while requests run.

A request holds its version (`using`) from before its body is decoded until its answer is complete. A version that is replaced
accepts no new requests, and is closed when no request holds it any more: no request notices.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import LoadError, NotFoundError, UnavailableError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.traffic_split import TrafficSplit, Weights, version_weights, weight_faults
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.load_turns import LoadTurns
from podpair.inference.runtime.loader import LoadedVersion, LoadRuntime, close_all, load_each, load_models, load_runtime
from podpair.inference.runtime.protocol import Down, Restarting, SelfChecking
from podpair.inference.runtime.ready_method import first_answer, log_change, poll
from podpair.inference.runtime.repository import ModelFolder, ModelSource, survey
from podpair.inference.runtime.served_model import ServedModel, ServedVersion
from podpair.inference.runtime.version_factory import VersionFactory

log = logging.getLogger(__name__)

# How long a version that was replaced may go on with its requests, in seconds.
RETIRE_SECONDS = 60.0


class Catalog:
    """All models. `ready` from the end of the warm-up to the beginning of the shutdown."""

    def __init__(
        self,
        source: ModelSource,
        metrics: Metrics,
        load: LoadRuntime = load_runtime,
        weights: Weights | None = None,
        prepare_threads: int | None = None,
        exit_on_error: bool = False,
    ) -> None:
        self._source = source
        self._metrics = metrics
        self._load = load
        # Set from outside; a model that isn't in it uses its own model.yaml.
        self._weights: Weights = weights or {}
        self._factory = VersionFactory(metrics, prepare_threads)
        self._exit_on_error = exit_on_error
        # Those that are still to be loaded at the start.
        self._turns = LoadTurns(source.names())
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
        """The served models, by name."""
        return [self._models[name] for name in sorted(self._models)]

    async def start(self) -> dict[str, list[str]]:
        """Load and warm up every version of every model. Return the models that can't be loaded, each with its faults.

        Raises FaultsError with all faults if no model can be loaded, or with `exit_on_error` if one can't.
        """
        folders, faults = survey(self._source, self._exit_on_error)
        for folder in folders:
            try:
                self._check_weights({folder.name: folder.versions})
            except FaultsError as error:
                faults[folder.name] = error.faults
        folders = [folder for folder in folders if folder.name not in faults]
        for name, found in faults.items():
            self._mark_absent(name, "; ".join(found))
        faults |= await self._load_all(folders)
        if faults and (self._exit_on_error or not self._models):
            await asyncio.gather(*(model.retire(0) for model in self._models.values()))
            self._models.clear()
            raise FaultsError(list(dict.fromkeys(fault for found in faults.values() for fault in found)))
        self.ready = not self.stopping
        return faults

    async def stop(self, seconds: float) -> None:
        """Accept no more requests, and wait up to `seconds` for those that were accepted."""
        self.stopping, self.ready = True, False
        end = time.monotonic() + seconds
        # None is closed before all are unused: a model that is at work may call another.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while used := [v for model in self._models.values() for v in model.versions.values() if v.users]:
                    await asyncio.gather(*(version.unused.wait() for version in used))
        left = max(0.0, end - time.monotonic())
        await asyncio.gather(*(model.retire(left) for model in self._models.values()))
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        self._factory.close()

    async def load(self, name: str, state: str | None = None) -> None:
        """Load or replace a model from its current files. A failure changes nothing.

        state: a fingerprint of its files, which must be the same after they have been loaded.
        Raises LoadError with all faults, NotFoundError or UnavailableError.
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
                    self._mark_absent(name, "; ".join(error.faults))
                raise LoadError(f"model {name} can't be loaded: {'; '.join(error.faults)}") from None
            answers = await _first_answers(folder, loaded[name])
            before = self._models.get(name)
            self._serve(folder, loaded[name], answers)
            log.info("model loaded", extra={"model": name, "versions": list(self._models[name].versions)})
            if before is not None:
                self._retire(before)

    async def unload(self, name: str) -> None:
        """Unload a model. Raises NotFoundError."""
        async with self._changing(name):
            model = self.model(name)
            del self._models[name]
            self._mark_absent(name, "it was unloaded")
            log.info("model unloaded", extra={"model": name})
            self._retire(model)

    def set_weights(self, weights: Weights) -> None:
        """Set the weights of versions. Raises FaultsError with all faults, and changes nothing then."""
        before, self._weights = self._weights, weights
        try:
            self._check_weights({name: [*map(int, model.versions)] for name, model in self._models.items()})
        except FaultsError:
            self._weights = before
            raise
        for name, model in self._models.items():
            given = self._weights_of(name, model.config, model.versions)
            if given != model.weights:
                model.weights, model.split = given, TrafficSplit(given)
                log.info("weights changed", extra={"model": name, "weights": given})

    def index(self) -> list[dict[str, Any]]:
        """Return V2's repository index: served versions, then models that aren't served, and why."""
        served = [
            {
                "name": model.name,
                "version": version,
                "state": self._state(served),
                "reason": served.down or served.unready or "",
            }
            for model in self.models
            for version, served in model.versions.items()
        ]
        names = (set(self._source.names()) | set(self._absent)) - set(self._models)
        absent = {name: self._absent.get(name, "it was never loaded") for name in sorted(names)}
        return served + [
            {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason} for name, reason in absent.items()
        ]

    def model(self, name: str) -> ServedModel:
        """Return the model of that name. Raises NotFoundError, or UnavailableError while it is still to be loaded."""
        model = self._models.get(name)
        if model is not None:
            return model
        reason = self._absent.get(name)
        if name in self._turns:
            raise UnavailableError(f"model {name} is being loaded")
        if reason is not None:
            raise NotFoundError(f"model {name} is not served: {reason}")
        raise NotFoundError(f"no model {name!r}; there are {', '.join(m.name for m in self.models) or 'none'}")

    def version(self, name: str, version: str | None, key: str | None = None) -> ServedVersion:
        """Return a version of a model; if none is named, by weight, always the same for a key. Raises NotFoundError."""
        model = self.model(name)
        served = model.versions.get(version or model.split.choose(key))
        if served is None:
            raise NotFoundError(f"model {name} has no version {version!r}; there are {', '.join(model.versions)}")
        return served

    def described(self, name: str, version: str | None) -> tuple[ServedModel, ServedVersion]:
        """Return a model, and the version that is named or else describes it. Raises NotFoundError or UnavailableError."""
        model = self.model(name)
        return model, self.version(name, version or model.split.default)

    def acquire(
        self, name: str, version: str | None, key: str | None = None, *, from_model: bool = False
    ) -> ServedVersion:
        """Find a version as `version` does, and hold it until `release`. Raises UnavailableError unless requests are accepted.

        from_model: another model needs it, for a request that was accepted, or to be loaded.
        """
        if self.stopping and not from_model:
            raise UnavailableError("the container is stopping")
        served = self.version(name, version, key)
        if not (self.ready or from_model):
            raise UnavailableError("the container is not ready yet")
        if (why := served.why_not_ready) is not None:
            raise UnavailableError(f"model {name} is not ready: {why}")
        if not served.users:
            served.unused.clear()
        served.users += 1
        return served

    def release(self, served: ServedVersion) -> None:
        """Release a version that was acquired."""
        served.users -= 1
        if not served.users:
            served.unused.set()

    @contextmanager
    def using(self, name: str, version: str | None, key: str | None = None) -> Iterator[ServedVersion]:
        """Acquire a version for the duration of the `with` block."""
        served = self.acquire(name, version, key)
        try:
            yield served
        finally:
            self.release(served)

    async def until_loaded(self, name: str, caller: str) -> None:
        """Have a caller that is loaded at the start wait for another model. Raises UnavailableError if that waits for it, too."""
        await self._turns.wait(name, caller)

    def absence_reason(self, name: str) -> str | None:
        """Return why a known model isn't served; None if it is served, or unknown."""
        return None if name in self._models else self._absent.get(name)

    async def _load_all(self, folders: Sequence[ModelFolder]) -> dict[str, list[str]]:
        """Load the models, and serve each as soon as it is loaded. Return the faults of those that can't be."""
        self._turns = turns = LoadTurns(folder.name for folder in folders)
        faults: dict[str, list[str]] = {}
        # A thread for each: one that waits for another model mustn't take the thread in which that would be loaded.
        threads = ThreadPoolExecutor(max(1, len(folders)), thread_name_prefix="load")

        async def load(folder: ModelFolder) -> None:
            name = folder.name
            async with turns.turn(name):
                loaded, found = await asyncio.get_running_loop().run_in_executor(
                    threads, load_each, [folder], self._load
                )
            if name in loaded:
                self._serve(folder, loaded[name], await _first_answers(folder, loaded[name]))
            else:
                self._mark_absent(name, "; ".join(found[name]))
                faults.update(found)
            turns.end(name)

        try:
            await asyncio.gather(*map(load, folders))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        return {folder.name: faults[folder.name] for folder in folders if folder.name in faults}

    def _state(self, served: ServedVersion) -> str:
        if served.why_not_ready is not None:
            return "UNAVAILABLE"
        return "READY" if self.ready else "LOADING"

    def _follow(self, served: ServedVersion, runtime: Restarting) -> None:
        """Follow a version that goes down and restarts by itself."""
        loop = asyncio.get_running_loop()

        def notify(down: Down | None) -> None:
            # The loop may be gone after a stop that didn't wait.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._on_up_or_down, served, down)

        runtime.watch(notify)

    def _on_up_or_down(self, served: ServedVersion, down: Down | None) -> None:
        if down is not None:
            self._metrics.worker_restarts.labels(served.model, down.how).inc()
        served.down = down.reason if down else None
        self._count_ready(served)

    def _on_ready(self, served: ServedVersion, reason: str | None) -> None:
        """Note what a class says of itself."""
        if (reason is None) != (served.unready is None):
            log_change(reason, {"model": served.model, "version": served.version})
        served.unready = reason
        self._count_ready(served)

    def _count_ready(self, served: ServedVersion) -> None:
        model = self._models.get(served.model)
        if model is not None and model.versions.get(served.version) is served:
            ready = all(version.why_not_ready is None for version in model.versions.values())
            self._metrics.model_ready.labels(served.model).set(int(ready))

    def _mark_absent(self, name: str, reason: str) -> None:
        self._absent[name] = reason
        self._metrics.model_ready.labels(name).set(0)

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator[None]:
        """Serialize the changes of a model; refuse them before the start and after the shutdown."""
        async with self._locks[name]:
            if self.stopping or not self.ready:
                raise UnavailableError(f"the container is {'stopping' if self.stopping else 'not ready yet'}")
            yield

    def _serve(self, folder: ModelFolder, loaded: dict[str, LoadedVersion], unready: Mapping[str, str | None]) -> None:
        name = folder.name
        metrics = self._metrics.for_model(name)
        versions = {}
        for version, found in loaded.items():
            made = self._factory.make(folder, version, found, metrics, partial(self._preprocessing_rows, name))
            versions[version] = made
            if isinstance(found.runtime, Restarting):
                self._follow(made, found.runtime)
        weights = self._weights_of(name, folder.config, versions)
        for gauge, what in (
            (metrics.queue_depth, "depth"),
            (metrics.depths["queue"], "depth"),
            (metrics.running, "running"),
            (metrics.depths["runtime"], "running"),
        ):
            gauge.set_function(partial(self._total, name, what))
        metrics.open_streams.set_function(partial(self._open_streams, name))
        self._models[name] = ServedModel(name, folder.config, weights, TrafficSplit(weights), versions)
        self._absent.pop(name, None)
        self._metrics.model_ready.labels(name).set(1)
        for version, reason in unready.items():
            served, runtime = versions[version], loaded[version].runtime
            self._on_ready(served, reason)
            if isinstance(runtime, SelfChecking):
                asking = poll(runtime, folder.config.runtime, partial(self._on_ready, served))
                served.poll = asyncio.create_task(asking)

    def _weights_of(self, name: str, config: ModelConfig, versions: Mapping[str, object]) -> dict[str, float]:
        return version_weights(config, [*map(int, versions)], self._weights.get(name))

    def _check_weights(self, models: Mapping[str, Collection[int]]) -> None:
        """Raise FaultsError if the weights from outside name versions that these models don't have."""
        faults = weight_faults(self._weights, models, all_there=False)
        if faults:
            raise FaultsError(faults)

    def _preprocessing_rows(self, name: str) -> int:
        model = self._models.get(name)
        return sum(v.preprocess.waiting for v in model.versions.values() if v.preprocess) if model else 0

    def _open_streams(self, name: str) -> int:
        model = self._models.get(name)
        return sum(v.streams.open for v in model.versions.values() if v.streams) if model else 0

    def _total(self, name: str, what: str) -> int:
        model = self._models.get(name)
        return sum(getattr(served.scheduler, what) for served in model.versions.values()) if model else 0

    def _retire(self, model: ServedModel) -> None:
        task = asyncio.create_task(model.retire(RETIRE_SECONDS))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


async def _first_answers(folder: ModelFolder, loaded: Mapping[str, LoadedVersion]) -> dict[str, str | None]:
    """Return for the versions that say so themselves why they aren't ready, or None."""
    return {
        version: await first_answer(found.runtime, folder.config.runtime)
        for version, found in loaded.items()
        if isinstance(found.runtime, SelfChecking) and found.runtime.checks_ready
    }
