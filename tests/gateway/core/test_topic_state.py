"""What counts as a change of a topic, where brokers of a cluster know more and less of it."""

import pytest

from podpair.gateway.core import topic_state
from podpair.gateway.core.topic_state import Change, ObservedTopic, TopicState, change_of

A4, A8, B4, B2 = TopicState("a", 4), TopicState("a", 8), TopicState("b", 4), TopicState("b", 2)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (A4, A4, None),
        (None, None, None),
        (None, A4, "created"),
        (A4, None, "deleted"),
        (A4, A8, "widened"),
        (A8, B4, "recreated"),
        (TopicState(None, 8), TopicState(None, 4), "narrowed"),
    ],
)
def test_a_change_has_a_name(old: TopicState | None, new: TopicState | None, change: Change | None) -> None:
    assert change_of(old, new) == change


def test_another_id_or_more_partitions_count_at_once() -> None:
    topic = ObservedTopic(A4, Clock())
    assert not topic.observe(A4)
    assert topic.observe(A8)
    assert topic.observe(B2)
    assert topic.state == B2


def test_what_another_broker_has_not_learnt_yet_is_no_change() -> None:
    clock = Clock()
    topic = ObservedTopic(A8, clock)
    assert not topic.observe(A4), "partitions never become fewer"
    assert topic.observe(B4)
    assert not topic.observe(A8), "the id that was replaced"
    assert topic.state == B4
    clock.now += topic_state._RETIRED
    assert topic.observe(A8), "it is told for so long that it has to be right"


def test_a_topic_is_missing_when_it_has_been_for_a_while() -> None:
    clock = Clock()
    topic = ObservedTopic(A4, clock)
    assert not topic.observe(None)
    assert topic.in_doubt
    assert not topic.observe(A4)
    assert not topic.in_doubt
    clock.now += topic_state._CONFIRMED
    assert not topic.observe(None), "the time begins anew"
    clock.now += topic_state._CONFIRMED
    assert topic.observe(None)
    assert not topic.in_doubt
    assert not topic.observe(None)
    assert topic.observe(B4)
    assert not topic.observe(A4), "the id that it had before it was missing"
    assert topic.state == B4


def test_without_ids_widths_are_what_there_is() -> None:
    clock = Clock()
    topic = ObservedTopic(TopicState(None, 4), clock)
    assert not topic.observe(TopicState("a", 4)), "a broker that was replaced by a newer one"
    assert topic.observe(TopicState(None, 8))
    assert not topic.observe(TopicState(None, 4)), "perhaps a broker that has not learnt of it"
    clock.now += topic_state._CONFIRMED
    assert topic.observe(TopicState(None, 4))
    assert topic.state == TopicState(None, 4)
    assert not ObservedTopic(A4, clock).observe(TopicState(None, 4)), "a broker that was replaced by an older one"
