"""From a model's files to something that has run once: loaded, checked against its model.yaml, warmed up."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from podpair.inference.core.errors import FaultsError
from podpair.inference.core.signature import Signature
from podpair.inference.core.timing import RunTimes
from podpair.inference.runtime.protocol import Restarting, Runtime
from podpair.inference.runtime.repository import ModelFolder, is_onnx
from podpair.inference.runtime.row_probing import establish_rows
from podpair.inference.runtime.warmup import run_clock, warm_up

if TYPE_CHECKING:
    from podpair.inference.runtime.images import ImageDecoder

Load = Callable[[ModelFolder, int], Runtime]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that has been warmed up."""

    runtime: Runtime
    signature: Signature
    times: RunTimes
    # For each of the model's inputs: what makes it of images, or None.
    decoders: "Sequence[ImageDecoder | None]" = ()


def load_runtime(folder: ModelFolder, version: int, libraries: Callable[[], Sequence[Path]] = list) -> Runtime:
    """The runtime for a version's file. Each is imported only where a model needs it.

    libraries: of custom operators, for an ONNX model that has some.
    """
    path, config = folder.versions[version], folder.config
    if is_onnx(path):
        if "process" in config.runtime.model_fields_set:
            raise FaultsError([f"{folder.path / 'model.yaml'}: runtime.process is for Python classes"])
        from podpair.inference.runtime.onnx import OnnxRuntime

        made = {step.output for step in config.postprocess}
        outputs = {tensor.name for tensor in config.outputs} | {step.input for step in config.postprocess}
        return OnnxRuntime(
            path,
            config.runtime,
            {tensor.name for tensor in config.inputs},
            outputs - made if config.outputs else None,
            libraries,
        )
    if config.runtime.process and os.name == "posix":
        return _in_a_process(folder, version)
    from podpair.inference.runtime.python import PythonRuntime

    return PythonRuntime(path, config, f"{folder.name}_{version}", folder.reference)


def _in_a_process(folder: ModelFolder, version: int) -> Runtime:
    """A class in a process of its own."""
    from podpair.inference.core.worker_messages import Load as LoadMessage
    from podpair.inference.runtime.worker.runtime import WorkerRuntime
    from podpair.inference.runtime.worker.supervisor import SupervisedRuntime

    path, config = str(folder.versions[version]), folder.config
    if config.postprocess:
        raise FaultsError([f"{path}: postprocess is for ONNX models; a class does it in predict"])
    load = LoadMessage(
        path, config.model_dump_json(by_alias=True).encode(), f"{folder.name}_{version}", folder.reference
    )
    return SupervisedRuntime(folder.name, version, partial(WorkerRuntime, folder.name, load, config.runtime))


def loader(custom_op_libraries: Sequence[str]) -> Load:
    """`load_runtime` with these libraries of custom operators, which are looked for when the first model needs them."""
    if not custom_op_libraries:
        return load_runtime

    def libraries() -> Sequence[Path]:
        from podpair.inference.runtime.onnx_loading import custom_op_libraries as found

        return found(custom_op_libraries)

    return partial(load_runtime, libraries=libraries)


def load_each(folders: Sequence[ModelFolder], load: Load) -> tuple[dict[str, dict[str, Loaded]], dict[str, list[str]]]:
    """In a thread: every version of every model by its name, and the faults of the models that can't be loaded whole."""
    loaded: dict[str, dict[str, Loaded]] = {}
    faults: dict[str, list[str]] = {}
    for folder in folders:
        loaded[folder.name] = {}
        for version in folder.versions:
            try:
                loaded[folder.name][str(version)] = load_version(folder, version, load)
            except FaultsError as error:
                faults.setdefault(folder.name, []).extend(error.faults)
        if folder.name in faults:
            close_all({folder.name: loaded.pop(folder.name)})
            faults[folder.name] = list(dict.fromkeys(faults[folder.name]))
    return loaded, faults


def load_models(folders: Sequence[ModelFolder], load: Load) -> dict[str, dict[str, Loaded]]:
    """In a thread: every version of every model by its name. FaultsError with all that is wrong."""
    loaded, faults = load_each(folders, load)
    if faults:
        close_all(loaded)
        raise FaultsError(list(dict.fromkeys(fault for found in faults.values() for fault in found)))
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
        times = warm_up(runtime, signature, folder, version)
        if isinstance(runtime, Restarting):
            runtime.before_up(lambda again: warm_up(again, signature, folder, version))
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
