"""The state of one instance: what its records say, and the scope of its expressions.

Invariant: the state is what folding its records gives, in any order; whoever reads them goes on where they end.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from podpair.common.workflows.declaration import Call, Stage, Workflow
from podpair.common.workflows.expressions import evaluate
from podpair.gateway.core.workflows.records import (
    CURSOR,
    Begun,
    Cursor,
    SignalRecord,
    Unit,
    UnitRecord,
    decode_cursor,
    decode_signal,
    decode_unit,
    signal_name,
    unit_of,
)

_decode = msgspec.json.decode


class _Body(msgspec.Struct):
    data: Any = None
    inputs: Any = None
    parameters: dict[str, Any] = {}


class Instance:
    """A workflow that runs. Raises ValueError if its declaration can't be read."""

    def __init__(self, key: str, begun: Begun) -> None:
        self.key = key
        self.begun = begun
        self.workflow = Workflow.model_validate_json(bytes(begun.declaration))
        self.needs = {name: needs & self.workflow.stages.keys() for name, needs in self.workflow.needs().items()}
        try:
            body = _decode(begun.value, type=_Body)
        except RecursionError:
            raise ValueError("the request's value is nested too deeply") from None
        self._given = {
            "request": body.data if body.data is not None else body.inputs,
            "parameters": body.parameters,
        }
        self.units: dict[Unit, UnitRecord] = {}
        self.active: dict[Unit, None] = {}  # those of them that have not ended
        self.signals: dict[str, SignalRecord] = {}
        self.cursor = Cursor()
        self._items: dict[str, list[Any]] = {}  # of each for_each
        self._outputs: dict[str, Any] = {}  # of ended stages
        self._next: dict[str, int] = {}  # the items of each for_each below this have begun
        self._ended: dict[str, int] = {}  # how many of them have ended

    def fold(self, suffix: str, value: bytes | None) -> None:
        """Apply a record. Raises InvalidState if it can't be read."""
        if suffix == CURSOR:
            self.cursor = Cursor() if value is None else decode_cursor(value)
        elif suffix.startswith("!"):
            if value is None:
                self.signals.pop(signal_name(suffix), None)
            else:
                self.signals[signal_name(suffix)] = decode_signal(value)
        elif value is None:
            self._count(unit_of(suffix), None)
            self.units.pop(unit_of(suffix), None)
        else:
            self.put(unit_of(suffix), decode_unit(value))

    def put(self, unit: Unit, record: UnitRecord) -> None:
        """Note what a unit is by now. Cheap: there may be thousands."""
        self._count(unit, record)
        self.units[unit] = record

    def _count(self, unit: Unit, record: UnitRecord | None) -> None:
        former = self.units.get(unit)
        if record is not None and not record.ended:
            self.active[unit] = None
        else:
            self.active.pop(unit, None)
        if unit.index is not None and not unit.undo:
            more = (record is not None and record.ended) - (former is not None and former.ended)
            self._ended[unit.stage] = self._ended.get(unit.stage, 0) + more

    def stage(self, unit: Unit) -> Stage:
        """Return the declaration of a unit's stage."""
        return self.workflow.stages[unit.stage]

    def call(self, unit: Unit) -> Call:
        """Return what a unit calls: its stage's, or the compensation's."""
        stage = self.stage(unit)
        return stage if not unit.undo or stage.compensate is None else stage.compensate

    @property
    def failing(self) -> bool:
        """Whether it only compensates what it has done."""
        return self.cursor.code is not None

    @property
    def state(self) -> str:
        """What it does, as metrics have it."""
        if self.failing:
            return "compensating"
        active = [self.units[unit] for unit in self.active if not self.is_group(unit)]
        return "waiting" if active and all(record.state == "waiting" for record in active) else "running"

    @property
    def deadline(self) -> float | None:
        """When it fails, in Unix seconds; what it has done is compensated without one."""
        return None if self.failing else self.begun.deadline

    @property
    def wakes_at(self) -> float | None:
        """When something is due, in Unix seconds; None: nothing is but for what happens to it."""
        times = [until for unit in self.active if (until := self.units[unit].until) is not None]
        if self.deadline is not None:
            times.append(self.deadline)
        return min(times, default=None)

    def runs(self, unit: Unit, attempt: int) -> bool:
        """Return whether a call for this attempt at a unit still counts."""
        record = self.units.get(unit)
        return record is not None and record.state == "running" and record.attempt == attempt

    def is_group(self, unit: Unit) -> bool:
        """Return whether a unit stands for all items of a `for_each`."""
        return unit.index is None and not unit.undo and self.stage(unit).for_each is not None

    def stage_ended(self, name: str) -> bool:
        """Return whether a stage has ended, in whatever way."""
        record = self.units.get(Unit(name))
        return record is not None and record.ended

    def items_of(self, name: str) -> list[UnitRecord | None]:
        """Return what is known of each item of a `for_each` that has begun; None: it has not begun."""
        return [self.units.get(Unit(name, index)) for index in range(self.units[Unit(name)].items or 0)]

    def items_ended(self, name: str) -> bool:
        """Return whether all items of a `for_each` that has begun have ended."""
        return self._ended.get(name, 0) >= (self.units[Unit(name)].items or 0)

    def items_due(self, name: str, most: int) -> list[int]:
        """Return the items of a `for_each` that can begin, where `most` may run at a time."""
        items = self.units[Unit(name)].items or 0
        due: list[int] = []
        room = most - sum(unit.stage == name and unit.index is not None for unit in self.active)
        index = self._next.get(name, 0)
        while index < items and len(due) < room:
            if Unit(name, index) not in self.units:
                due.append(index)
            elif not due:
                self._next[name] = index + 1
            index += 1
        return due

    def finished(self) -> Iterator[Unit]:
        """Yield the units that have finished and can be compensated."""
        for unit, record in self.units.items():
            done = record.state == "finished" and not unit.undo and not self.is_group(unit)
            if done and self.stage(unit).compensate is not None:
                yield unit

    def output(self, name: str) -> Any:
        """Return the output of a stage that has ended."""
        if name not in self._outputs:
            record = self.units[Unit(name)]
            if record.state == "finished" and self.is_group(Unit(name)):
                self._outputs[name] = [_value(item) for item in self.items_of(name)]
            else:
                self._outputs[name] = _value(record)
        return self._outputs[name]

    def scope(self) -> dict[str, Any]:
        """Return what expressions see."""
        return self._given | {name: self.output(name) for name in self.workflow.stages if self.stage_ended(name)}

    def items(self, name: str) -> list[Any]:
        """Evaluate the `for_each` of a stage. Raises ExpressionError, or ValueError if it is no list."""
        if name not in self._items:
            # The stages that it needs had ended when it was first evaluated, and what others yield since it can't see.
            expression = self.workflow.stages[name].for_each or "null"
            found = evaluate(expression, self.scope())
            if not isinstance(found, list):
                raise ValueError(f"for_each: {expression} is no list, but {_kind(found)}")
            self._items[name] = found
        return self._items[name]

    def input(self, unit: Unit) -> Any:
        """Evaluate the input of a unit. Raises ExpressionError, or ValueError."""
        scope = self.scope()
        if unit.index is not None:
            scope |= {"item": self.items(unit.stage)[unit.index], "index": unit.index}
        if unit.undo:
            scope["output"] = _value(self.units[unit._replace(undo=False)])
        return evaluate(self.call(unit).input, scope)


def _value(record: UnitRecord | None) -> Any:
    return _decode(record.output) if record is not None and record.output else None


def _kind(value: Any) -> str:
    names = {type(None): "null", dict: "an object", str: "a text", bool: "a boolean"}
    return names.get(type(value), "a number")
