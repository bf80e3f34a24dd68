"""The models that are served: loaded, warmed up, found by name and version."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from podpair.inference.core.errors import FaultsError, NotFoundError, UnavailableError
from podpair.inference.core.model_config import ModelConfig, RuntimeConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import DATATYPES, Array
from podpair.inference.core.timing import RunTimes
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.protocol import Runtime
from podpair.inference.runtime.repository import ModelFolder
from podpair.inference.runtime.scheduler import Scheduler

log = logging.getLogger(__name__)

Load = Callable[[Path, RuntimeConfig], Runtime]
_Loaded = tuple[Runtime, Signature, RunTimes]


def load_onnx(path: Path, config: RuntimeConfig) -> Runtime:
    """The runtime for a version's file."""
    from podpair.inference.runtime.onnx import OnnxRuntime

    return OnnxRuntime(path, config)


@dataclass(slots=True)
class ServedVersion:
    """One version of a model, ready to answer."""

    model: str
    version: str
    platform: str
    signature: Signature
    scheduler: Scheduler


@dataclass(slots=True)
class ServedModel:
    """A model and its versions, ascending; the last is the default."""

    name: str
    config: ModelConfig
    versions: dict[str, ServedVersion] = field(default_factory=dict)


class Catalog:
    """Everything that is served. `ready` from the end of the warm-up to the beginning of the stop."""

    def __init__(self, folders: list[ModelFolder], metrics: Metrics, load: Load = load_onnx) -> None:
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
        loaded = await asyncio.to_thread(self._load_all)
        for folder in self._folders:
            metrics = self._metrics.of(folder.name)
            model = ServedModel(folder.name, folder.config)
            for version, (runtime, signature, times) in loaded[folder.name].items():
                scheduler = Scheduler(folder.name, runtime, signature, folder.config, metrics, times)
                model.versions[version] = ServedVersion(folder.name, version, runtime.platform, signature, scheduler)
            schedulers = [served.scheduler for served in model.versions.values()]
            metrics.queue_depth.set_function(partial(_depth, schedulers))
            self._models[folder.name] = model
        self.ready = not self.stopping

    async def stop(self, seconds: float) -> None:
        """Take nothing new, and wait up to `seconds` for what was taken."""
        self.stopping, self.ready = True, False
        every = [served.scheduler for model in self._models.values() for served in model.versions.values()]
        await asyncio.gather(*(scheduler.drain(seconds) for scheduler in every))

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

    def _load_all(self) -> dict[str, dict[str, _Loaded]]:
        """In a thread: ONNX Runtime is imported, and the sessions made."""
        loaded: dict[str, dict[str, _Loaded]] = {}
        faults: list[str] = []
        for folder in self._folders:
            loaded[folder.name] = {}
            for version, path in folder.versions.items():
                try:
                    runtime = self._load(path, folder.config.runtime)
                    signature = Signature(
                        folder.config, runtime.inputs, runtime.outputs, str(folder.path / "model.yaml")
                    )
                    times = _warm_up(runtime, signature, folder, version)
                except FaultsError as error:
                    faults += error.faults
                else:
                    loaded[folder.name][str(version)] = (runtime, signature, times)
        if faults:
            raise FaultsError(list(dict.fromkeys(faults)))
        return loaded


def _warm_up(runtime: Runtime, signature: Signature, folder: ModelFolder, version: int) -> RunTimes:
    """Run zeros (dimensions of any size: 1), so that the first request doesn't pay for what is made lazily.

    Then find out which batch sizes are so quick that they need no thread; the first that isn't ends the search.
    """
    batching, rows = folder.config.batching, folder.config.warmup.rows
    times = RunTimes(folder.config.runtime.inline_below_ms / 1000)
    started = time.monotonic()

    def run(count: int) -> float:
        arrays = [_zeros(spec.tensor.datatype, spec.tensor.shape, count) for spec in signature.inputs]
        begun = time.monotonic()
        signature.postprocess(runtime.run(arrays))
        return time.monotonic() - begun

    largest = batching.max_items if signature.batchable else 1
    try:
        for count in (1, largest) if rows is None else rows:
            run(count if signature.batchable else 1)
        # 1, 3, 7, 15, …: the largest of the sizes that RunTimes takes for one.
        size = 1
        while rows != () and times.limit:
            times.seed(size, min(run(size), run(size)))
            if size == largest or not times.is_short(size):
                break
            size = min(2 * size + 1, largest)
    except Exception as error:
        raise FaultsError(
            [
                f"{folder.path / str(version)}: the warm-up with zeros failed: {error}; "
                "if the model can't take zeros, set warmup.rows: []"
            ]
        ) from error
    log.info(
        "model warmed up",
        extra={"model": folder.name, "version": version, "ms": round((time.monotonic() - started) * 1000, 1)},
    )
    return times


def _depth(schedulers: list[Scheduler]) -> int:
    return sum(scheduler.depth for scheduler in schedulers)


def _zeros(datatype: str, shape: tuple[int, ...], rows: int) -> Array:
    sizes = [max(1, size) for size in shape]
    if shape[:1] == (-1,):
        sizes[0] = rows
    return np.full(sizes, b"" if datatype == "BYTES" else 0, DATATYPES[datatype])
