"""Finds everything that is wrong with models before they are served, at once rather than one fault after the other.

An invalid model.yaml hides nothing: versions are then loaded without it, if that makes sense.
"""

from dataclasses import dataclass, field
from pathlib import Path

from podpair.common.faults import FaultsError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.row_decision import RowDecision, Rows
from podpair.inference.core.tensors import TensorSpec
from podpair.inference.runtime.loader import LoadRuntime, load_runtime, load_version
from podpair.inference.runtime.repository import (
    ModelFolder,
    inspect_folder,
    is_model,
    is_onnx,
    model_folders,
    read_class,
)


@dataclass(slots=True)
class ValidationReport:
    """The result: a line for each version that can be served, and every fault."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def validate(what: str, load: LoadRuntime = load_runtime) -> ValidationReport:
    """Load and warm up a repository, one model's folder, or a class given as `[name=]module:Class`."""
    report, path = ValidationReport(), Path(what)
    if not path.exists() and ":" in what:
        try:
            _validate_versions(read_class(what), report, load)
        except FaultsError as error:
            report.faults += error.faults
        return report
    if not path.is_dir():
        report.faults.append(f"{path}: no such folder; give a repository, a model's folder, or module:Class")
        return report
    # Absolute: errors of user code are recognised by the folder of its file.
    path = path.resolve()
    folders = [path] if is_model(path) else model_folders(path)
    if not folders:
        report.faults.append(f"{path}: no model in it; a model is <name>/<version>/model.onnx or model.py")
    for folder in folders:
        _validate_model(folder, report, load)
    return report


def _validate_model(path: Path, report: ValidationReport, load: LoadRuntime) -> None:
    config, versions, faults = inspect_folder(path)
    report.faults += faults
    if config is not None:
        _validate_versions(ModelFolder(path.name, path, config, versions), report, load)
        return
    for version, file in versions.items():
        # A class may need its model.yaml.
        if is_onnx(file):
            try:
                load(ModelFolder(path.name, path, ModelConfig(), versions), version).close()
            except FaultsError as error:
                report.faults += error.faults


def _validate_versions(folder: ModelFolder, report: ValidationReport, load: LoadRuntime) -> None:
    for version in folder.versions:
        try:
            loaded = load_version(folder, version, load)
        except FaultsError as error:
            report.faults += [fault for fault in error.faults if fault not in report.faults]
            continue
        inputs = ", ".join(_describe(spec.tensor) for spec in loaded.signature.inputs)
        outputs = ", ".join(_describe(spec) for spec in loaded.signature.outputs)
        report.lines.append(f"{folder.name}/{version}  {loaded.runtime.platform}  {inputs} -> {outputs}")
        report.lines.append(f"  {_rows(loaded.signature.decision)}")
        loaded.runtime.close()


def _rows(decision: RowDecision) -> str:
    """Describe whether requests share runs, why, and how to change that."""
    shares = "requests share runs" if decision.rows is Rows.INDEPENDENT else "each request runs alone"
    line = f"rows: {decision.rows.value}, {shares} ({decision.by}: {decision.reason})"
    return f"{line}; {decision.advice()}" if decision.rows is not Rows.INDEPENDENT and decision.advice() else line


def _describe(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.datatype}{list(spec.shape)}"
