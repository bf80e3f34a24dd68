"""The states of a queued request: whatever comes in whatever order, it is answered once and finished once, or dropped."""

from typing import cast

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.offsets import Committed
from podpair.gateway.worker.partition import PartitionState
from podpair.gateway.worker.request import QueuedRequest, State


class Work:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def received(offset: int = 0) -> QueuedRequest:
    partition = PartitionState(0, Committed(), "")
    partition.offsets.start(offset)
    return QueuedRequest(partition, cast("Message", None), offset)


def test_a_request_is_asked_answered_and_done() -> None:
    request, work = received(), Work()
    assert request.open
    request.ask(work)
    assert request.answer("result", [])
    assert not request.open
    assert request.partition.offsets.unfinished == 1
    assert request.done()
    assert request.partition.offsets.unfinished == 0
    assert (request.state, request.outcome, work.cancelled) == (State.DONE, "result", 0)


def test_what_is_dropped_is_cancelled_and_its_offset_stays_unfinished() -> None:
    request, work = received(), Work()
    request.ask(work)
    assert request.drop()
    assert work.cancelled == 1
    assert not request.answer("result", [])
    assert not request.done()
    assert not request.drop()
    assert request.partition.offsets.unfinished == 1


@pytest.mark.parametrize("answered", [False, True])
def test_done_needs_an_answer_and_comes_once(answered: bool) -> None:
    request = received()
    if answered:
        assert request.answer("result", [])
        assert request.done()
    with pytest.raises(RuntimeError, match="done while"):
        request.done()


def test_nothing_is_asked_for_a_request_that_has_its_answer() -> None:
    request = received()
    request.answer("repeated", [])
    with pytest.raises(RuntimeError, match="asked while ANSWERED"):
        request.ask(Work())


#: What may be called in which state, and where it leads.
TRANSITIONS = {
    ("ask", State.RECEIVED): State.ASKED,
    ("ask", State.ASKED): State.ASKED,
    ("answer", State.RECEIVED): State.ANSWERED,
    ("answer", State.ASKED): State.ANSWERED,
    ("done", State.ANSWERED): State.DONE,
    ("drop", State.RECEIVED): State.DROPPED,
    ("drop", State.ASKED): State.DROPPED,
    ("drop", State.ANSWERED): State.DROPPED,
}
CALLS = {
    "ask": lambda request: request.ask(Work()),
    "answer": lambda request: request.answer("result", []),
    "done": QueuedRequest.done,
    "drop": QueuedRequest.drop,
}


@given(st.lists(st.sampled_from(sorted(CALLS)), max_size=12))
def test_states_follow_the_table_alone(calls: list[str]) -> None:
    request, finished = received(), 0
    for call in calls:
        before = request.state
        try:
            took = CALLS[call](request)
        except RuntimeError:
            took = False
        assert request.state is TRANSITIONS.get((call, before), before)
        assert (took is not False) == ((call, before) in TRANSITIONS)
        finished += before is not State.DONE and request.state is State.DONE
    assert finished <= 1
    assert (request.partition.offsets.unfinished == 0) == (request.state is State.DONE)
