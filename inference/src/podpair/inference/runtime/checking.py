"""Everything that is wrong with models, before anybody serves them: what the server would say one after the other, at once.

A model.yaml that can't be used hides nothing: versions are loaded without it then, as far as that says something.
"""

from dataclasses import dataclass, field
from pathlib import Path

from podpair.inference.core.errors import FaultsError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.row_decision import RowDecision, Rows
from podpair.inference.core.tensors import TensorSpec
from podpair.inference.runtime.loading import Load, load_runtime, load_version
from podpair.inference.runtime.repository import ModelFolder, is_model, is_onnx, look_at, model_folders, read_class


@dataclass(slots=True)
class Report:
    """What was found: a line for each version that can be served, and every fault."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def check(what: str, load: Load = load_runtime) -> Report:
    """Load and warm up a repository, one model's folder, or a class given as `[name=]module:Class`."""
    report, path = Report(), Path(what)
    if not path.exists() and ":" in what:
        try:
            _check_versions(read_class(what), report, load)
        except FaultsError as error:
            report.faults += error.faults
        return report
    if not path.is_dir():
        report.faults.append(f"{path}: no such folder; give a repository, a model's folder, or module:Class")
        return report
    # Absolute: errors of user code are told by the folder in which its file lies.
    path = path.resolve()
    folders = [path] if is_model(path) else model_folders(path)
    if not folders:
        report.faults.append(f"{path}: no model in it; a model is <name>/<version>/model.onnx or model.py")
    for folder in folders:
        _check_model(folder, report, load)
    return report


def _check_model(path: Path, report: Report, load: Load) -> None:
    config, versions, faults = look_at(path)
    report.faults += faults
    if config is not None:
        _check_versions(ModelFolder(path.name, path, config, versions), report, load)
        return
    for version, file in versions.items():
        # A class may not be right without its model.yaml.
        if is_onnx(file):
            try:
                load(ModelFolder(path.name, path, ModelConfig(), versions), version).close()
            except FaultsError as error:
                report.faults += error.faults


def _check_versions(folder: ModelFolder, report: Report, load: Load) -> None:
    for version in folder.versions:
        try:
            loaded = load_version(folder, version, load)
        except FaultsError as error:
            report.faults += [fault for fault in error.faults if fault not in report.faults]
            continue
        inputs = ", ".join(_told(spec.tensor) for spec in loaded.signature.inputs)
        outputs = ", ".join(_told(spec) for spec in loaded.signature.outputs)
        report.lines.append(f"{folder.name}/{version}  {loaded.runtime.platform}  {inputs} -> {outputs}")
        report.lines.append(f"  {_rows(loaded.signature.decision)}")
        loaded.runtime.close()


def _rows(decision: RowDecision) -> str:
    """Whether requests share runs, why, and how to have it otherwise."""
    shares = "requests share runs" if decision.rows is Rows.INDEPENDENT else "each request runs alone"
    line = f"rows: {decision.rows.value}, {shares} ({decision.by}: {decision.reason})"
    return f"{line}; {decision.advice()}" if decision.rows is not Rows.INDEPENDENT and decision.advice() else line


def _told(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.datatype}{list(spec.shape)}"
