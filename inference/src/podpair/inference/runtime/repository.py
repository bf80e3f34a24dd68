"""The model repository on disk: `<repository>/<model>/model.yaml`, and in `<repository>/<model>/<version>/` a `model.onnx`,
`model.py` or `workflow.yaml`.

A class that is given as `module:Class` is a model of one version, with the `model.yaml` in its file's folder. Reading collects
every fault of every model before it gives up.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from podpair.common.faults import FaultsError
from podpair.common.sentences import sentences
from podpair.common.settings import read_mapping
from podpair.inference.core.errors import NotFoundError
from podpair.inference.core.model_config import ArgmaxConfig, ModelConfig

if TYPE_CHECKING:
    from podpair.common.workflows.faults import Neighbours


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on disk, nothing of it loaded."""

    name: str
    path: Path
    config: ModelConfig
    # version → its file, ascending.
    versions: dict[int, Path]
    # `module:Class`, if the file isn't in a repository.
    reference: str | None = None
    # What a workflow may name; read when one is loaded.
    neighbours: "Callable[[], Neighbours] | None" = field(default=None, compare=False)


# The files that a version's folder may contain.
FILES = ("model.onnx", "model.ort", "model.py", "workflow.yaml")
WORKFLOW = "workflow.yaml"
# What file systems put at the root of a volume.
_NO_MODELS = ("lost+found",)
# How deep a model's folders are searched for changes.
_DEEPEST = 16


class ModelRepository:
    """The models of a repository, and classes given as `[name=]module:Class`; FaultsError has all that is wrong."""

    def __init__(self, repository: Path | None, classes: Sequence[str] = ()) -> None:
        self._repository = repository
        self._classes = tuple(classes)

    def read(self) -> list[ModelFolder]:
        """Read all models. Raises FaultsError."""
        folders, faults = [], []
        try:
            folders = [] if self._repository is None else read_repository(self._repository, self.neighbours)
        except FaultsError as error:
            faults += error.faults
        for reference in self._classes:
            try:
                folders.append(read_class(reference))
            except FaultsError as error:
                faults += error.faults
        names = [folder.name for folder in folders]
        twice = sorted({name for name in names if names.count(name) > 1})
        faults += [f"--model: there are two models {name!r}" for name in twice]
        if faults:
            raise FaultsError(faults)
        return folders

    def find(self, name: str) -> ModelFolder:
        """Read one model's current files. Raises FaultsError or NotFoundError."""
        for reference in self._classes:
            if _class_name(reference) == name:
                return read_class(reference)
        if name not in self.names():
            raise NotFoundError(f"no model {name!r} in the repository; there are {', '.join(self.names())}")
        if self._repository is None:
            raise NotFoundError(f"no model {name!r}: no repository is served")
        return read_model(self._repository / name, self.neighbours)

    def neighbours(self) -> "Neighbours":
        """Return what workflows may name, whether it can be loaded or not."""
        return read_neighbours(self._repository, map(_class_name, self._classes))

    def states(self) -> dict[str, str]:
        """Return the models of the repository, each with a fingerprint of its files."""
        return {} if self._repository is None else {path.name: _state(path) for path in model_folders(self._repository)}

    def names(self) -> list[str]:
        """List the models that could be loaded."""
        found = [] if self._repository is None else [path.name for path in model_folders(self._repository)]
        return sorted({*found, *map(_class_name, self._classes)})


class ModelSource(Protocol):
    """Where models are loaded from."""

    def read(self) -> list[ModelFolder]:
        """Read all models. Raises FaultsError."""
        ...

    def find(self, name: str) -> ModelFolder:
        """Read one model's current files. Raises FaultsError or NotFoundError."""
        ...

    def names(self) -> list[str]:
        """List the models that could be loaded."""
        ...

    def states(self) -> dict[str, str]:
        """Return the models that may change, each with a fingerprint of its files."""
        ...


def survey(source: ModelSource, exit_on_error: bool) -> tuple[list[ModelFolder], dict[str, list[str]]]:
    """Read all models that can be read. Return them, and by name the faults of the others.

    Raises FaultsError with all faults if no model can be read, if a fault belongs to no model, or with
    `exit_on_error`.
    """
    try:
        return source.read(), {}
    except FaultsError as error:
        if exit_on_error:
            raise
        folders: list[ModelFolder] = []
        faults: dict[str, list[str]] = {}
        for name in source.names():
            try:
                folders.append(source.find(name))
            except FaultsError as found:
                faults[name] = found.faults
        if not folders or set(error.faults) - {fault for found in faults.values() for fault in found}:
            raise
        return folders, faults


def read_class(reference: str) -> ModelFolder:
    """Read a class as a model: `name=module:Class`, or named after the class (`SentimentModel`: sentiment_model)."""
    from podpair.inference.runtime.user_code import locate

    location = reference.rpartition("=")[2]
    path = locate(location)
    return ModelFolder(_class_name(reference), path.parent, _read_config(path.parent), {1: path}, location)


def read_repository(repository: Path, neighbours: "Callable[[], Neighbours] | None" = None) -> list[ModelFolder]:
    """Read the models in a repository, by name. Raises FaultsError with all faults.

    neighbours: what its workflows may name; default: what else is in it.
    """
    if not repository.is_dir():
        raise FaultsError(
            [f"{repository}: no such folder; give the model repository with --models or models.repository"]
        )
    folders, faults = [], []
    for path in model_folders(repository):
        try:
            folders.append(read_model(path, neighbours))
        except FaultsError as error:
            faults += error.faults
    if not folders and not faults:
        faults.append(
            f"{repository}: no model in it; a model is <name>/<version>/model.onnx, model.py or workflow.yaml, "
            "the version a number"
        )
    if faults:
        raise FaultsError(faults)
    return folders


def _class_name(reference: str) -> str:
    name, equals, location = reference.rpartition("=")
    return name if equals else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", location.partition(":")[2]).lower()


def model_folders(repository: Path) -> list[Path]:
    if not repository.is_dir():
        return []
    found = [path for path in repository.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    return sorted(path for path in found if path.name not in _NO_MODELS)


def read_neighbours(repository: Path | None, classes: Iterable[str] = ()) -> "Neighbours":
    """Return the models of a repository with their versions, and its workflows; `classes`: names of models besides."""
    from podpair.common.workflows.faults import Neighbours

    models: dict[str, Collection[int]] = dict.fromkeys(classes, (1,))
    workflows = []
    for path in [] if repository is None else model_folders(repository):
        try:
            versions = [folder for folder in path.iterdir() if _is_version(folder)]
        except OSError:  # it may not be read, or has just gone: that is a fault of its own
            versions = []
        if any((folder / WORKFLOW).is_file() for folder in versions):
            workflows.append(path.name)
        else:
            models[path.name] = [int(folder.name) for folder in versions]
    return Neighbours(models, workflows)


def _state(path: Path) -> str:
    """Return a fingerprint of each file's name, and of what changes with its content or if another replaces it.

    Links are followed: ConfigMaps and git-sync replace content by pointing a link elsewhere.
    """
    found = []
    for folder, folders, files in os.walk(path, followlinks=True):
        # A link to a folder above it would never end.
        deep = len(Path(folder).relative_to(path).parts) >= _DEEPEST
        folders[:] = [] if deep else [name for name in folders if name[0] != "." and name != "__pycache__"]
        for name in files:
            if name[0] == ".":
                continue
            file = os.path.join(folder, name)
            try:
                status = os.stat(file)
            except OSError as error:
                found.append((file, error.errno, 0, 0))
            else:
                found.append((file, status.st_size, status.st_mtime_ns, status.st_ino))
    return hashlib.blake2b(repr(sorted(found)).encode(), digest_size=16).hexdigest()


def inspect_folder(path: Path) -> tuple[ModelConfig | None, dict[int, Path], list[str]]:
    """Read a model's folder. Return its model.yaml unless that is invalid, its versions' files, and every fault."""
    try:
        return _inspect(path)
    except OSError as error:
        return None, {}, [f"{error.filename or path}: it can't be read: {error.strerror}"]


def _inspect(path: Path) -> tuple[ModelConfig | None, dict[int, Path], list[str]]:
    config: ModelConfig | None = None
    faults, versions = [], {}
    try:
        config = _read_config(path)
    except FaultsError as error:
        faults += error.faults
    folders = {int(p.name): p for p in path.iterdir() if _is_version(p)}
    for version, folder in sorted(folders.items()):
        found = [folder / name for name in FILES if (folder / name).is_file()]
        if len(found) == 1:
            versions[version] = found[0]
        else:
            several = " and ".join(path.name for path in found)
            held = (
                f"{several}; a version is one of them" if found else f"neither {', '.join(FILES[:-1])} nor {FILES[-1]}"
            )
            faults.append(f"{folder}: it holds {held}")
    faults += [
        f"{path / 'model.yaml'}: versions.{i}.version: there is no version {share.version}"
        for i, share in enumerate(config.versions if config else ())
        if share.version not in folders
    ]
    workflows = [version for version, file in versions.items() if is_workflow(file)]
    if workflows and len(workflows) < len(versions):
        others = ", ".join(str(version) for version in versions if version not in workflows)
        workflow = ", ".join(map(str, workflows))
        faults.append(
            f"{path}: version {workflow} is a workflow and {others} is none: give one of them a name of its own"
        )
    if not folders:
        faults.append(f"{path}: no version in it; put the model at {path / '1' / 'model.onnx'}")
    return config, versions, faults


def is_onnx(file: Path) -> bool:
    """Return whether ONNX Runtime runs a version's file: an ONNX model, or one in ORT's own format."""
    return file.suffix in (".onnx", ".ort")


def is_workflow(file: Path) -> bool:
    """Return whether a version's file declares a workflow."""
    return file.name == WORKFLOW


def is_model(path: Path) -> bool:
    """Return whether a folder is a model's own, rather than a repository of several."""
    return (path / "model.yaml").exists() or any(map(_is_version, path.iterdir()))


def _is_version(path: Path) -> bool:
    return path.is_dir() and path.name.isdecimal() and int(path.name) > 0


def read_model(path: Path, neighbours: "Callable[[], Neighbours] | None" = None) -> ModelFolder:
    """Read one model's folder. Raises FaultsError with all its faults. neighbours: as for `read_repository`."""
    config, versions, faults = inspect_folder(path)
    if faults or config is None:
        raise FaultsError(faults)
    return ModelFolder(
        path.name, path, config, versions, neighbours=neighbours or partial(read_neighbours, path.parent)
    )


def _read_config(path: Path) -> ModelConfig:
    file = path / "model.yaml"
    if not file.exists():
        return ModelConfig()
    content = read_mapping(file, "description: …")
    try:
        config = ModelConfig.model_validate(content)
    except ValidationError as error:
        raise FaultsError(sentences(error, ModelConfig, str(file))) from None
    return _with_labels(config, path, file)


def _with_labels(config: ModelConfig, path: Path, file: Path) -> ModelConfig:
    """Return the configuration with the content of every labels file."""
    steps = []
    for i, step in enumerate(config.postprocess):
        if isinstance(step, ArgmaxConfig) and step.labels_file is not None:
            try:
                lines = (path / step.labels_file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise FaultsError([f"{file}: postprocess.{i}.labels_file: can't be read: {error}"]) from None
            step = step.model_copy(
                update={"labels": tuple(line.strip() for line in lines if line.strip()), "labels_file": None}
            )
        steps.append(step)
    return config.model_copy(update={"postprocess": tuple(steps)}) if steps else config
