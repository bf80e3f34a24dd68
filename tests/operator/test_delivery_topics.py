"""The topics of deliveries, as the operator plans them."""

from pathlib import Path
from typing import Any

import pytest

from harness.desired_objects import gateway_config
from harness.resources import resource
from podpair.gateway.kafka.topics import wanted_topics as made_by_the_gateway
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.kafka_state import Reason
from podpair.operator.core.ownership import Origin, RecordedOwnership, Topic, TopicRecord, claim
from podpair.operator.core.topics import FoundTopic, TopicsPlan, plan_topics
from podpair.operator.core.wanted_topics import wanted_topics

NAMES = [f"default.digits.deliveries.{name}" for name in ("subscriptions", "retry", "ordered", "dlq")]
WISHES: dict[str, Any] = {"deliveries": {"replication": 1, "maxAge": "2h"}, "kafka__results": {"partitions": 20},
                          "kafka__requests": {"partitions": 20}}  # fmt: skip


def gateway(**changed: Any) -> InferenceGateway:
    return InferenceGateway.model_validate(resource(**(WISHES | changed)))


def planned(wanted: InferenceGateway, origin: Origin = Origin.CREATED, **found: FoundTopic) -> TopicsPlan:
    """The plan where all topics are there as wanted, but for those of deliveries in `found`, by the end of their names."""
    has = {
        one.name: FoundTopic(one.partitions, 1, one.config, "id", one.config_at_creation)
        for one in wanted_topics(wanted)
    }
    has |= {f"default.digits.deliveries.{name}": topic for name, topic in found.items()}
    known = RecordedOwnership(tuple(TopicRecord(name, "id", origin) for name in has))
    claims = {name: claim(wanted, name, Topic("id", {}), None, known, adopt=False) for name in has}
    return plan_topics(wanted, has, claims, known)


def test_they_are_as_the_gateway_makes_them_without_an_operator(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, **WISHES)
    made = {
        one.topic: (one.num_partitions, dict(one.config)) for one in made_by_the_gateway(config) if one.topic in NAMES
    }
    assert list(made) == NAMES
    wanted = {
        one.name: (one.partitions, one.config_at_creation) for one in wanted_topics(gateway()) if one.name in NAMES
    }
    assert wanted == made
    assert made[NAMES[0]] == (1, {"cleanup.policy": "compact", "segment.ms": "3600000"})
    assert (made[NAMES[1]][0], made[NAMES[2]][0]) == (6, 20)


def test_without_deliveries_there_are_none() -> None:
    assert not {one.name for one in wanted_topics(gateway(deliveries=None))} & set(NAMES)


def test_a_topic_whose_records_wait_is_never_widened() -> None:
    """A key would be in another partition than what waits before it."""
    assert planned(gateway()) == TopicsPlan()
    narrow = FoundTopic(2, 1, {}, "id")
    for plan in (planned(gateway(), ordered=narrow, retry=narrow), planned(gateway(), Origin.EXISTING, ordered=narrow)):
        assert (plan.grow, plan.fault) == ({}, None)


def test_subscriptions_are_on_a_topic_that_keeps_the_last_of_each() -> None:
    config = {"cleanup.policy": "delete", "segment.ms": "3600000"}
    deleting = FoundTopic(1, 1, config, "id", config)
    assert planned(gateway(), subscriptions=deleting).alter == {NAMES[0]: {"cleanup.policy": "compact"}}
    fault = planned(gateway(), Origin.EXISTING, subscriptions=deleting).fault
    assert fault is not None
    assert fault.reason == Reason.TOPIC_NOT_COMPACTED
    assert "subscriptions to deliveries would be lost" in fault.message


def test_what_waits_is_on_topics_that_keep_all() -> None:
    compacted = FoundTopic(6, 1, {"cleanup.policy": "compact"}, "id", {"cleanup.policy": "compact"})
    fault = planned(gateway(), retry=compacted).fault
    assert fault is not None
    assert fault.reason == Reason.TOPIC_COMPACTED


@pytest.mark.parametrize(
    ("kafka", "topic"),
    [("requests", "default.digits.deliveries.dlq"), ("results", "x.deliveries.retry"), ("results", "own.ordered"),
     ("requests", "own")],
)  # fmt: skip
def test_no_other_topic_has_a_name_of_theirs(kafka: str, topic: str) -> None:
    deliveries = {} if topic.split(".")[0] != "own" else {"topic": "own"}
    with pytest.raises(ValueError, match=r"a topic of deliveries"):
        gateway(deliveries=deliveries, **{f"kafka__{kafka}": {"name": topic, "partitions": 20}})
