"""The checkers of the fault tests see planted faults, and nothing where there is none."""

from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest

from harness.checking import ChangeChecker, GapChecker, OrderChecker, StaleChecker, TerminalChecker, TopicChecker
from harness.crowd import Crowd, Member
from harness.workflow_checking import Effect, WorkflowChecker
from podpair.client import Gap


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        ([0, 1, 2], None),
        ([0, 2], "a: missing: [1]"),
        ([0, 1, 1, 2], "a: twice: [1]"),
        ([1, 0, 2], "a: out of order: 0 after 1"),
        ([0, 1, 2, 3], "a: not its own: [3]"),
        ([], "a: missing: [0, 1, 2]"),
    ],
)
def test_order(seen: list[int], fault: str | None) -> None:
    checker = OrderChecker({"a": 3})
    for number in seen:
        checker.saw("a", number)
    assert checker.faults() == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("asked", "accepted", "ended", "fault"),
    [
        (["r"], ["r"], ["r"], None),
        (["r"], [], ["r"], None),
        (["r"], [], [], None),
        (["r"], ["r"], [], "a/r: accepted, never ended"),
        (["r"], ["r"], ["r", "r"], "a/r: ended 2 times"),
        ([], [], ["r"], "a/r: ended, never asked"),
    ],
)
def test_terminal_events(asked: list[str], accepted: list[str], ended: list[str], fault: str | None) -> None:
    checker = TerminalChecker()
    for request in asked:
        checker.asked("a", request)
    for request in accepted:
        checker.accepted("a", request)
    for request in ended:
        checker.ended("a", request, "result")
    assert checker.faults() == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("asked", "generation", "fault"),
    [
        (5.0, 0, None),  # nothing has been in force yet
        (10.0, 0, None),  # at that very time the older answer may be given
        (15.0, 1, None),
        (15.0, 2, None),  # a later one is never stale
        (15.0, 0, "a: stale: generation 0 instead of 1, 5000 ms after"),
        (25.0, 1, "a: stale: generation 1 instead of 2, 5000 ms after"),
        (25.0, 0, "a: stale: generation 0 instead of 2, 15000 ms after"),
    ],
)
def test_stale_answers(asked: float, generation: int, fault: str | None) -> None:
    checker = StaleChecker()
    checker.in_force(1, 10.0)
    checker.in_force(2, 20.0)
    checker.answered("a", asked, generation)
    assert checker.faults() == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        (["a", "b"], None),
        (["a"], "no answer: 1: ['b']"),
        (["a", "b", "b"], "more than one answer: 1: ['b']"),
        (["a", "b", "c"], "not asked: 1: ['c']"),
    ],
)
def test_answers_on_the_topic(answers: list[str], fault: str | None) -> None:
    checker = TopicChecker(["a", "b"])
    for request in answers:
        checker.saw(request)
    assert checker.faults() == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("came", "fault"),
    [
        ([0, 1, 2, 3], None),
        ([0, 2.9, 3], None),  # a float: a gap, at this time
        ([2.9, 3], None),
        ([0, 1, 3.1], None),
        ([0, 1, 3], None),  # 2 was written while the topic changed
        ([0, 1, 2.9, 0, 1, 2, 3], None),  # the log was made again, and read from its start
        ([0, 1.1, 0, 3], None),  # 1 was in the home before; 0 is in the one from then on
        ([0, 2, 3], "a: missing, and no gap: [1]"),
        ([0, 0.5, 0, 2, 3], "a: missing, and no gap: [1]"),
        ([0, 2, 2.9, 3], "a: missing, and no gap: [1]"),
        ([0, 0.5, 1, 3, 2], "a: out of order: 2 after 3"),
        ([0, 1, 1, 2, 3], "a: twice: [1]"),
        ([0.5, 0, 3], "a: missing, and no gap: [1]"),
        ([], "a: missing, and no gap: [0, 1, 3]"),
    ],
)
def test_records_of_a_log_that_is_cut(came: list[int | float], fault: str | None) -> None:
    checker = GapChecker()
    for number in range(4):
        checker.wrote("a", number, float(number))
    checker.unsettled(1.5, 2.5)
    for number in came:
        if isinstance(number, float):
            checker.gap("a", number)
        else:
            checker.saw("a", number)
    assert checker.faults() == ([fault] if fault else [])


def test_a_record_without_a_position_is_there_but_has_no_place_in_the_order() -> None:
    checker = GapChecker()
    for number in range(4):
        checker.wrote("a", number, 0.0)
    checker.saw("a", 0)
    checker.saw("a", 3, placed=False)
    checker.gap("a", 0.0)
    checker.saw("a", 2)
    assert checker.faults() == [], "1 is in the gap, although 3 has come before it"
    checker.wrote("a", 4, 1.0)
    checker.wrote("a", 5, 1.0)
    checker.saw("a", 5)
    assert checker.faults() == ["a: missing, and no gap: [4]"]


@pytest.mark.parametrize(("reason", "faults"), [("requests", ["a: missing, and no gap: [0]"]), ("epoch", [])])
def test_a_gap_of_requests_excuses_no_push(reason: str, faults: list[str]) -> None:
    crowd = SimpleNamespace(gaps=[], reasons=Counter(), logged=GapChecker())
    crowd.logged.wrote("a", 0, 0.0)
    Member("a", cast("Crowd", crowd), Random(1)).on_gap(Gap(None, None, reason))
    assert crowd.logged.faults() == faults


@pytest.mark.parametrize(
    ("happens", "fault"),
    [
        ("w0 w1 s0 s1", None),
        ("w0 w1 s1", "a: missing: [0]"),
        ("w0 w1 change w2 gap s2", None),  # what was written before the change may be in the gap
        ("w0 w1 change w2 s2", "a: missing: [0, 1]"),  # but not in silence
        ("w0 change w1 w2 gap s2", "a: missing: [1]"),
        ("w0 w1 change s0 gap s0 s1", None),  # told twice, with the gap in between
        ("w0 w1 change gap s0 s0 s1", "a: twice: [0]"),
        ("w0 w1 s1 s0", "a: out of order: 0 after 1"),
    ],
)
def test_changes_of_a_topic(happens: str, fault: str | None) -> None:
    checker = ChangeChecker()
    for what in happens.split():
        if what == "gap":
            checker.gap("a")
        elif what == "change":
            checker.changed()
        elif what[0] == "w":
            assert checker.wrote("a") == int(what[1:])
        else:
            checker.saw("a", int(what[1:]))
    assert checker.faults() == ([fault] if fault else [])


_GOOD = ["a started", "a finished", "b started", "b[0] started", "b[0] progress", "b[0] finished", "b finished"]


def _told(names: list[str]) -> list[dict[str, object]]:
    """Events by their short names."""
    events: list[dict[str, object]] = []
    for name in names:
        stage, _, kind = name.partition(" ")
        stage, _, index = stage.removesuffix("]").partition("[")
        events.append({"stage": stage, "event": kind} | ({"index": int(index)} if index else {}))
    return events


@pytest.mark.parametrize(
    ("told", "ends", "effects", "fault"),
    [
        (_GOOD, ["result"], [("b", 0)], None),
        (_GOOD, ["result"], [("b", 0), ("b", 0)], "r: b[0] has its effect 2 times"),  # a planted duplicate
        (_GOOD, ["result"], [], "r: b[0] has its effect 0 times"),  # a planted loss
        (_GOOD, ["result", "result"], [("b", 0)], "r: ended 2 times"),
        (_GOOD, [], [("b", 0)], "r: never ended"),
        (_GOOD, ["error"], [("b", 0)], "r: ended with error"),
        ([*_GOOD, "b finished"], ["result"], [("b", 0)], "r: b[None] finished 2 times"),
        (
            ["b started", "a started", "a finished", "b finished"],
            ["result"],
            [("b", 0)],
            "r: b started before a had finished",
        ),
        ([*_GOOD[:4], "b[1] progress", *_GOOD[4:]], ["result"], [("b", 0)], "r: b[1] made progress before it started"),
        (_GOOD[:-1], ["result"], [("b", 0)], "r: b is not told of from its start to its end"),
    ],
)
def test_workflows(told: list[str], ends: list[str], effects: list[tuple[str, int]], fault: str | None) -> None:
    checker = WorkflowChecker(["r"], {"a": [], "b": ["a"]}, [("b", 0)])
    for seq, event in enumerate(_told(told)):
        checker.partial("r", seq, [event])
    for kind in ends:
        checker.ended("r", kind)
    for stage, index in effects:
        checker.effect(Effect("r", stage, index))
    assert checker.faults() == ([fault] if fault else [])


def test_a_workflows_chunk_that_comes_twice_or_is_missing() -> None:
    for seqs in ([0, 0], [0, 2], [1, 0]):
        checker = WorkflowChecker(["r"], {}, [])
        checker.ended("r", "result")
        for seq in seqs:
            checker.partial("r", seq, [])
        assert checker.faults() == [f"r: seq is {seqs}"]
    checker = WorkflowChecker([], {}, [])
    checker.ended("r", "result")
    assert checker.faults() == ["r: nobody asked for it"]
