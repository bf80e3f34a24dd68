"""Workflows: a declaration that a gateway runs, and its Python steps, which run here.

A workflow computes nothing by itself. What it names has only to be in the repository: whether that is loaded, and in which order,
makes no difference.
"""

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from podpair.common.faults import FaultsError
from podpair.common.sentences import sentences
from podpair.common.settings import read_mapping
from podpair.common.workflows.declaration import Workflow
from podpair.common.workflows.faults import sound_part, workflow_faults
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.tensors import Array, TensorSpec
from podpair.inference.core.worker_messages import Load
from podpair.inference.runtime.protocol import Down, Restarting, Runtime
from podpair.inference.runtime.python import PythonRuntime
from podpair.inference.runtime.repository import ModelFolder
from podpair.inference.runtime.worker.call_connection import CallServer
from podpair.inference.runtime.worker.runtime import WorkerRuntime
from podpair.inference.runtime.worker.supervisor import SupervisedRuntime

STEPS = "steps.py"
# What of a model.yaml is a workflow's, too.
_SETTINGS = frozenset({"description", "versions", "runtime"})
_RUNTIME_SETTINGS = frozenset({"max_streams", "process", "cpus", "timeout_seconds", "load_timeout_seconds"})
# How much longer than its stage a step may take before its process is ended, in seconds: the gateway ends it before that.
_GRACE_SECONDS = 30.0


class WorkflowRuntime:
    """A `Runtime`, `Streaming`, `Restarting` and `Declaring`.

    steps: runs the functions that the declaration names; None: it names none.
    """

    platform = "podpair_workflow"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("input", "BYTES", (1,)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("output", "BYTES", (1,)),)
    predicts = False
    inline = False
    instances = 1
    takes_parameters = False
    # Its steps do.
    calls_models = True
    streams = True

    def __init__(self, name: str, workflow: Workflow, steps: "SupervisedRuntime | PythonRuntime | None") -> None:
        self.declaration: Mapping[str, Any] = workflow.model_dump(mode="json", exclude_unset=True)
        self._name = name
        self._named = workflow.steps()
        self._steps = steps

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> list[Array]:
        """See `Runtime.run`. Raises InvalidRequestError: a workflow has no answer of its own."""
        raise InvalidRequestError(f"{self._name} is a workflow, which a gateway runs: ask the gateway for it")

    async def stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> AsyncGenerator[list[Array], None]:
        """See `Streaming.stream`: run the step that `parameters` names. Raises InvalidRequestError, and what the step raises."""
        step = parameters.get("step")
        if step is None:
            self.run(arrays)
        if self._steps is None or not isinstance(step, str) or step not in self._named:
            there = ", ".join(sorted(self._named)) or "none"
            raise InvalidRequestError(f"workflow {self._name} has no step {step!r}; there are: {there}")
        async with aclosing(self._steps.stream(arrays, parameters)) as chunks:
            async for chunk in chunks:
                yield chunk

    def watch(self, notify: Callable[[Down | None], object]) -> None:
        """See `Restarting`."""
        if isinstance(self._steps, Restarting):
            self._steps.watch(notify)

    def on_restart(self, prepare: Callable[[Runtime], object]) -> None:
        """See `Restarting`: steps need no preparation."""

    def close(self) -> None:
        """See `Runtime.close`."""
        if self._steps is not None:
            self._steps.close()


def load_workflow(folder: ModelFolder, version: int, calls: CallServer | None = None) -> WorkflowRuntime:
    """Load one version of a workflow, and its steps. Raises FaultsError with all faults.

    calls: serves the calls of steps to models.
    """
    path = folder.versions[version]
    faults = _settings_faults(folder)
    workflow, unread, found = _read(path)
    faults += found
    steps, functions = None, None
    if workflow is not None and workflow.steps():
        try:
            steps = _load_steps(folder, version, workflow, calls)
            functions = steps.functions
        except FaultsError as error:
            faults += error.faults
    if workflow is not None:
        neighbours = folder.neighbours() if folder.neighbours is not None else None
        found = workflow_faults(workflow, neighbours=neighbours, steps=functions, unread=unread)
        faults += [f"{path}: {fault}" for fault in found]
    if faults or workflow is None:
        if steps is not None:
            steps.close()
        raise FaultsError(faults)
    return WorkflowRuntime(folder.name, workflow, steps)


def _read(path: Path) -> tuple[Workflow | None, list[str], list[str]]:
    """Read a declaration. Return what of it can be read, the names of the stages that can't, and its faults."""
    content: dict[Any, Any] = {}
    try:
        content = read_mapping(path, "stages: …")
        return Workflow.model_validate(content), [], []
    except FaultsError as error:
        return None, [], error.faults
    except ValidationError as error:
        sound, unread = sound_part(content, [fault["loc"] for fault in error.errors(include_url=False)])
        return sound, unread, sentences(error, Workflow, str(path))


def _settings_faults(folder: ModelFolder) -> list[str]:
    config, source = folder.config, folder.path / "model.yaml"
    named = sorted(config.model_fields_set - _SETTINGS)
    named += [f"runtime.{name}" for name in sorted(config.runtime.model_fields_set - _RUNTIME_SETTINGS)]
    return [f"{source}: {name.strip('_')}: it is for models; a workflow has no such setting" for name in named]


def _load_steps(
    folder: ModelFolder, version: int, workflow: Workflow, calls: CallServer | None
) -> SupervisedRuntime | PythonRuntime:
    path, name = folder.versions[version].with_name(STEPS), f"{folder.name}_{version}"
    if not path.is_file():
        raise FaultsError([f"{path}: no such file, and stages of {folder.versions[version].name} are functions of it"])
    patience = {"timeout_seconds": step_timeout(folder.config, workflow)}
    config = folder.config.model_copy(update={"runtime": folder.config.runtime.model_copy(update=patience)})
    if not config.runtime.process or os.name != "posix":
        return PythonRuntime(path, config, name, steps=True)
    load = Load(str(path), config.model_dump_json(by_alias=True).encode(), name, folder.name, steps=True)
    return SupervisedRuntime(folder.name, version, partial(WorkerRuntime, folder.name, load, config.runtime, calls))


def step_timeout(config: ModelConfig, workflow: Workflow) -> float:
    """Return how long a step may take without a word, in seconds, before its process is ended: longer than any stage, unless
    model.yaml says how long.
    """
    if "timeout_seconds" in config.runtime.model_fields_set:
        return config.runtime.timeout_seconds
    calls = [call for stage in workflow.stages.values() for call in (stage, stage.compensate) if call is not None]
    longest = max((call.timeout for call in calls if call.step is not None), default=0.0)
    return max(config.runtime.timeout_seconds, longest + _GRACE_SECONDS)
