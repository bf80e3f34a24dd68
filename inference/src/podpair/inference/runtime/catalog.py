"""The models that are served: loaded, warmed up, found by name and version."""

import asyncio
from dataclasses import dataclass, field
from functools import partial

from podpair.inference.core.errors import NotFoundError, UnavailableError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.loading import Load, Loaded, load_models, load_runtime
from podpair.inference.runtime.protocol import Runtime, Streaming
from podpair.inference.runtime.repository import ModelFolder
from podpair.inference.runtime.scheduler import Scheduler
from podpair.inference.runtime.streams import Streams


@dataclass(slots=True)
class ServedVersion:
    """One version of a model, ready to answer."""

    model: str
    version: str
    runtime: Runtime
    signature: Signature
    scheduler: Scheduler
    # Where the model can answer in parts.
    streams: Streams | None


@dataclass(slots=True)
class ServedModel:
    """A model and its versions, ascending; the last is the default."""

    name: str
    config: ModelConfig
    versions: dict[str, ServedVersion] = field(default_factory=dict)


class Catalog:
    """Everything that is served. `ready` from the end of the warm-up to the beginning of the stop."""

    def __init__(self, folders: list[ModelFolder], metrics: Metrics, load: Load = load_runtime) -> None:
        self._folders = folders
        self._metrics = metrics
        self._load = load
        self._models: dict[str, ServedModel] = {}
        self.ready = False
        self.stopping = False

    @property
    def names(self) -> list[str]:
        """The models of the repository, loaded or not."""
        return [folder.name for folder in self._folders]

    async def start(self) -> None:
        """Load and warm up every version of every model; FaultsError with all that is wrong."""
        loaded = await asyncio.to_thread(load_models, self._folders, self._load)
        for folder in self._folders:
            metrics = self._metrics.of(folder.name)
            model = ServedModel(folder.name, folder.config)
            for version, version_loaded in loaded[folder.name].items():
                model.versions[version] = self._serve(folder, version, version_loaded)
            schedulers = [served.scheduler for served in model.versions.values()]
            metrics.queue_depth.set_function(partial(_depth, schedulers))
            self._models[folder.name] = model
        self.ready = not self.stopping

    async def stop(self, seconds: float) -> None:
        """Take nothing new, and wait up to `seconds` for what was taken."""
        self.stopping, self.ready = True, False
        every = [served.scheduler for model in self._models.values() for served in model.versions.values()]
        await asyncio.gather(*(scheduler.drain(seconds) for scheduler in every))
        for model in self._models.values():
            for served in model.versions.values():
                await asyncio.to_thread(served.runtime.close)

    def model(self, name: str) -> ServedModel:
        """The model of that name; NotFoundError, or UnavailableError while nothing is loaded yet."""
        model = self._models.get(name)
        if model is None:
            if name in self.names:
                raise UnavailableError(f"model {name} is being loaded")
            raise NotFoundError(f"no model {name!r}; there are {', '.join(self.names)}")
        return model

    def version(self, name: str, version: str | None) -> ServedVersion:
        """A version of a model, by default the highest. Raises NotFoundError."""
        model = self.model(name)
        served = next(reversed(model.versions.values())) if version is None else model.versions.get(version)
        if served is None:
            raise NotFoundError(f"model {name} has no version {version!r}; there are {', '.join(model.versions)}")
        return served

    def accepting(self, name: str, version: str | None) -> ServedVersion:
        """As `version`, but only while requests are taken; else UnavailableError."""
        if self.stopping:
            raise UnavailableError("the container is stopping")
        served = self.version(name, version)
        if not self.ready:
            raise UnavailableError("the container is not ready yet")
        return served

    def _serve(self, folder: ModelFolder, version: str, loaded: Loaded) -> ServedVersion:
        name, runtime, signature = folder.name, loaded.runtime, loaded.signature
        scheduler = Scheduler(name, runtime, signature, folder.config, self._metrics.of(name), loaded.times)
        streams = None
        if isinstance(runtime, Streaming) and runtime.streams:
            streams = Streams(name, runtime, signature, folder.config.runtime.max_streams)
        return ServedVersion(name, version, runtime, signature, scheduler, streams)


def _depth(schedulers: list[Scheduler]) -> int:
    return sum(scheduler.depth for scheduler in schedulers)
