"""Whose a topic is, decided from its mark, from what the status remembers, and from what the resource says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.resources import resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.conditions import Observed, status
from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.core.ownership import (
    Claim,
    GroupRecord,
    Mark,
    Origin,
    Owner,
    RecordedOwnership,
    Topic,
    TopicRecord,
    claim,
    group_origin,
    owner_of,
    read_mark,
    recorded_ownership,
)

NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
OTHER = Owner("u2", "ml/other")
HERE = Topic("id-1", {})
LIKE_0_1_0 = Topic("id-1", {"cleanup.policy": "delete", "retention.ms": "1"})
EARLIER = recorded_ownership({"conditions": [{"type": "KafkaReady", "status": "True"}]})


def gateway(**changed: Any) -> InferenceGateway:
    made = resource(**changed)
    made["metadata"] |= {"uid": "u1", "generation": 3}
    return InferenceGateway.model_validate(made)


def mark(owner: Owner, origin: Origin = Origin.CREATED, topic: str = "id-1") -> Mark:
    return Mark(topic, owner, origin)


def knows(origin: Origin, topic_id: str = "id-1") -> RecordedOwnership:
    return RecordedOwnership((TopicRecord("default.digits.requests", topic_id, origin),))


MINE = owner_of(gateway())
ADOPTING = {"kafka__adoptTopics": True}
CASES: dict[str, tuple[dict[str, Any], Topic, Mark | None, RecordedOwnership, Claim]] = {
    "nobody's": ({}, HERE, None, RecordedOwnership(), Claim(Origin.EXISTING)),
    "marked as ours": ({}, HERE, mark(MINE), RecordedOwnership(), Claim(Origin.CREATED)),
    "remembered": ({}, HERE, None, knows(Origin.CREATED), Claim(Origin.CREATED)),
    "asked for, no answer": ({}, HERE, None, knows(Origin.CREATED, ""), Claim(Origin.CREATED)),
    "made again": ({}, HERE, None, knows(Origin.CREATED, "id-0"), Claim(Origin.EXISTING, recreated=True)),
    "marked by another": ({}, HERE, mark(OTHER), knows(Origin.CREATED), Claim(Origin.EXISTING, OTHER)),
    "another's, and adopting": (ADOPTING, HERE, mark(OTHER), RecordedOwnership(), Claim(Origin.EXISTING, OTHER)),
    "nobody's, and adopting": (ADOPTING, HERE, None, RecordedOwnership(), Claim(Origin.ADOPTED)),
    "adopted": (ADOPTING, HERE, mark(MINE, Origin.ADOPTED), RecordedOwnership(), Claim(Origin.ADOPTED)),
    "adopted once": ({}, HERE, mark(MINE, Origin.ADOPTED), knows(Origin.ADOPTED), Claim(Origin.EXISTING)),
    "ours, and adopting": (ADOPTING, HERE, mark(MINE), knows(Origin.CREATED), Claim(Origin.CREATED)),
    "0.1.0's": ({}, LIKE_0_1_0, None, EARLIER, Claim(Origin.CREATED)),
    "0.1.0 found it": ({}, HERE, None, EARLIER, Claim(Origin.EXISTING)),
    "0.1.0's, but another's": ({}, LIKE_0_1_0, mark(OTHER), EARLIER, Claim(Origin.EXISTING, OTHER)),
    "0.1.0, a name of the user's": (
        {"kafka__requests": {"name": "default.digits.requests"}}, LIKE_0_1_0, None, EARLIER, Claim(Origin.EXISTING),
    ),
    "like 0.1.0's, but of a new resource": ({}, LIKE_0_1_0, None, RecordedOwnership(), Claim(Origin.EXISTING)),
    "brokers without ids": ({}, Topic(NO_ID, {}), None, knows(Origin.CREATED, NO_ID), Claim(Origin.CREATED)),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "topic", "marked", "known", "expected"), CASES.values(), ids=CASES.keys())
def test_whose_a_topic_is(
    changed: dict[str, Any], topic: Topic, marked: Mark | None, known: RecordedOwnership, expected: Claim
) -> None:
    wanted = gateway(**changed)
    adopt = wanted.spec.kafka.adopt_topics
    assert claim(wanted, "default.digits.requests", topic, marked, known, adopt=adopt) == expected


_TEXT = st.text(max_size=20)
_MARKS = st.builds(
    Mark, _TEXT, st.builds(Owner, _TEXT, _TEXT), st.sampled_from(Origin), st.none() | _TEXT, st.integers(0, 10**6)
)


@given(_MARKS)
def test_a_mark_is_read_as_it_was_written(written: Mark) -> None:
    assert read_mark(written.text(), written.topic_id) == written


@given(st.text(min_size=1))
def test_a_mark_that_cannot_be_read_is_somebody_elses(text: str) -> None:
    read = read_mark(text, "id-1")
    assert read is not None
    assert read.owner.uid != "u1"


def test_a_mark_of_a_topic_that_is_gone_is_none() -> None:
    assert read_mark(mark(OTHER, topic="id-0").text(), "id-1") is None
    assert read_mark("", "id-1") is None
    assert read_mark(None, "id-1") is None


_RECORDS = st.builds(
    RecordedOwnership,
    st.lists(st.builds(TopicRecord, _TEXT, _TEXT, st.sampled_from(Origin), st.lists(_TEXT).map(tuple)), max_size=3).map(
        tuple
    ),
    st.lists(st.builds(GroupRecord, _TEXT, st.sampled_from(Origin)), max_size=3).map(tuple),
)


@given(_RECORDS)
def test_what_is_remembered_stands_in_the_status_until_something_new_is_known(known: RecordedOwnership) -> None:
    seen = Observed(kafka=KafkaState(True, Reason.TOPICS_READY, "topics", ownership=known))
    first = status(gateway(), seen, {}, "2026-01-01T00:00:00Z")
    assert recorded_ownership(first) == known
    away = Observed(kafka=KafkaState(False, Reason.BROKER_UNREACHABLE, "nobody"))
    for later in (Observed(), away):
        assert recorded_ownership(status(gateway(), later, first, "2026-01-02T00:00:00Z")) == known


def test_a_group_is_this_resources_if_it_came_after_it() -> None:
    asked = {"exists": True, "requests": Origin.CREATED}
    assert group_origin(gateway(), RecordedOwnership(), None, exists=False, requests=None) == Origin.CREATED
    assert group_origin(gateway(), RecordedOwnership(), None, **asked) == Origin.EXISTING
    assert group_origin(gateway(), RecordedOwnership(), None, exists=None, requests=Origin.CREATED) is None
    assert group_origin(gateway(), EARLIER, None, **asked) == Origin.CREATED
    theirs = gateway(kafka__consumerGroup={"id": "billing"})
    assert group_origin(theirs, EARLIER, None, **asked) == Origin.EXISTING
    known = RecordedOwnership(groups=(GroupRecord("default.digits", Origin.EXISTING),))
    assert group_origin(gateway(), known, None, exists=False, requests=None) == Origin.EXISTING
    told = Mark("id-1", MINE, Origin.CREATED, "default.digits")
    assert group_origin(gateway(), RecordedOwnership(), told, **asked) == Origin.CREATED
