"""Loads a model from its files, checks it against its model.yaml, and warms it up."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from podpair.common.faults import FaultsError
from podpair.inference.core.request_context import RequestContext, answering
from podpair.inference.core.row_decision import RowDecision, Rows
from podpair.inference.core.run_times import RunTimes
from podpair.inference.core.signature import Signature
from podpair.inference.runtime.protocol import Restarting, Runtime
from podpair.inference.runtime.repository import ModelFolder, is_onnx, is_workflow
from podpair.inference.runtime.row_analysis import establish_rows
from podpair.inference.runtime.warmup import run_clock, warm_up

if TYPE_CHECKING:
    from podpair.inference.runtime.images import ImageDecoder
    from podpair.inference.runtime.worker.call_connection import CallServer

LoadRuntime = Callable[[ModelFolder, int], Runtime]


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that has been warmed up."""

    runtime: Runtime
    signature: Signature
    times: RunTimes
    # For each of the model's inputs its image decoder, or None.
    decoders: "Sequence[ImageDecoder | None]" = ()


def load_runtime(
    folder: ModelFolder,
    version: int,
    libraries: Callable[[], Sequence[Path]] = list,
    calls: "CallServer | None" = None,
) -> Runtime:
    """Return the runtime for a version's file. Each kind is imported only if a model needs it.

    libraries: of custom operators, for an ONNX model that has some. calls: serves the calls of Python classes to other models.
    """
    path, config = folder.versions[version], folder.config
    if is_workflow(path):
        from podpair.inference.runtime.workflow import load_workflow

        return load_workflow(folder, version, calls)
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
        return _in_a_process(folder, version, calls)
    from podpair.inference.runtime.python import PythonRuntime

    return PythonRuntime(path, config, f"{folder.name}_{version}", folder.reference)


def _in_a_process(folder: ModelFolder, version: int, calls: "CallServer | None") -> Runtime:
    """Return a runtime with a process of its own for a class."""
    from podpair.inference.core.worker_messages import Load as LoadMessage
    from podpair.inference.runtime.worker.runtime import WorkerRuntime
    from podpair.inference.runtime.worker.supervisor import SupervisedRuntime

    path, config = str(folder.versions[version]), folder.config
    if config.postprocess:
        raise FaultsError([f"{path}: postprocess is for ONNX models; a class does it in predict"])
    document = config.model_dump_json(by_alias=True).encode()
    load = LoadMessage(path, document, f"{folder.name}_{version}", folder.name, folder.reference)
    return SupervisedRuntime(folder.name, version, partial(WorkerRuntime, folder.name, load, config.runtime, calls))


def runtime_loader(custom_op_libraries: Sequence[str], calls: "CallServer | None" = None) -> LoadRuntime:
    """Return `load_runtime` with these libraries of custom operators, which are located when the first model needs them."""
    if not custom_op_libraries:
        return partial(load_runtime, calls=calls)

    def libraries() -> Sequence[Path]:
        from podpair.inference.runtime.onnx_session import custom_op_libraries as found

        return found(custom_op_libraries)

    return partial(load_runtime, libraries=libraries, calls=calls)


def load_each(
    folders: Sequence[ModelFolder], load: LoadRuntime
) -> tuple[dict[str, dict[str, LoadedVersion]], dict[str, list[str]]]:
    """Load every version of every model (in a thread). Return them by name, and the faults of models that can't be loaded."""
    loaded: dict[str, dict[str, LoadedVersion]] = {}
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


def load_models(folders: Sequence[ModelFolder], load: LoadRuntime) -> dict[str, dict[str, LoadedVersion]]:
    """Load every version of every model by its name (in a thread). Raises FaultsError with all faults."""
    loaded, faults = load_each(folders, load)
    if faults:
        close_all(loaded)
        raise FaultsError(list(dict.fromkeys(fault for found in faults.values() for fault in found)))
    return loaded


def close_all(loaded: Mapping[str, Mapping[str, LoadedVersion]]) -> None:
    """Let go of what was loaded and isn't to be served."""
    for versions in loaded.values():
        for version in versions.values():
            version.runtime.close()


def load_version(folder: ModelFolder, version: int, load: LoadRuntime) -> LoadedVersion:
    """Load and warm up one version. Raises FaultsError."""
    with answering(RequestContext(path=(folder.name,), loading=True)):
        return _load_version(folder, version, load)


def _load_version(folder: ModelFolder, version: int, load: LoadRuntime) -> LoadedVersion:
    runtime, source = load(folder, version), str(folder.path / "model.yaml")
    try:
        signature = Signature(folder.config, runtime.inputs, runtime.outputs, source)
        decoders = decoders_of(signature, source)
        if runtime.predicts:
            establish_rows(runtime, signature, folder.config, run_clock(runtime), model=folder.name, version=version)
        elif folder.config.rows == "auto" and signature.has_rows:
            signature.decide(RowDecision(Rows.DEPENDENT, "class", "it only streams, and each row is a stream"))
        times = warm_up(runtime, signature, folder, version)
        if isinstance(runtime, Restarting):
            runtime.on_restart(partial(_warm_up_again, signature, folder, version))
    except FaultsError:
        runtime.close()
        raise
    return LoadedVersion(runtime, signature, times, decoders)


def _warm_up_again(signature: Signature, folder: ModelFolder, version: int, runtime: Runtime) -> None:
    with answering(RequestContext(path=(folder.name,), loading=True)):
        warm_up(runtime, signature, folder, version)


def decoders_of(signature: Signature, source: str) -> "Sequence[ImageDecoder | None]":
    """Return for each of the model's inputs its image decoder, or None; nothing at all if there are no images."""
    if not signature.preprocess:
        return ()
    from podpair.inference.runtime.images import ImageDecoder

    return [None if spec is None else ImageDecoder(spec, source) for spec in signature.preprocess.images]
