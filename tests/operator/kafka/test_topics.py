"""Topics on a real broker: made, grown, kept, deleted; never shrunk, and left alone where nothing differs."""

from typing import Any

import pytest
from confluent_kafka import Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from confluent_kafka.cimpl import Consumer, NewPartitions, NewTopic

from harness.kafka import Broker
from harness.resources import gateway_at
from harness.waiting import until
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.credentials import Credentials
from podpair.operator.kafka.topics import DeletionIncomplete, Topics

NOBODY = Credentials()


@pytest.fixture(scope="module")
def admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.address})


def settings(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = admin.describe_configs([resource])[resource].result(10)
    return {name: entry.value for name, entry in found.items()}


def width(admin: AdminClient, topic: str) -> int:
    description = admin.describe_topics(TopicCollection([topic]))[topic].result(10)
    return len(description.partitions)


def set_by_hand(admin: AdminClient, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]
    ).values():
        future.result(10)
    until(lambda: settings(admin, topic)[name] == value)


async def test_topics_are_made_as_wanted_and_left_alone_from_then_on(
    topics: Topics, broker: Broker, admin: AdminClient
) -> None:
    wanted = gateway_at(
        broker.address,
        "made",
        kafka__requests={"partitions": 3, "retention": "2h", "config": {"max.message.bytes": "2000000"}},
        kafka__results={"partitions": 3, "retention": "10m", "replication": 1},
        kafka__deadLetters={"retention": "24h"},
    )
    seen = await topics.reconcile(wanted, NOBODY)
    assert (seen.ready, seen.reason, seen.partitions) == (True, "TopicsReady", 3)
    assert seen.changes == (
        "Created topic default.made.requests with 3 partitions",
        "Created topic default.made.results with 3 partitions",
        "Created topic default.made.requests.dlq with 1 partitions",
    )
    requests, results = settings(admin, "default.made.requests"), settings(admin, "default.made.results")
    dead = settings(admin, "default.made.requests.dlq")
    assert (requests["retention.ms"], requests["max.message.bytes"]) == ("7200000", "2000000")
    assert (results["retention.ms"], results["cleanup.policy"]) == ("600000", "delete")
    assert (dead["retention.ms"], dead["max.message.bytes"]) == ("86400000", "2000000")

    seen = await topics.reconcile(wanted, NOBODY)
    assert (seen.ready, seen.changes, seen.lag) == (True, (), 0)


async def test_a_cache_has_a_topic_that_stays_when_nothing_is_cached_any_more(
    topics: Topics, broker: Broker, admin: AdminClient
) -> None:
    cached = gateway_at(broker.address, "cached", gateway__cache={"models": [{"model": "digits"}]})
    seen = await topics.reconcile(cached, NOBODY)
    assert "Created topic default.cached.requests.cache with 1 partitions" in seen.changes
    made = settings(admin, "default.cached.requests.cache")
    assert (made["retention.ms"], made["cleanup.policy"]) == ("3600000", "delete")
    seen = await topics.reconcile(gateway_at(broker.address, "cached"), NOBODY)
    assert (seen.ready, seen.changes) == (True, ())


async def test_workflows_have_a_compacted_topic_that_is_as_wide_as_the_requests_topic(
    topics: Topics, broker: Broker, admin: AdminClient
) -> None:
    requests, state = "default.flows.requests", "default.flows.requests.workflows"

    def flows(partitions: int) -> InferenceGateway:
        wanted = {"partitions": partitions, "config": {"max.message.bytes": "2000000"}}
        return gateway_at(broker.address, "flows", gateway__workflows={}, kafka__requests=wanted)

    seen = await topics.reconcile(flows(2), NOBODY)
    assert (seen.ready, f"Created topic {state} with 2 partitions" in seen.changes) == (True, True)
    made = settings(admin, state)
    assert (made["cleanup.policy"], made["max.message.bytes"]) == ("compact", "2000000")
    assert (await topics.reconcile(flows(2), NOBODY)).changes == ()

    seen = await topics.reconcile(flows(4), NOBODY)
    assert set(seen.changes) == {f"Grew topic {topic} to 4 partitions" for topic in (requests, state)}
    # What somebody else has widened counts, too.
    admin.create_partitions([NewPartitions(requests, 5)])[requests].result(10)
    until(lambda: width(admin, requests) == 5)
    seen = await topics.reconcile(flows(4), NOBODY)
    assert (seen.ready, seen.changes) == (True, (f"Grew topic {state} to 5 partitions",))
    # So it does where the results topic may not grow.
    wider = {"kafka__requests": {"partitions": 6}, "kafka__results": {"partitions": 6}, "gateway__workflows": {}}
    seen = await topics.reconcile(gateway_at(broker.address, "flows", **wider), NOBODY)
    assert (seen.reason, width(admin, requests), width(admin, state)) == ("RepartitionRefused", 5, 6)

    set_by_hand(admin, state, "cleanup.policy", "delete")
    seen = await topics.reconcile(flows(4), NOBODY)
    assert f"Set cleanup.policy=compact of topic {state}" in seen.changes
    assert seen.ready
    assert (await topics.reconcile(gateway_at(broker.address, "flows"), NOBODY)).changes == ()


@pytest.mark.parametrize(
    ("partitions", "policy", "create", "reason", "words"),
    [
        (1, "compact", True, "TopicHasTooFewPartitions", "this resource did not make it"),
        (1, "compact", False, "TopicHasTooFewPartitions", "kafka.createTopics is false"),
        (2, "delete", True, "TopicNotCompacted", "cleanup.policy=delete"),
        (2, "compact,delete", True, "TopicNotCompacted", "cleanup.policy=compact,delete"),
        (2, "compact", True, "TopicsReady", "used as it is"),
    ],
)
async def test_a_topic_of_workflows_that_was_there_must_be_fit_for_them(
    topics: Topics,
    broker: Broker,
    admin: AdminClient,
    partitions: int,
    policy: str,
    create: bool,
    reason: str,
    words: str,
) -> None:
    name = f"fit-{partitions}-{policy.replace(',', '-')}-{create}".lower()
    state = f"default.{name}.requests.workflows"
    await topics.reconcile(gateway_at(broker.address, name), NOBODY)
    admin.create_topics([NewTopic(state, partitions, config={"cleanup.policy": policy})])[state].result(10)
    until(lambda: state in admin.list_topics(timeout=10).topics)
    wanted = gateway_at(broker.address, name, gateway__workflows={}, kafka__createTopics=create)
    seen = await topics.reconcile(wanted, NOBODY)
    assert (seen.reason, seen.changes) == (reason, ())
    assert state in seen.message
    assert words in seen.message


async def test_settings_that_the_resource_names_are_put_back_and_others_are_not(
    topics: Topics, broker: Broker, admin: AdminClient
) -> None:
    wanted = gateway_at(broker.address, "drift", kafka__results={"partitions": 2, "retention": "1h"})
    await topics.reconcile(wanted, NOBODY)
    set_by_hand(admin, "default.drift.results", "retention.ms", "1")
    set_by_hand(admin, "default.drift.results", "segment.bytes", "2000000")
    seen = await topics.reconcile(wanted, NOBODY)
    assert seen.changes == ("Set retention.ms=3600000 of topic default.drift.results",)
    found = settings(admin, "default.drift.results")
    assert (found["retention.ms"], found["segment.bytes"]) == ("3600000", "2000000")


async def test_requests_grow_and_nothing_shrinks(topics: Topics, broker: Broker, admin: AdminClient) -> None:
    await topics.reconcile(gateway_at(broker.address, "grow"), NOBODY)
    wider = gateway_at(broker.address, "grow", kafka__requests={"partitions": 5})
    seen = await topics.reconcile(wider, NOBODY)
    assert seen.changes == ("Grew topic default.grow.requests to 5 partitions",)
    assert (seen.ready, seen.partitions, width(admin, "default.grow.requests")) == (True, 5, 5)
    seen = await topics.reconcile(gateway_at(broker.address, "grow"), NOBODY)
    assert (seen.ready, seen.partitions, seen.changes) == (True, 5, ())
    assert "with equal numbers each pod reads only its share" in seen.message


async def test_the_results_topic_grows_only_where_that_is_allowed(
    topics: Topics, broker: Broker, admin: AdminClient
) -> None:
    await topics.reconcile(gateway_at(broker.address, "homes"), NOBODY)
    both = {"kafka__requests": {"partitions": 4}, "kafka__results": {"partitions": 4}}
    seen = await topics.reconcile(gateway_at(broker.address, "homes", **both), NOBODY)
    assert (seen.ready, seen.reason, seen.partitions) == (False, "RepartitionRefused", 2)
    assert "kafka.allowRepartition: true" in seen.message
    assert [width(admin, f"default.homes.{topic}") for topic in ("requests", "results")] == [2, 2]

    seen = await topics.reconcile(gateway_at(broker.address, "homes", kafka__allowRepartition=True, **both), NOBODY)
    assert (seen.ready, seen.partitions) == (True, 4)
    assert [width(admin, f"default.homes.{topic}") for topic in ("requests", "results")] == [4, 4]


async def test_too_few_partitions_for_the_pods_are_told_with_both_ways_out(topics: Topics, broker: Broker) -> None:
    await topics.reconcile(gateway_at(broker.address, "narrow"), NOBODY)
    more = {"kafka__requests": {"partitions": 8}, "kafka__results": {"partitions": 8}}
    scaling = {"min": 1, "max": 8, "metrics": [{"lag": 5}]}
    seen = await topics.reconcile(gateway_at(broker.address, "narrow", scaling=scaling, **more), NOBODY)
    assert (seen.ready, seen.reason) == (False, "TopicHasTooFewPartitions")
    assert "has 2 partitions, scaling.max is 8" in seen.message
    assert "allowRepartition: true" in seen.message
    assert "lower scaling.max" in seen.message


async def test_topics_that_may_not_be_made_are_missed_by_name_and_never_written(
    topics: Topics, broker: Broker, admin: AdminClient
) -> None:
    wanted = gateway_at(broker.address, "theirs", kafka__createTopics=False)
    seen = await topics.reconcile(wanted, NOBODY)
    assert (seen.ready, seen.reason, seen.changes) == (False, "TopicMissing", ())
    assert "default.theirs.requests (partitions: 2)" in seen.message
    names = ("default.theirs.requests", "default.theirs.results", "default.theirs.requests.dlq")
    for future in admin.create_topics([NewTopic(name, 1) for name in names]).values():
        future.result(10)
    until(lambda: set(names) <= admin.list_topics(timeout=10).topics.keys())
    seen = await topics.reconcile(wanted, NOBODY)
    assert (seen.ready, seen.reason) == (False, "TopicHasTooFewPartitions")
    assert "has 1 partitions, scaling.max is 2" in seen.message
    seen = await topics.reconcile(gateway_at(broker.address, "theirs", kafka__createTopics=False, replicas=1), NOBODY)
    assert (seen.ready, seen.changes) == (True, ())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kafka__requests": {"partitions": 2, "config": {"no.such.setting": "1"}}}, "no.such.setting"),
        ({"kafka__results": {"partitions": 2, "replication": 3}}, "replication factor"),
    ],
    ids=["setting", "replication"],
)
async def test_what_the_broker_refuses_is_told(
    topics: Topics, broker: Broker, changed: dict[str, Any], words: str
) -> None:
    seen = await topics.reconcile(
        gateway_at(broker.address, f"no-{words.split('.')[0].replace(' ', '-')}", **changed), NOBODY
    )
    assert (seen.ready, seen.reason) == (False, "TopicRefused")
    assert words in seen.message.lower()
    assert "creating topic" in seen.message


async def test_lag_counts_what_waits_from_the_first_record_on(
    topics: Topics, broker: Broker, admin: AdminClient
) -> None:
    wanted = gateway_at(broker.address, "lag")
    requests = "default.lag.requests"
    assert (await topics.reconcile(wanted, NOBODY)).ready
    producer = Producer({"bootstrap.servers": broker.address})
    for number in range(10):
        producer.produce(requests, value=b"{}", partition=number % 2)
    assert producer.flush(10) == 0
    assert (await topics.reconcile(wanted, NOBODY)).lag == 10  # nobody has committed: a gateway begins at the first

    group = Consumer({"bootstrap.servers": broker.address, "group.id": "default.lag"})
    group.commit(offsets=[TopicPartition(requests, 0, 3)], asynchronous=False)
    assert (await topics.reconcile(wanted, NOBODY)).lag == 7
    # What retention has taken away nobody can work on.
    for future in admin.delete_records([TopicPartition(requests, 0, 4), TopicPartition(requests, 1, 2)]).values():
        future.result(10)
    assert (await topics.reconcile(wanted, NOBODY)).lag == 1 + 3
    group.commit(offsets=[TopicPartition(requests, 0, 5), TopicPartition(requests, 1, 5)], asynchronous=False)
    assert (await topics.reconcile(wanted, NOBODY)).lag == 0
    group.close()


async def test_what_is_to_be_deleted_goes_and_may_be_gone_already(
    topics: Topics, broker: Broker, admin: AdminClient
) -> None:
    wanted = gateway_at(broker.address, "gone")
    await topics.reconcile(wanted, NOBODY)
    member = Consumer({"bootstrap.servers": broker.address, "group.id": "default.gone"})
    member.subscribe(["default.gone.requests"])
    for _ in range(100):
        member.poll(0.1)
        if member.assignment():
            break
    member.commit(offsets=[TopicPartition("default.gone.requests", 0, 0)], asynchronous=False)
    with pytest.raises(DeletionIncomplete, match="still has members"):
        await topics.delete(wanted, NOBODY)
    member.unsubscribe()
    member.close()
    await topics.delete(wanted, NOBODY)
    await topics.delete(wanted, NOBODY)
    until(lambda: "default.gone.requests" not in admin.list_topics(timeout=10).topics)
