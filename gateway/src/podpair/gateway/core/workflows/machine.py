"""The state machine of an instance: what happens to it, and the step that follows.

Each method takes what happened and returns a step; the instance has the state after it already. Invariant: an instance ends once,
with its result, or with a fault once all that it had done is compensated; what a call that was given up says counts no more.
"""

import msgspec

from podpair.common.workflows.declaration import Stage
from podpair.common.workflows.expressions import evaluate
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.records import (
    CURSOR,
    Ended,
    SignalRecord,
    Unit,
    UnitRecord,
    encode,
    signal_suffix,
)
from podpair.gateway.core.workflows.steps import StartCall, Step

_encode = msgspec.json.Encoder().encode
_LONGEST_ERROR = 1000  # characters of a call's error that are kept
_MOST_ITEMS = 10_000  # of a for_each
_MOST_UNDONE = 10  # compensations of either outcome that the error names


class Machine:
    """Drives one instance.

    Args:
        instance: Its state.
        record_bytes: The largest value that the workflows topic takes.
        result_bytes: The largest that the results topic takes.
    """

    def __init__(self, instance: Instance, record_bytes: int, result_bytes: int) -> None:
        self.instance = instance
        self._record_bytes = record_bytes
        self._result_bytes = result_bytes
        self._step = Step()
        self._now = 0.0
        self._undoable: list[Unit] | None = None  # what is to be compensated, the last of them first to be
        self._names = {stage.wait_for for stage in instance.workflow.stages.values() if stage.wait_for is not None}

    def begin(self, now: float) -> Step:
        """Begin: its record is part of the step."""
        self._open(now)
        self._step.records[""] = encode(self.instance.begun)
        return self._close()

    def resume(self, now: float) -> Step:
        """Go on with what another gateway, or this one before, has left: what had not ended is called again."""
        self._open(now)
        for unit in list(self.instance.active):
            record = self.instance.units[unit]
            if record.state == "running" and not self.instance.is_group(unit):
                self._tell(
                    unit, "retrying", attempt=record.attempt, message="its gateway has changed: it is called again"
                )
                self._call(unit, record)
        return self._close()

    def call_ended(self, unit: Unit, attempt: int, output: bytes, now: float) -> Step:
        """Take the output of a call (JSON)."""
        self._open(now)
        record = self._running(unit, attempt)
        if record is not None:
            if len(output) > self._record_bytes:
                most = f"topic takes: {self._record_bytes} (max.message.bytes of the workflows topic)"
                self._end_failed(unit, record, f"its output ({len(output)} bytes) is larger than the {most}")
            else:
                self._finish(unit, record, output)
        return self._close()

    def call_failed(self, unit: Unit, attempt: int, message: str, now: float, *, retry: bool) -> Step:
        """Take the failure of a call. retry: another attempt may succeed."""
        self._open(now)
        record = self._running(unit, attempt)
        if record is not None:
            self._failed(unit, record, message, retry=retry)
        return self._close()

    def progress(self, unit: Unit, attempt: int, data: bytes, now: float) -> Step:
        """Take what a call tells of its progress (JSON)."""
        self._open(now)
        if self._running(unit, attempt) is not None and len(data) <= self._result_bytes // 4:
            self._tell(unit, "progress", data=msgspec.Raw(data))
        return self._close()

    def checkpoint(self, unit: Unit, attempt: int, data: bytes, now: float) -> Step:
        """Take a checkpoint of a call (JSON): the next attempt gets it."""
        self._open(now)
        record = self._running(unit, attempt)
        if record is not None and len(data) <= self._record_bytes:
            self._put(unit, msgspec.structs.replace(record, checkpoint=msgspec.Raw(data)))
        return self._close()

    def signal(self, name: str, data: bytes, now: float) -> Step:
        """Take a client's message (JSON). The first of a name counts; one that comes early is kept, if a stage waits for such."""
        self._open(now)
        new = name in self._names and name not in self.instance.signals and not self.instance.failing
        if new and len(data) <= self._record_bytes:
            signal = SignalRecord(msgspec.Raw(data), now)
            self.instance.signals[name] = signal
            self._step.records[signal_suffix(name)] = encode(signal)
            for unit in list(self.instance.active):
                record = self.instance.units[unit]
                if record.state == "waiting" and self.instance.stage(unit).wait_for == name:
                    self._receive(unit, record, signal)
        return self._close()

    def cancel(self, now: float) -> Step:
        """Cancel all of it: it ends once what it has done is compensated. One that does that already goes on with it."""
        self._open(now)
        if not self.instance.failing:
            self._step.events.append({"event": "cancelling", "time": round(now, 3)})
            self._fail(Code.CANCELLED, "cancelled by its client")
        return self._close()

    def abandon(self, fault: Fault, now: float) -> Step:
        """End it with a fault at once: nothing is compensated."""
        self._open(now)
        self._step.fault = fault
        return self._close()

    def tick(self, now: float) -> Step:
        """Do what is due."""
        self._open(now)
        if self.instance.deadline is not None and now >= self.instance.deadline:
            self._fail(Code.DEADLINE_EXCEEDED, "the deadline passed while the workflow was running")
        for unit, record in [(unit, self.instance.units[unit]) for unit in self.instance.active]:
            if record.until is None or now < record.until or self.instance.units[unit] is not record:
                continue  # the last: one before it has ended all
            if record.state == "retrying":
                self._begin_call(unit, msgspec.structs.replace(record, state="running", until=None))
            elif record.state == "waiting":
                stage = self.instance.stage(unit)
                self._end_failed(unit, record, f"nobody sent {stage.wait_for!r} in {stage.timeout:g} s")
        return self._close()

    # -- the step that is being made

    def _open(self, now: float) -> None:
        self._step, self._now = Step(), now

    def _close(self) -> Step:
        """Go on as far as can be, and number the events."""
        step, instance = self._step, self.instance
        while not step.ends and self._advance():
            pass
        if step.events:
            step.seq = instance.cursor.seq = instance.cursor.seq + 1
        if step.ends:
            known = [unit.suffix for unit in instance.units] + [signal_suffix(name) for name in instance.signals]
            step.records = dict.fromkeys([*known, CURSOR])
            step.records[""] = encode(Ended(self._now, step.outcome, instance.begun.offset))
            step.calls = []
        elif step.events or step.records:
            step.records[CURSOR] = encode(instance.cursor)
        return step

    def _put(self, unit: Unit, record: UnitRecord) -> UnitRecord:
        self.instance.put(unit, record)
        self._step.records[unit.suffix] = encode(record)
        return record

    def _tell(self, unit: Unit, kind: str, **members: object) -> None:
        event: dict[str, object] = {"stage": unit.stage, "event": kind, "time": round(self._now, 3)}
        if unit.index is not None:
            event |= {"index": unit.index, "of": self.instance.units[Unit(unit.stage)].items}
        self._step.events.append(event | members)

    # -- what is next

    def _advance(self) -> bool:
        """Begin what can begin. Returns whether anything has changed."""
        if self.instance.failing:
            return self._compensate()
        begun = False
        for name, stage in self.instance.workflow.stages.items():
            if self.instance.failing:
                return True
            if Unit(name) not in self.instance.units:
                if all(self.instance.stage_ended(needed) for needed in self.instance.needs[name]):
                    self._begin_stage(name, stage)
                    begun = True
            elif stage.for_each is not None and not self.instance.stage_ended(name):
                begun |= self._begin_items(name, stage)
        if not begun and all(self.instance.stage_ended(name) for name in self.instance.workflow.stages):
            self._conclude()
            return self.instance.failing  # then there is something to compensate, or nothing: it ends either way
        return begun

    def _begin_stage(self, name: str, stage: Stage) -> None:
        unit, record = Unit(name), UnitRecord("running", since=self._now)
        try:
            wanted = stage.when is None or _is_true(evaluate(stage.when, self.instance.scope()))
            items = len(self.instance.items(name)) if wanted and stage.for_each is not None else None
            if items is not None and items > _MOST_ITEMS:
                raise ValueError(f"for_each: {items} items are too many: at most {_MOST_ITEMS}")
        except (ValueError, RecursionError) as error:
            self._end_failed(unit, record, str(error))
            return
        if not wanted:
            self._put(unit, msgspec.structs.replace(record, state="skipped"))
            self._tell(unit, "skipped")
            self._count(unit, record, "skipped")
        elif stage.wait_for is not None:
            until = self._now + stage.timeout
            record = self._put(unit, msgspec.structs.replace(record, state="waiting", until=until))
            self._tell(unit, "waiting", until=round(until, 3))
            if (signal := self.instance.signals.get(stage.wait_for)) is not None:
                self._receive(unit, record, signal)
        elif items is not None:
            self._put(unit, msgspec.structs.replace(record, items=items))
            self._tell(unit, "started", of=items)
        else:
            self._begin_call(unit, record)

    def _begin_items(self, name: str, stage: Stage) -> bool:
        """Begin items of a `for_each`, as many as may run. Returns whether anything has changed."""
        group = Unit(name)
        if self.instance.items_ended(name):
            self._finish(group, self.instance.units[group], b"")
            return True
        waiting = self.instance.items_due(name, stage.max_parallel)
        for index in waiting:
            if self.instance.failing:
                break
            self._begin_call(Unit(name, index), UnitRecord("running", since=self._now))
        return bool(waiting)

    def _begin_call(self, unit: Unit, record: UnitRecord) -> None:
        again = {"attempt": record.attempt} if record.attempt > 1 else {}
        self._put(unit, record)
        self._tell(unit, "compensating" if unit.undo else "started", **again)
        self._call(unit, record)

    def _call(self, unit: Unit, record: UnitRecord) -> None:
        try:
            given = self.instance.input(unit)
        except (ValueError, RecursionError) as error:
            self._failed(unit, record, str(error), retry=False)
            return
        start = StartCall(unit, record.attempt, self.instance.call(unit), given, bytes(record.checkpoint))
        self._step.calls.append(start)

    def _conclude(self) -> None:
        begun = self.instance.begun
        try:
            data = _encode(evaluate(self.instance.workflow.result, self.instance.scope()))
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            self._fail(Code.UPSTREAM, f"output: {error}")
            return
        result = b'{"data":%b,"model":%b,"model_version":%b,"timing":{"workflow_ms":%.3f}}' % (
            data, _encode(begun.model), _encode(begun.version or None), max(self._now - begun.began, 0.0) * 1000,
        )  # fmt: skip
        if len(result) > self._result_bytes:
            most = f"{self._result_bytes} (max.message.bytes of the results topic)"
            self._fail(Code.INTERNAL, f"the result ({len(result)} bytes) is larger than the topic takes: {most}")
            return
        self._step.result = result

    # -- how units end

    def _running(self, unit: Unit, attempt: int) -> UnitRecord | None:
        record = self.instance.units.get(unit)
        return record if record is not None and record.state == "running" and record.attempt == attempt else None

    def _finish(self, unit: Unit, record: UnitRecord, output: bytes) -> None:
        self.instance.cursor.order += 1
        order = self.instance.cursor.order
        finished = UnitRecord("finished", record.attempt, record.since, items=record.items, order=order)
        if output:  # an empty one would be no JSON
            finished.output = msgspec.Raw(output)
        self._put(unit, finished)
        self._tell(unit, "compensated" if unit.undo else "finished")
        self._count(unit, record, "compensated" if unit.undo else "finished")

    def _receive(self, unit: Unit, record: UnitRecord, signal: SignalRecord) -> None:
        self._tell(unit, "received")
        self._finish(unit, msgspec.structs.replace(record, until=None), bytes(signal.data))

    def _failed(self, unit: Unit, record: UnitRecord, message: str, *, retry: bool) -> None:
        """Try again, if there is an attempt left."""
        policy = self.instance.call(unit).retry
        message = message[:_LONGEST_ERROR]
        if not retry or record.attempt >= policy.attempts:
            self._end_failed(unit, record, message)
            return
        pause = min(policy.backoff * 2.0 ** min(record.attempt - 1, 32), policy.max_backoff)
        attempt = record.attempt + 1
        self._put(
            unit,
            msgspec.structs.replace(record, state="retrying", attempt=attempt, until=self._now + pause, error=message),
        )
        self._tell(unit, "retrying", attempt=attempt, message=message)

    def _end_failed(self, unit: Unit, record: UnitRecord, message: str) -> None:
        """End a unit that can't be had, and with it the workflow unless the stage may fail."""
        message = message[:_LONGEST_ERROR]
        record = self._put(unit, UnitRecord("failed", record.attempt, record.since, items=record.items, error=message))
        self._tell(unit, "failed", message=f"its compensation: {message}" if unit.undo else message)
        self._count(unit, record, "failed")
        if unit.undo or self.instance.stage(unit).on_error == "continue":
            return
        self._step.tries = record.attempt
        times = "once" if record.attempt == 1 else f"{record.attempt} times"
        item = "" if unit.index is None else f" (item {unit.index})"
        self._fail(Code.UPSTREAM, f"stage {unit.stage}{item} failed {times}: {message}")

    def _fail(self, code: Code, message: str) -> None:
        """Give up what runs, and go on to compensate."""
        if self.instance.failing:
            return
        self.instance.cursor.code, self.instance.cursor.message = code, message
        self._step.records.setdefault(CURSOR, b"")  # its value is that at the end of the step
        self._step.calls = []
        for unit in list(self.instance.active):
            record = self.instance.units[unit]
            self._put(unit, UnitRecord("failed", record.attempt, record.since, items=record.items, error="given up"))

    def _compensate(self) -> bool:
        """Undo what has finished, one after the other, the last first. Returns whether anything has changed."""
        units = self.instance.units
        if any(unit.undo for unit in self.instance.active):
            return False
        if self._undoable is None:  # nothing finishes any more
            left = (unit for unit in self.instance.finished() if unit._replace(undo=True) not in units)
            self._undoable = sorted(left, key=lambda unit: units[unit].order)
        if not self._undoable:
            self._step.fault = self._final_fault()
            return False
        unit = self._undoable.pop()
        self._begin_call(unit._replace(undo=True), UnitRecord("running", since=self._now))
        return True

    def _final_fault(self) -> Fault:
        cursor, undone = self.instance.cursor, [item for item in self.instance.units.items() if item[0].undo]
        undone.sort(key=lambda item: item[1].order)  # as they were, whoever has read them since
        done = _first([_name(unit) for unit, record in undone if record.state == "finished"])
        faulty = _first([f"{_name(unit)}: {record.error}" for unit, record in undone if record.state == "failed"])
        message = cursor.message + (f"; compensated: {', '.join(done)}" if done else "")
        message += f"; not compensated: {'; '.join(faulty)}" if faulty else ""
        return Fault(cursor.code or Code.INTERNAL, message)

    def _count(self, unit: Unit, record: UnitRecord, outcome: str) -> None:
        if unit.index is None:
            self._step.outcomes.append((unit.stage, outcome, max(self._now - record.since, 0.0)))


def _name(unit: Unit) -> str:
    return unit.stage if unit.index is None else f"{unit.stage}[{unit.index}]"


def _first(texts: list[str]) -> list[str]:
    return texts if len(texts) <= _MOST_UNDONE else [*texts[:_MOST_UNDONE], f"and {len(texts) - _MOST_UNDONE} more"]


def _is_true(value: object) -> bool:
    """Return JMESPath's truth: all but null, false, and what is empty."""
    return not (value is None or value is False or value == "" or value == [] or value == {})
