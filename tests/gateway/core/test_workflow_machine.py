"""The state machine of workflows: whatever happens in whatever order, and wherever its gateway ends, an instance ends once."""

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podpair.common.workflows.declaration import Workflow
from podpair.gateway.core.protocol import Code
from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.machine import Machine
from podpair.gateway.core.workflows.records import (
    Begun,
    Ended,
    InvalidState,
    Unit,
    decode_instance,
    instance_key,
    split_key,
    unit_of,
)
from podpair.gateway.core.workflows.steps import StartCall, Step

_CALL = {"step": "s", "retry": {"attempts": 2, "backoff": 1}}


class World:
    """One instance, its log, and the calls that are under way."""

    def __init__(self, declaration: dict[str, Any], data: Any = None, **begun: Any) -> None:
        workflow = Workflow.model_validate(declaration)
        self.now = 1000.0
        raw = msgspec.Raw(workflow.model_dump_json(exclude_unset=True).encode())
        value = msgspec.Raw(json.dumps({"data": data}).encode())
        self.begun = Begun("r", "s", "flow", raw, self.now, value=value, **begun)
        self.log: dict[str, bytes] = {}
        self.events: list[str] = []
        self.seqs: list[int] = []
        self.calls: dict[Unit, StartCall] = {}
        self.ends: list[Step] = []
        self.machine = Machine(Instance("s/r", self.begun), 10_000, 10_000)
        self.commit(self.machine.begin(self.now))

    def commit(self, step: Step, *, lost: bool = False) -> None:
        """Write a step; `lost`: its gateway ends before that."""
        if lost:
            self.restart()
            return
        for suffix, value in step.records.items():
            if value is None:
                self.log.pop(suffix, None)
            else:
                self.log[suffix] = value
        if step.events:
            self.seqs.append(step.seq)
        self.events += [
            event.get("stage", "") + (f"[{event['index']}]" if "index" in event else "") + " " + event["event"]
            for event in step.events
        ]
        if step.ends:
            self.ends.append(step)
        for start in step.calls:
            self.calls[start.unit] = start
        for unit, start in list(self.calls.items()):
            if step.ends or not self.machine.instance.runs(unit, start.attempt):
                del self.calls[unit]

    def restart(self) -> None:
        """Begin with what the log has, in any order."""
        begun = decode_instance(self.log[""])
        if isinstance(begun, Ended):
            return
        instance = Instance("s/r", begun)
        records = [(suffix, value) for suffix, value in self.log.items() if suffix]
        random.Random(len(records)).shuffle(records)
        for suffix, value in records:
            instance.fold(suffix, value)
        self.machine = Machine(instance, 10_000, 10_000)
        self.calls = {}
        self.commit(self.machine.resume(self.now))

    def same_as_log(self) -> None:
        """What is known is what the log says."""
        if self.ends:
            return
        read = Instance("s/r", self.begun)
        for suffix, value in self.log.items():
            if suffix:
                read.fold(suffix, value)
        known = self.machine.instance
        assert (read.units, read.signals, read.cursor) == (known.units, known.signals, known.cursor)

    def tick(self) -> None:
        """Go on to what is due."""
        due = self.machine.instance.wakes_at
        if due is not None:
            self.now = max(self.now, due)
            self.commit(self.machine.tick(self.now))


FIVE = {
    "stages": {
        "plan": {**_CALL, "compensate": {"step": "undo"}},
        "each": {**_CALL, "for_each": "plan", "input": "item", "max_parallel": 2, "compensate": {"step": "undo"}},
        "ask": {"wait_for": "ok", "when": "plan[0]", "timeout": 50, "on_error": "continue"},
        "more": {**_CALL, "input": "[each, ask]", "on_error": "continue"},
        "last": {**_CALL, "after": ["more"], "compensate": {"step": "undo"}},
    },
    "output": "{each: each, ask: ask, more: more, last: last}",
}
ACTIONS = st.sampled_from(
    ["finish", "finish", "finish", "fail", "tick", "signal", "progress", "restart", "lose", "late"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(ACTIONS, st.integers(0, 5)), max_size=80), st.booleans())
def test_it_ends_once_whatever_happens(actions: list[tuple[str, int]], cancels: bool) -> None:
    world = World(FIVE, deadline=1500.0)
    stale = StartCall(Unit("plan"), 1, world.machine.instance.call(Unit("plan")), None)
    for place, (action, number) in enumerate([*actions, *[("finish", 0)] * 60]):
        if world.ends:
            break
        calls = sorted(world.calls.values(), key=lambda start: start.unit.suffix)
        start = calls[number % len(calls)] if calls else stale
        about = (start.unit, start.attempt)
        output = b"[1,2,3]" if start.unit == Unit("plan") else b"%d" % number
        if cancels and place == 40:
            world.commit(world.machine.cancel(world.now))
        elif action == "fail":
            world.commit(world.machine.call_failed(*about, "no", world.now, retry=number % 3 > 0))
        elif action == "progress":
            world.commit(world.machine.progress(*about, b"1", world.now))
        elif action == "signal":
            world.commit(world.machine.signal("ok", b"%d" % number, world.now))
        elif action == "restart":
            world.restart()
        elif action == "lose":
            world.commit(world.machine.call_ended(*about, output, world.now), lost=True)
        elif action == "late":
            world.commit(world.machine.call_ended(stale.unit, stale.attempt, b"[9]", world.now))
        elif action == "tick" or not calls:
            world.tick()
        else:
            world.commit(world.machine.call_ended(*about, output, world.now))
        world.same_as_log()
    assert len(world.ends) == 1
    assert list(world.log) == [""], "all but the marker is removed"
    assert world.seqs == list(range(len(world.seqs)))
    check_events(world)


def check_events(world: World) -> None:
    finished = [event for event in world.events if event.endswith(" finished")]
    assert len(finished) == len(set(finished)), world.events
    step = world.ends[0]
    if step.result is not None:
        for stage, needs in {"each": "plan", "more": "each", "last": "more"}.items():
            begun = world.events.index(f"{stage} started")
            assert any(f"{needs} {end}" in world.events[:begun] for end in ("finished", "failed")), world.events
        return
    assert step.fault is not None
    done = [event.rpartition(" ")[0] for event in finished if not event.startswith(("each ", "ask", "more"))]
    undone = [event.rpartition(" ")[0] for event in world.events if event.endswith(" compensating")]
    assert list(dict.fromkeys(undone)) == done[::-1], world.events


def test_an_output_that_is_too_large_fails_its_stage() -> None:
    world = World({"stages": {"a": _CALL}})
    start = world.calls[Unit("a")]
    world.commit(world.machine.call_ended(start.unit, 1, b'"%b"' % (b"x" * 20_000), world.now))
    fault = world.ends[0].fault
    assert fault is not None
    assert (fault.code, "output (20002 bytes) is larger than the topic takes" in fault.message) == (Code.UPSTREAM, True)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({**_CALL, "input": "length(request)"}, "length"),
        ({**_CALL, "for_each": "request"}, "for_each: request is no list, but a number"),
        ({**_CALL, "when": "sum(request)"}, "sum"),
    ],
)
def test_an_expression_that_cannot_be_evaluated_fails_its_stage(stage: dict[str, Any], message: str) -> None:
    world = World({"stages": {"a": stage}}, data=7)
    fault = world.ends[0].fault
    assert fault is not None
    assert fault.message.startswith("stage a failed once: ")
    assert message in fault.message


@pytest.mark.parametrize(
    ("output", "message"),
    [("sum(request)", "output: sum(request): In function sum()"), ("[a, a, a]", "is larger than the topic takes")],
)
def test_an_output_that_cannot_be_had_is_compensated_and_ends_it(output: str, message: str) -> None:
    stage = _CALL | {"compensate": {"step": "undo"}}
    world = World({"stages": {"a": stage}, "output": output}, data="text")
    for unit in (Unit("a"), Unit("a", undo=True)):
        world.commit(world.machine.call_ended(unit, 1, b'"%b"' % (b"x" * 9_000), world.now))
    (end,) = world.ends
    assert end.fault is not None
    assert message in end.fault.message
    assert world.events == ["a started", "a finished", "a compensating", "a compensated"]


def test_a_message_that_no_stage_waits_for_is_not_kept() -> None:
    world = World({"stages": {"a": _CALL, "ask": {"wait_for": "ok", "after": ["a"]}}})
    for name in ("other", "ok", "ok"):
        world.commit(world.machine.signal(name, b"1", world.now))
    assert list(world.machine.instance.signals) == ["ok"]
    assert "!other" not in world.log


def test_too_many_items_fail_their_stage() -> None:
    world = World({"stages": {"a": {**_CALL, "for_each": "request", "max_parallel": 1}}}, data=[0] * 10_001)
    fault = world.ends[0].fault
    assert fault is not None
    assert fault.message == "stage a failed once: for_each: 10001 items are too many: at most 10000"


def test_an_item_costs_the_same_however_many_there_are() -> None:
    world = World({"stages": {"a": {**_CALL, "for_each": "request", "max_parallel": 4}}}, data=[0] * 3_000)
    looked, units = 0, world.machine.instance.units

    class Counted(dict[Unit, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            nonlocal looked
            looked += 1
            return super().get(key, default)

        def __contains__(self, key: object) -> bool:
            nonlocal looked
            looked += 1
            return super().__contains__(key)

    world.machine.instance.units = Counted(units)
    for index in range(100):
        world.commit(world.machine.call_ended(Unit("a", index), 1, b"1", world.now))
    assert looked < 100 * 100
    world.machine.instance.units = dict(world.machine.instance.units)
    for index in range(100, 3_000):
        if index == 1_000:
            world.restart()
        world.commit(world.machine.call_ended(Unit("a", index), 1, b"1", world.now))
    assert world.ends[0].result is not None


def test_what_cannot_be_undone_is_told() -> None:
    undo = {"compensate": {"step": "undo", "retry": {"attempts": 1}}}
    stages = {"a": {**_CALL, **undo}, "c": {**_CALL, **undo}, "b": {**_CALL, "after": ["a", "c"]}}
    world = World({"stages": stages})
    world.commit(world.machine.call_ended(Unit("a"), 1, b"1", world.now))
    world.commit(world.machine.call_ended(Unit("c"), 1, b"1", world.now))
    world.commit(world.machine.call_failed(Unit("b"), 1, "broken", world.now, retry=False))
    assert not world.ends
    world.commit(world.machine.call_ended(Unit("c", undo=True), 1, b"null", world.now))
    world.restart()
    world.commit(world.machine.call_failed(Unit("a", undo=True), 1, "stuck", world.now, retry=True))
    fault = world.ends[0].fault
    assert fault is not None
    assert fault.message == "stage b failed once: broken; compensated: c; not compensated: a: stuck"


@given(st.text(min_size=1), st.text(min_size=1))
def test_keys_are_read_as_they_were_written(session: str, request: str) -> None:
    try:
        key = instance_key(session, request)
    except UnicodeEncodeError:
        return
    for unit in (Unit("a"), Unit("a", 7), Unit("b", 0, undo=True)):
        assert split_key(f"{key}/{unit.suffix}".encode()) == (key, unit.suffix)
        assert unit_of(unit.suffix) == unit
    assert split_key(key.encode()) == (key, "")


@pytest.mark.parametrize("suffix", ["", "~", "a/x", "a/²", "a/-1", "a/" + "9" * 5_000])
def test_what_names_no_unit(suffix: str) -> None:
    with pytest.raises(InvalidState):
        unit_of(suffix)


@pytest.mark.parametrize("key", [b"", b"alone", b"\xff"])
def test_what_is_no_key(key: bytes) -> None:
    with pytest.raises(InvalidState):
        split_key(key)
