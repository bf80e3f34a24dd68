"""What is wrong with a declaration that its schema can't tell: names that lead nowhere, and stages that wait for themselves."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from pydantic import ValidationError

from podpair.common.field_names import closest
from podpair.common.workflows.declaration import Compensation, Stage, Workflow
from podpair.common.workflows.expressions import RESERVED, names_in

_ITEM = frozenset({"item", "index"})


class Neighbours(NamedTuple):
    """What the repository of a workflow has besides."""

    models: Mapping[str, Collection[int]]
    """Each with its versions."""
    workflows: Collection[str] = ()


class _Scope(NamedTuple):
    """What a declaration may name."""

    stages: frozenset[str]
    neighbours: Neighbours | None
    steps: Mapping[str, str] | None

    @property
    def names(self) -> frozenset[str]:
        """The names that expressions know."""
        return RESERVED | self.stages


def workflow_faults(
    workflow: Workflow,
    *,
    neighbours: Neighbours | None = None,
    steps: Mapping[str, str] | None = None,
    unread: Collection[str] = (),
) -> list[str]:
    """Return every fault of a declaration, each with the field where it stands.

    neighbours: None: not known. steps: the functions of `steps.py`, each with why it can't be a step, empty if it can; None: not
    known. unread: names of stages that are declared beside these, and can't be read (`sound_part`).
    """
    scope = _Scope(frozenset(workflow.stages) | set(unread), neighbours, steps)
    found = [fault for name, stage in workflow.stages.items() for fault in _stage_faults(name, stage, scope)]
    if workflow.output is not None:
        taken = names_in(workflow.output)
        found += _unknown("output", taken - scope.names, scope)
        found += [f"output: {name} is known within a for_each only" for name in sorted(taken & _ITEM)]
    return found + _cycle(workflow)


def sound_part(content: Mapping[Any, Any], faulty: Iterable[tuple[Any, ...]]) -> tuple[Workflow | None, list[str]]:
    """Return what can be read of a declaration with faults, if anything can, and the names of the stages that can't.

    faulty: where the faults are, as pydantic says it.
    """
    stages, where = content.get("stages"), [tuple(map(str, location)) for location in faulty]
    if not isinstance(stages, dict):
        return None, []
    bad = {location[1] for location in where if location[0] == "stages" and len(location) > 1}
    unread = [str(name) for name in stages if str(name) in bad]
    sound: dict[str, Any] = {"stages": {name: stage for name, stage in stages.items() if str(name) not in bad}}
    if "output" in content and ("output",) not in where:
        sound["output"] = content["output"]
    try:
        return Workflow.model_validate(sound), unread
    except ValidationError:
        return None, unread


def _unknown(where: str, names: Collection[str], scope: _Scope) -> list[str]:
    return [f"{where}: there is no stage {name!r}; {_hint(name, scope.names)}" for name in sorted(names)]


def _hint(name: str, known: Collection[str]) -> str:
    meant = closest(name, known)
    return f"did you mean {meant}?" if meant else f"there are: {', '.join(sorted(known)) or 'none'}"


def _stage_faults(name: str, stage: Stage, scope: _Scope) -> Iterator[str]:
    where = f"stages.{name}"
    for number, other in enumerate(stage.after):
        if other not in scope.stages:
            yield f"{where}.after.{number}: there is no stage {other!r}; {_hint(other, scope.stages)}"
    for field, expression in stage.expressions().items():
        taken = names_in(expression)
        yield from _unknown(f"{where}.{field}", taken - scope.names, scope)
        if field != "input" or stage.for_each is None:
            yield from (f"{where}.{field}: {item} is known within a for_each only" for item in sorted(taken & _ITEM))
    yield from _call_faults(where, stage, scope)
    if stage.compensate is not None:
        where += ".compensate"
        taken = names_in(stage.compensate.input) - scope.names - {"output"}
        yield from _unknown(f"{where}.input", taken, scope)
        yield from _call_faults(where, stage.compensate, scope)


def _call_faults(where: str, call: Stage | Compensation, scope: _Scope) -> Iterator[str]:
    if call.model is not None and scope.neighbours is not None:
        models, workflows = scope.neighbours
        if call.model in workflows:
            how = f"gateway: {{topic: …, model: {call.model}}}"
            yield f"{where}.model: {call.model!r} is a workflow; ask its gateway for it: `{how}`"
        elif call.model not in models:
            yield f"{where}.model: there is no model {call.model!r}; {_hint(call.model, models)}"
        elif call.version is not None and call.version not in models[call.model]:
            there = ", ".join(map(str, sorted(models[call.model])))
            yield f"{where}.version: model {call.model!r} has no version {call.version}; there are: {there}"
    if call.step is not None and scope.steps is not None:
        unfit, fit = scope.steps.get(call.step), [name for name, why_not in scope.steps.items() if not why_not]
        if unfit is None:
            yield f"{where}.step: steps.py has no function {call.step!r}; {_hint(call.step, fit)}"
        elif unfit:
            yield f"{where}.step: {call.step} {unfit}"


def _cycle(workflow: Workflow) -> list[str]:
    needs: Mapping[str, frozenset[str]] = {
        name: names & workflow.stages.keys() for name, names in workflow.needs().items()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        # graphlib names a stage before those that wait for it.
        return [f"stages: each waits for the next, and none begins: {' -> '.join(reversed(error.args[1]))}"]
    return []
