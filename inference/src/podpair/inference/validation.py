"""Finds everything that is wrong with models before they are served, at once rather than one fault after the other.

Models are loaded as the server loads them, by its catalog: those that call their neighbours are answered. An invalid
model.yaml hides nothing: versions are then loaded without it, if that makes sense.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from podpair.common.faults import FaultsError
from podpair.inference.config.settings import Settings
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.row_decision import RowDecision, Rows
from podpair.inference.core.tensors import TensorSpec
from podpair.inference.metrics import Metrics
from podpair.inference.model_calls import ModelCalls
from podpair.inference.models import connect
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.loader import LoadRuntime, runtime_loader
from podpair.inference.runtime.local_model_client import LocalModelClient
from podpair.inference.runtime.protocol import Declaring
from podpair.inference.runtime.repository import (
    ModelFolder,
    ModelRepository,
    ModelSource,
    inspect_folder,
    is_model,
    is_onnx,
    is_workflow,
    model_folders,
    read_neighbours,
)
from podpair.inference.runtime.served_model import ServedModel
from podpair.inference.runtime.worker.call_connection import CallServer
from podpair.inference.tracing import Tracing


@dataclass(slots=True)
class ValidationReport:
    """The result: a line for each version that can be served, and every fault."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add_faults(self, faults: Sequence[str]) -> None:
        """Add those that are not there yet."""
        self.faults += [fault for fault in faults if fault not in self.faults]


def validate(what: str, settings: Settings) -> ValidationReport:
    """Load and warm up a repository, one model's folder, or a class given as `[name=]module:Class`."""
    report, path = ValidationReport(), Path(what)
    if not path.exists() and ":" in what:
        _validate_models(ModelRepository(None, (what,)), None, report, settings)
        return report
    if not path.is_dir():
        report.faults.append(f"{path}: no such folder; give a repository, a model's folder, or module:Class")
        return report
    # Absolute: errors of user code are recognised by the folder of its file.
    path = path.resolve()
    folders = [path] if is_model(path) else model_folders(path)
    if not folders:
        report.faults.append(
            f"{path}: no model in it; a model is <name>/<version>/model.onnx, model.py or workflow.yaml"
        )
        return report
    load = runtime_loader(settings.models.custom_op_libraries)
    sound = [folder for folder in folders if _inspect(folder, report, load)]
    if not sound:
        return report
    if not is_model(path):
        _validate_models(ModelRepository(path), None, report, settings)
        return report
    alone = ValidationReport()
    _validate_models(_OneModel(path), path.name, alone, settings)
    if alone.faults and len(model_folders(path.parent)) > 1:  # it may need its neighbours
        alone = ValidationReport()
        _validate_models(ModelRepository(path.parent), path.name, alone, settings)
    report.lines, report.faults = alone.lines, alone.faults
    return report


class _OneModel(ModelRepository):
    """A model of a repository, without the others; workflows may name those."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._name = path.name

    def names(self) -> list[str]:
        return [self._name]

    def read(self) -> list[ModelFolder]:
        return [self.find(self._name)]


def _inspect(path: Path, report: ValidationReport, load: LoadRuntime) -> bool:
    """Report what is wrong with a folder's files. Return whether its model.yaml and versions can be read."""
    config, versions, faults = inspect_folder(path)
    report.add_faults(faults)
    if config is not None:
        return True
    neighbours = partial(read_neighbours, path.parent)
    for version, file in versions.items():
        # A class may need its model.yaml.
        if is_onnx(file) or is_workflow(file):
            try:
                load(ModelFolder(path.name, path, ModelConfig(), versions, neighbours=neighbours), version).close()
            except FaultsError as error:
                report.add_faults(error.faults)
    return False


def _validate_models(source: ModelSource, only: str | None, report: ValidationReport, settings: Settings) -> None:
    """Start the models as the server does, and stop them. only: the model to report on; None: all."""
    asyncio.run(_start_and_stop(source, only, report, settings))


async def _start_and_stop(source: ModelSource, only: str | None, report: ValidationReport, settings: Settings) -> None:
    loop, metrics, tracing = asyncio.get_running_loop(), Metrics(), Tracing(settings.tracing)
    calls = ModelCalls(metrics, tracing)
    connect(LocalModelClient(calls, loop))
    load = runtime_loader(settings.models.custom_op_libraries, CallServer(calls, loop))
    try:
        catalog = Catalog(source, metrics, load, prepare_threads=settings.models.prepare_threads)
        calls.open(catalog)
        try:
            failed = await catalog.start()
        except FaultsError as error:
            report.add_faults(error.faults)
        else:
            for name, faults in failed.items():
                if only in (None, name):
                    report.add_faults(faults)
            for model in catalog.models:
                if only in (None, model.name):
                    report.lines += _describe_model(model)
        finally:
            await catalog.stop(0)
    except FaultsError as error:
        report.add_faults(error.faults)
    finally:
        connect(None)


def _describe_model(model: ServedModel) -> list[str]:
    lines = []
    for version, served in model.versions.items():
        inputs = ", ".join(_describe(spec.tensor) for spec in served.signature.inputs)
        outputs = ", ".join(_describe(spec) for spec in served.signature.outputs)
        lines.append(f"{model.name}/{version}  {served.runtime.platform}  {inputs} -> {outputs}")
        runtime = served.runtime
        more = _stages(runtime) if isinstance(runtime, Declaring) else _rows(served.signature.decision)
        lines.append(f"  {more}")
    return lines


def _stages(workflow: Declaring) -> str:
    """List the stages of a workflow, and what each is."""
    stages = workflow.declaration["stages"]
    kinds = ("model", "step", "gateway", "wait_for")
    return "stages: " + ", ".join(
        f"{name} ({next(kind for kind in kinds if kind in stage)})" for name, stage in stages.items()
    )


def _rows(decision: RowDecision) -> str:
    """Describe whether requests share runs, why, and how to change that."""
    shares = "requests share runs" if decision.rows is Rows.INDEPENDENT else "each request runs alone"
    line = f"rows: {decision.rows.value}, {shares} ({decision.by}: {decision.reason})"
    return f"{line}; {decision.advice()}" if decision.rows is not Rows.INDEPENDENT and decision.advice() else line


def _describe(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.datatype}{list(spec.shape)}"
