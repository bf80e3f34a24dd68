"""From a model's files to something that has run once: loaded, checked against its model.yaml, warmed up."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from podpair.inference.core.errors import FaultsError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import DATATYPES, Array
from podpair.inference.core.timing import RunTimes
from podpair.inference.runtime.protocol import Runtime
from podpair.inference.runtime.repository import ModelFolder
from podpair.inference.runtime.row_probing import establish_rows

if TYPE_CHECKING:
    from podpair.inference.runtime.images import ImageDecoder

log = logging.getLogger(__name__)

# Rows of a batch where model.yaml doesn't say.
LARGEST = 64
# How long the search for the best size of a batch may take, in seconds.
_SEARCH_SECONDS = 0.2

Load = Callable[[ModelFolder, int], Runtime]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that has been warmed up."""

    runtime: Runtime
    signature: Signature
    times: RunTimes
    # For each of the model's inputs: what makes it of images, or None.
    decoders: "Sequence[ImageDecoder | None]" = ()


def load_runtime(folder: ModelFolder, version: int) -> Runtime:
    """The runtime for a version's file. Each is imported only where a model needs it."""
    path = folder.versions[version]
    if path.suffix == ".onnx":
        from podpair.inference.runtime.onnx import OnnxRuntime

        return OnnxRuntime(path, folder.config.runtime)
    from podpair.inference.runtime.python import PythonRuntime

    return PythonRuntime(path, folder.config, f"{folder.name}_{version}", folder.reference)


def load_models(folders: Sequence[ModelFolder], load: Load) -> dict[str, dict[str, Loaded]]:
    """In a thread: every version of every model by its name. FaultsError with all that is wrong."""
    loaded: dict[str, dict[str, Loaded]] = {}
    faults: list[str] = []
    for folder in folders:
        loaded[folder.name] = {}
        for version in folder.versions:
            try:
                loaded[folder.name][str(version)] = load_version(folder, version, load)
            except FaultsError as error:
                faults += error.faults
    if faults:
        close_all(loaded)
        raise FaultsError(list(dict.fromkeys(faults)))
    return loaded


def close_all(loaded: Mapping[str, Mapping[str, Loaded]]) -> None:
    """Let go of what was loaded and isn't to be served."""
    for versions in loaded.values():
        for version in versions.values():
            version.runtime.close()


def load_version(folder: ModelFolder, version: int, load: Load) -> Loaded:
    """One version, warmed up. Raises FaultsError."""
    runtime, source = load(folder, version), str(folder.path / "model.yaml")
    try:
        signature = Signature(folder.config, runtime.inputs, runtime.outputs, source)
        decoders = decoders_of(signature, source)
        if runtime.predicts:
            establish_rows(runtime, signature, folder.config, run_clock(runtime), model=folder.name, version=version)
        times = _warm_up(runtime, signature, folder, version)
    except FaultsError:
        runtime.close()
        raise
    return Loaded(runtime, signature, times, decoders)


def decoders_of(signature: Signature, source: str) -> "Sequence[ImageDecoder | None]":
    """For each of the model's inputs what makes it of images, or None; none at all where there are no images."""
    if not signature.preprocess:
        return ()
    from podpair.inference.runtime.images import ImageDecoder

    return [None if spec is None else ImageDecoder(spec, source) for spec in signature.preprocess.images]


def _warm_up(runtime: Runtime, signature: Signature, folder: ModelFolder, version: int) -> RunTimes:
    """Run zeros (dimensions of any size: 1), so that the first request doesn't pay for what is made lazily.

    Then find out what a run takes with one row, two, four, …, as long as a row gets cheaper. A class that fails on zeros is
    served all the same unless its warm-up was asked for.
    """
    declared = folder.config.warmup.rows if runtime.predicts else ()
    times = RunTimes(
        folder.config.runtime.inline_below_ms / 1000 if runtime.inline else 0, largest_batch(folder.config, signature)
    )
    clock = run_clock(runtime)
    started = time.monotonic()

    def run(count: int) -> float:
        arrays = [zeros(spec.datatype, spec.shape, count) for spec in signature.model_inputs]
        begun = clock()
        signature.postprocess(runtime.run(arrays))
        return clock() - begun

    try:
        for count in (1,) if declared is None else declared:
            run(count if signature.batchable else 1)
        size = 1
        while declared is None and runtime.inline:
            run(size)
            times.seed(size, min(run(size) for _ in range(3)))
            if times.settled() or time.monotonic() - started > _SEARCH_SECONDS:
                break
            size = times.worthwhile
    except Exception as error:
        fault = (
            f"{folder.path / str(version)}: the warm-up with zeros failed: {error}; "
            "if the model can't take zeros, set warmup.rows: []"
        )
        if runtime.inline or declared is not None:
            raise FaultsError([fault]) from error
        log.warning(fault, extra={"model": folder.name, "version": version})
    log.info(
        "model warmed up",
        extra={"model": folder.name, "version": version, "ms": round((time.monotonic() - started) * 1000, 1)},
    )
    return times


def largest_batch(config: ModelConfig, signature: Signature) -> int:
    """Rows that a batch may have at most."""
    return (config.batching.max_items or LARGEST) if signature.batchable else 1


def run_clock(runtime: Runtime) -> Callable[[], float]:
    """What to time runs with: what the thread has computed, where it does it all, is the same on a busy machine."""
    return time.thread_time if runtime.inline else time.monotonic


def zeros(datatype: str, shape: tuple[int, ...], rows: int) -> Array:
    """A tensor of so many rows where it has rows; dimensions of any size are 1. BYTES are empty."""
    sizes = [max(1, size) for size in shape]
    if shape[:1] == (-1,):
        sizes[0] = rows
    return np.full(sizes, b"" if datatype == "BYTES" else 0, DATATYPES[datatype])
