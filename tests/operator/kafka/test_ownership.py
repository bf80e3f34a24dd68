"""Whose topics and groups are, on a real broker: an operator alters and deletes only what its resource created or adopted."""

import asyncio
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import ConfigResource, ResourceType

from harness.kafka import Broker, SecureBroker
from harness.resources import gateway_at
from harness.topics import TopicAdmin
from harness.waiting import until
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.credentials import Credentials
from podpair.operator.core.ownership import MARKS_GROUP, Origin, RecordedOwnership, recorded_ownership
from podpair.operator.kafka.topics import Topics

NOBODY = Credentials()
OWN = {"max.message.bytes": "2000000"}
MADE_BY_0_1_0 = recorded_ownership({"conditions": [{"type": "KafkaReady", "status": "True"}]})


@pytest.fixture(scope="module")
def admin(broker: Broker) -> TopicAdmin:
    return TopicAdmin(broker.address)


def gateway(broker: Broker, name: str, uid: str = "", **changed: Any) -> InferenceGateway:
    made = gateway_at(broker.address, name, **changed)
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"uid": uid or f"uid-of-{name}"})})


def state(admin: TopicAdmin, topic: str) -> tuple[str, int, dict[str, str]] | None:
    """Id, partitions and the settings that were given; None: it is not there."""
    if topic not in admin.admin.list_topics(timeout=10).topics:
        return None
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        described = admin.admin.describe_topics(TopicCollection([topic]))[topic].result(10)
        config = admin.admin.describe_configs([resource])[resource].result(10)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:  # it has gone between two questions
            return None
        raise
    given = {name: entry.value for name, entry in config.items() if entry.source == 1}
    return str(described.topic_id), len(described.partitions), given


def groups(admin: TopicAdmin) -> set[str]:
    return {one.group_id for one in admin.admin.list_consumer_groups().result(10).valid}


def commit(broker: Broker, group: str, *topics: str) -> None:
    member = Consumer({"bootstrap.servers": broker.address, "group.id": group})
    member.commit(offsets=[TopicPartition(topic, 0, 0) for topic in topics], asynchronous=False)
    member.close()


ORDERS: dict[str, dict[str, Any]] = {
    "compacted, for ever": {"cleanup_policy": "compact", "retention_ms": -1},
    "compacted, and cut": {"cleanup_policy": "compact,delete", "retention_ms": 1000},
    "like podpair's own": {"cleanup_policy": "delete", "retention_ms": 86_400_000},
    "with the broker's defaults": {},
}


@pytest.mark.parametrize("kind", ["requests", "results", "dlq"])
@pytest.mark.parametrize("config", ORDERS.values(), ids=ORDERS.keys())
async def test_a_topic_that_was_there_is_neither_altered_nor_deleted(
    topics: Topics, broker: Broker, admin: TopicAdmin, kind: str, config: dict[str, Any]
) -> None:
    name = f"orders-{kind}-{len(str(config))}"
    named = {"requests": name} if kind != "results" else {"results": name}
    theirs = f"{name}.dlq" if kind == "dlq" else name
    admin.create(theirs, 2, **config)
    before = state(admin, theirs)
    wanted = gateway(
        broker,
        name,
        kafka__deletionPolicy="Delete",
        kafka__requests={"partitions": 4, "name": named.get("requests"), "config": OWN},
        kafka__results={"partitions": 4, "name": named.get("results"), "config": OWN},
    )
    known = RecordedOwnership()
    for _ in range(2):
        seen = await topics.reconcile(wanted, NOBODY, known)
        assert seen.ownership is not None
        known = seen.ownership
        assert state(admin, theirs) == before
    if "compact" in config.get("cleanup_policy", ""):
        assert (seen.ready, seen.reason) == (False, "TopicCompacted")
        assert theirs in seen.message
    else:
        assert (seen.ready, seen.reason) == (True, "TopicsReady")
        assert f"not made by this resource: {theirs} (" in seen.message
        assert "max.message.bytes=1048588, wanted 2000000" in seen.message
    done = await topics.delete(wanted, NOBODY, known)
    assert theirs not in done.topics
    assert len(done.topics) == 2
    assert any(theirs in one and "did not create it" in one for one in done.left)
    until(lambda: all(state(admin, one) is None for one in done.topics))
    assert state(admin, theirs) == before


async def test_too_few_partitions_of_a_topic_of_others_are_told_and_left(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    admin.create("narrow-theirs", 1)
    seen = await topics.reconcile(
        gateway(broker, "few", kafka__requests={"name": "narrow-theirs", "partitions": 2}), NOBODY
    )
    assert (seen.ready, seen.reason) == (False, "TopicHasTooFewPartitions")
    assert "this resource did not make it" in seen.message
    assert state(admin, "narrow-theirs")[1] == 1  # type: ignore[index]


async def test_a_topic_is_adopted_when_the_resource_says_so_and_let_go_when_it_no_longer_does(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    admin.create("adopted", 1, retention_ms=5)
    changed = {"kafka__requests": {"name": "adopted", "partitions": 3}}
    wanted = gateway(broker, "adopts", **changed, kafka__adoptTopics=True)
    seen = await topics.reconcile(wanted, NOBODY)
    assert (seen.ready, seen.partitions) == (True, 3)
    assert state(admin, "adopted")[1:] == (3, {"retention.ms": "86400000"})  # type: ignore[index]
    # Another resource gets nothing of it, however often it says that it adopts.
    seen = await Topics().reconcile(gateway(broker, "adopts-too", **changed, kafka__adoptTopics=True), NOBODY)
    assert (seen.reason, "default/adopts " in seen.message) == ("TopicConflict", True)

    no_longer = gateway(broker, "adopts", **changed)
    seen = await topics.reconcile(no_longer, NOBODY)
    assert seen.ownership is not None
    assert "not made by this resource: adopted" in seen.message
    assert "adopted" not in (await topics.delete(no_longer, NOBODY, seen.ownership)).topics
    seen = await topics.reconcile(gateway(broker, "adopts-too", **changed, kafka__adoptTopics=True), NOBODY)
    assert seen.ready
    done = await topics.delete(gateway(broker, "adopts-too", **changed), NOBODY, seen.ownership or RecordedOwnership())
    # It no longer says that it adopts, so it deletes nothing of others.
    assert "adopted" not in done.topics
    assert state(admin, "adopted") is not None


async def test_adopted_topics_go_with_their_resource(topics: Topics, broker: Broker, admin: TopicAdmin) -> None:
    admin.create("to-go", 2)
    wanted = gateway(broker, "goes", kafka__results={"name": "to-go", "partitions": 2}, kafka__adoptTopics=True)
    await topics.reconcile(wanted, NOBODY)
    assert "to-go" in (await topics.delete(wanted, NOBODY)).topics
    until(lambda: state(admin, "to-go") is None)


@pytest.mark.parametrize("shared", ["requests", "results", "dlq"])
async def test_two_resources_with_one_topic_do_not_fight(
    topics: Topics, broker: Broker, admin: TopicAdmin, shared: str
) -> None:
    name = f"shared-{shared}"
    kind = "results" if shared == "results" else "requests"
    first_name = f"{name}.dlq" if shared == "dlq" else name
    first = gateway(broker, f"{name}-first", **{f"kafka__{kind}": {"name": name, "partitions": 2, "retention": "3h"}})
    if shared == "dlq":  # the other one's requests topic has the name of the first's dead letters
        second_kind, second_topic = "requests", f"{name}.dlq"
    else:
        second_kind, second_topic = kind, name
    second = gateway(
        broker,
        f"{name}-second",
        kafka__deletionPolicy="Delete",
        **{f"kafka__{second_kind}": {"name": second_topic, "partitions": 4, "retention": "7h"}},
    )
    elsewhere = Topics()  # the operator of another cluster, which knows nothing but what the broker tells
    try:
        one = await topics.reconcile(first, NOBODY)
        before = state(admin, first_name)
        assert one.ready
        for _ in range(2):
            two = await elsewhere.reconcile(second, NOBODY)
            assert (two.ready, two.reason) == (False, "TopicConflict")
            assert f"topic {second_topic} is that of InferenceGateway default/{name}-first (uid uid-of-" in two.message
            again = await topics.reconcile(first, NOBODY)
            assert (again.ready, again.changes) == (True, ())
            assert state(admin, first_name) == before
        done = await elsewhere.delete(second, NOBODY, two.ownership or RecordedOwnership())
        assert second_topic not in done.topics
        assert any(f"default/{name}-first" in told for told in done.left)
        assert state(admin, first_name) == before
        assert first_name in (await topics.delete(first, NOBODY)).topics
    finally:
        await elsewhere.close()


async def test_two_resources_that_create_one_topic_at_once_have_one_owner(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    elsewhere = Topics()
    both = [gateway(broker, f"race-{number}", kafka__requests={"name": "race", "partitions": 2}) for number in range(2)]
    try:
        await asyncio.gather(topics.reconcile(both[0], NOBODY), elsewhere.reconcile(both[1], NOBODY))
        seen = [await topics.reconcile(both[0], NOBODY), await elsewhere.reconcile(both[1], NOBODY)]
        assert sorted(one.reason for one in seen) == ["TopicConflict", "TopicsReady"]
    finally:
        await elsewhere.close()


@pytest.mark.parametrize("knows", [True, False], ids=["remembered", "marked"])
async def test_a_topic_that_somebody_made_again_is_not_this_resources(
    topics: Topics, broker: Broker, admin: TopicAdmin, knows: bool
) -> None:
    name = f"again-{knows}".lower()
    wanted = gateway(broker, name, kafka__deletionPolicy="Delete")
    seen = await topics.reconcile(wanted, NOBODY)
    known = (seen.ownership if knows else None) or RecordedOwnership()
    topic = f"default.{name}.results"
    admin.recreate(topic, 2, retention_ms=7)
    before = state(admin, topic)
    seen = await topics.reconcile(wanted, NOBODY, known)
    assert state(admin, topic) == before
    assert f"not made by this resource: {topic} (" in seen.message
    assert ("made again by somebody else" in seen.message) == knows
    done = await topics.delete(wanted, NOBODY, seen.ownership or known)
    assert sorted(done.topics) == [f"default.{name}.requests", f"default.{name}.requests.dlq"]
    assert state(admin, topic) == before


async def test_what_a_resource_no_longer_says_is_taken_back(topics: Topics, broker: Broker, admin: TopicAdmin) -> None:
    topic = "default.less.requests"
    more = {"max.message.bytes": "2000000", "segment.bytes": "2000000"}
    seen = await topics.reconcile(gateway(broker, "less", kafka__requests={"partitions": 2, "config": more}), NOBODY)
    assert seen.ownership is not None
    less = gateway(broker, "less", kafka__requests={"partitions": 2, "config": {"segment.bytes": "2000000"}})
    seen = await topics.reconcile(less, NOBODY, seen.ownership)
    assert sorted(seen.changes) == [
        "Reset max.message.bytes of topic default.less.requests",
        "Reset max.message.bytes of topic default.less.requests.dlq",
    ]
    expected = {"cleanup.policy": "delete", "retention.ms": "86400000", "segment.bytes": "2000000"}
    assert state(admin, topic)[2] == expected  # type: ignore[index]
    assert "max.message.bytes" not in state(admin, f"{topic}.dlq")[2]  # type: ignore[index]
    seen = await topics.reconcile(less, NOBODY, seen.ownership or RecordedOwnership())
    assert (seen.ready, seen.changes) == (True, ())


async def test_dead_letters_that_are_kept_no_longer_are_told_of_and_go_with_the_resource(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    seen = await topics.reconcile(gateway(broker, "letters"), NOBODY)
    without = gateway(broker, "letters", kafka__deadLetters={"enabled": False}, kafka__deletionPolicy="Delete")
    seen = await topics.reconcile(without, NOBODY, seen.ownership or RecordedOwnership())
    assert (seen.ready, seen.changes) == (True, ())
    assert "topic default.letters.requests.dlq was made for this resource, which no longer names it" in seen.message
    done = await topics.delete(without, NOBODY, seen.ownership or RecordedOwnership())
    assert "default.letters.requests.dlq" in done.topics


async def test_the_state_of_workflows_goes_with_the_resource(topics: Topics, broker: Broker, admin: TopicAdmin) -> None:
    wanted = gateway(broker, "flowed", gateway__workflows={}, kafka__deletionPolicy="Delete")
    seen = await topics.reconcile(wanted, NOBODY)
    done = await topics.delete(wanted, NOBODY, seen.ownership or RecordedOwnership())
    assert "default.flowed.requests.workflows" in done.topics
    until(lambda: state(admin, "default.flowed.requests.workflows") is None)


async def test_a_consumer_group_of_others_stays(topics: Topics, broker: Broker, admin: TopicAdmin) -> None:
    admin.create("bills", 1)
    commit(broker, "billing", "bills")
    wanted = gateway(broker, "joins", kafka__consumerGroup={"id": "billing"}, kafka__deletionPolicy="Delete")
    seen = await topics.reconcile(wanted, NOBODY)
    assert seen.ready
    assert "consumer group billing was there already" in seen.message
    commit(broker, "billing", "default.joins.requests")
    await topics.delete(wanted, NOBODY, seen.ownership or RecordedOwnership())
    assert "billing" in groups(admin)
    member = Consumer({"bootstrap.servers": broker.address, "group.id": "billing"})
    (kept,) = member.committed([TopicPartition("bills", 0)], timeout=10)
    member.close()
    assert kept.offset == 0


async def test_a_group_that_others_joined_later_stays_and_ones_own_goes(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    admin.create("joined-later", 1)
    for name, joined in (("alone", ()), ("joined", ("joined-later",))):
        wanted = gateway(broker, name, kafka__deletionPolicy="Delete")
        seen = await topics.reconcile(wanted, NOBODY)
        commit(broker, f"default.{name}", f"default.{name}.requests", *joined)
        done = await topics.delete(wanted, NOBODY, seen.ownership or RecordedOwnership())
        assert f"default.{name}.requests" in done.topics
        assert (f"default.{name}" in groups(admin)) == bool(joined)
        assert any("joined-later" in one for one in done.left) == bool(joined)


async def test_a_group_of_another_resource_is_told_with_its_name(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    assert (await topics.reconcile(gateway(broker, "leads"), NOBODY)).ready
    member = Consumer({"bootstrap.servers": broker.address, "group.id": "default.leads"})
    member.subscribe(["default.leads.requests"])
    until(lambda: member.poll(0.1) is not None or bool(member.assignment()))
    follows = gateway(broker, "follows", kafka__consumerGroup={"id": "default.leads"})
    seen = await topics.reconcile(follows, NOBODY)
    assert (seen.ready, seen.reason) == (False, "ConsumerGroupConflict")
    assert "default.leads.requests for InferenceGateway default/leads (uid uid-of-leads)" in seen.message
    assert (await topics.reconcile(gateway(broker, "leads"), NOBODY)).ready
    member.close()
    await topics.delete(follows, NOBODY, seen.ownership or RecordedOwnership())
    assert "default.leads" in groups(admin)


async def test_topics_that_0_1_0_made_are_taken_over_and_those_that_it_found_are_not(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    made = {"cleanup_policy": "delete", "retention_ms": 86_400_000}
    admin.create("default.old.requests", 2, **made)
    admin.create("default.old.requests.dlq", 1, retention_ms=604_800_000)  # found: only its retention was set
    admin.create("orders-old", 2, **made)
    wanted = gateway(
        broker, "old", kafka__results={"name": "orders-old", "partitions": 2}, kafka__deletionPolicy="Delete"
    )
    # Without what 0.1.0 left in the status nothing is this resource's.
    seen = await Topics().reconcile(wanted, NOBODY)
    assert seen.ownership is not None
    assert {one.origin for one in seen.ownership.topics} == {Origin.EXISTING}
    seen = await topics.reconcile(wanted, NOBODY, MADE_BY_0_1_0)
    assert seen.ownership is not None
    assert {one.name: one.origin for one in seen.ownership.topics} == {
        "default.old.requests": Origin.CREATED,
        "default.old.requests.dlq": Origin.EXISTING,
        "orders-old": Origin.EXISTING,
    }
    assert not seen.ownership.earlier
    done = await topics.delete(wanted, NOBODY, MADE_BY_0_1_0)
    assert done.topics == ("default.old.requests",)


async def test_the_topics_of_a_resource_that_is_gone_are_anybodys_to_adopt(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    before, after = (gateway(broker, "reborn", uid) for uid in ("first", "second"))
    seen = await topics.reconcile(before, NOBODY)
    assert (await topics.reconcile(after, NOBODY)).reason == "TopicConflict"
    await topics.release(before, NOBODY, seen.ownership or RecordedOwnership())
    seen = await topics.reconcile(after, NOBODY)
    assert (seen.ready, "not made by this resource" in seen.message) == (True, True)
    assert seen.ownership is not None
    assert {one.origin for one in seen.ownership.topics} == {Origin.EXISTING}
    seen = await topics.reconcile(gateway(broker, "reborn", "second", kafka__adoptTopics=True), NOBODY, seen.ownership)
    assert seen.ownership is not None
    assert {one.origin for one in seen.ownership.topics} == {Origin.ADOPTED}


async def test_where_marks_are_not_allowed_what_is_remembered_decides(
    topics: Topics, secure_broker: SecureBroker
) -> None:
    secure_broker.set_password("eve", "eve")
    eve, admin = Credentials("eve", "eve"), TopicAdmin(secure_broker.address)
    for topic in ("requests", "results", "requests.dlq"):
        secure_broker.allow("eve", "TOPIC", f"default.unmarked.{topic}", "ALL")
    secure_broker.allow("eve", "GROUP", "default.unmarked", "DESCRIBE", "DELETE")
    address = secure_broker.addresses["SASL_PLAINTEXT"]
    made = gateway_at(address, "unmarked", kafka__sasl={"secretName": "kafka"}, kafka__deletionPolicy="Delete")
    seen = await topics.reconcile(made, eve)
    assert (seen.ready, f"Read on consumer group {MARKS_GROUP}" in seen.message) == (True, True)
    assert seen.ownership is not None
    # Nothing is adopted where nobody can tell whose it is.
    adopting = gateway_at(address, "unmarked", kafka__sasl={"secretName": "kafka"}, kafka__adoptTopics=True)
    other = await topics.reconcile(adopting, eve)
    assert {one.origin for one in (other.ownership or RecordedOwnership()).topics} == {Origin.EXISTING}
    admin.recreate("default.unmarked.results", 2)
    done = await topics.delete(made, eve, seen.ownership)
    assert done.topics == ("default.unmarked.requests", "default.unmarked.requests.dlq")

    secure_broker.allow("eve", "GROUP", MARKS_GROUP, "READ")
    seen = await topics.reconcile(made, eve)
    assert (seen.ready, MARKS_GROUP in seen.message) == (True, False)


async def test_a_creation_that_nobody_waits_for_any_longer_is_marked_all_the_same(
    topics: Topics, broker: Broker, admin: TopicAdmin
) -> None:
    for number in range(6):
        wanted = gateway(broker, f"cut-{number}", kafka__deletionPolicy="Delete")
        keeping = asyncio.create_task(topics.reconcile(wanted, NOBODY))
        while f"default.cut-{number}.requests" not in admin.admin.list_topics(timeout=10).topics:
            await asyncio.sleep(0)
        keeping.cancel()
        await asyncio.wait([keeping])
        done = await topics.delete(wanted, NOBODY)
        assert f"default.cut-{number}.requests" in done.topics
        assert done.left == ()
