"""Requests to a broker about topics, by name: nothing here knows whose they are."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, TopicCollection
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from podpair.operator.core.kafka_state import Reason
from podpair.operator.core.topics import FoundTopic, TopicsPlan
from podpair.operator.core.wanted_topics import WantedTopic
from podpair.operator.kafka.clients import REQUEST_TIMEOUT, Client
from podpair.operator.kafka.errors import BrokerError, broker_error

ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND}
"""Errors that say: it is not there."""


async def find_topics(client: Client, names: list[str]) -> dict[str, FoundTopic]:
    """Return those of the topics that the broker has. Raises BrokerError."""
    if not names:
        return {}
    futures = client.admin.describe_topics(TopicCollection(names), request_timeout=REQUEST_TIMEOUT)
    answers = await client.ask(futures, "looking for the topics")
    found = {}
    for name, answer in answers.items():
        if not isinstance(answer, KafkaError):
            partitions = answer.partitions
            found[name] = FoundTopic(len(partitions), len(partitions[0].replicas), id=str(answer.topic_id))
        elif answer.code() not in ABSENT:
            raise broker_error(answer, client.servers, f"looking for topic {name}")
    return found


async def with_configs(client: Client, found: Mapping[str, FoundTopic]) -> dict[str, FoundTopic]:
    """Return the topics with their settings. Raises BrokerError."""
    if not found:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
    answers = await client.ask(
        client.admin.describe_configs(resources, request_timeout=REQUEST_TIMEOUT), "reading the topics' settings"
    )
    filled = dict(found)
    for resource, answer in answers.items():
        if isinstance(answer, KafkaError):
            if answer.code() in ABSENT:  # it went away between two questions
                filled.pop(resource.name)
                continue
            raise broker_error(answer, client.servers, f"reading the settings of topic {resource.name}")
        # What the topic itself was given: a default that happens to be the same may change below it.
        own = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        config = {key: entry.value for key, entry in answer.items() if entry.source == own and entry.value is not None}
        effective = {key: entry.value for key, entry in answer.items() if entry.value is not None}
        filled[resource.name] = found[resource.name]._replace(config=config, effective=effective)
    return filled


async def execute_plan(client: Client, plan: TopicsPlan, creating: set[str]) -> list[str]:
    """Carry out the plan and return sentences on what was done. `creating` gets the topics whose creation is requested.

    Raises BrokerError if the broker doesn't do it.
    """
    changes: list[str] = []
    for topic in plan.create:
        made = await _create(client, topic, creating)
        changes += made
        if not made:  # another was quicker: it may want the others, too
            break
    if plan.grow:
        new = [NewPartitions(name, partitions) for name, partitions in plan.grow.items()]
        futures = client.admin.create_partitions(
            new, operation_timeout=REQUEST_TIMEOUT / 2, request_timeout=REQUEST_TIMEOUT
        )
        done = await await_results(client, futures, {name: f"growing topic {name}" for name in plan.grow})
        changes += [f"Grew topic {name} to {plan.grow[name]} partitions" for name in done]
    for verb, described, altered in _alterations(plan):
        altering = client.admin.incremental_alter_configs(altered, request_timeout=REQUEST_TIMEOUT)
        doing = {one: f"{verb.lower()}ting {described[one.name]} of topic {one.name}" for one in altered}
        changes += [
            f"{verb} {described[one.name]} of topic {one.name}" for one in await await_results(client, altering, doing)
        ]
    return changes


async def _create(client: Client, topic: WantedTopic, creating: set[str]) -> list[str]:
    new = NewTopic(
        topic.name,
        num_partitions=topic.partitions,
        replication_factor=-1 if topic.replication is None else topic.replication,
        config=topic.config_at_creation,
    )
    creating.add(topic.name)
    futures = client.admin.create_topics([new], operation_timeout=REQUEST_TIMEOUT / 2, request_timeout=REQUEST_TIMEOUT)
    doing = {topic.name: f"creating topic {topic.name}"}
    try:
        # If another was quicker it is theirs.
        made = await await_results(client, futures, doing, fine=(KafkaError.TOPIC_ALREADY_EXISTS,))
    except BrokerError as error:
        if error.state.reason not in (Reason.BROKER_UNREACHABLE, Reason.UNEXPECTED):  # a definite refusal
            creating.discard(topic.name)
        raise
    if not made:
        creating.discard(topic.name)
    return [f"Created topic {name} with {topic.partitions} partitions" for name in made]


def _alterations(plan: TopicsPlan) -> Iterator[tuple[str, dict[str, str], list[ConfigResource]]]:
    """Yield changes of settings: the verb, a description by topic, and what the broker is asked for."""
    if plan.alter:
        described = {
            name: ", ".join(f"{key}={one}" for key, one in config.items()) for name, config in plan.alter.items()
        }
        yield "Set", described, [_altered(name, config) for name, config in plan.alter.items()]
    if plan.reset:
        described = {name: ", ".join(keys) for name, keys in plan.reset.items()}
        yield "Reset", described, [_altered(name, dict.fromkeys(keys)) for name, keys in plan.reset.items()]


def _altered(name: str, config: Mapping[str, str | None]) -> ConfigResource:
    """Return the change of a topic's settings; None: back to the broker's default."""
    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        if value is not None
        else ConfigEntry(key, None, incremental_operation=AlterConfigOpType.DELETE)
        for key, value in sorted(config.items())
    ]
    return ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)


async def await_results(
    client: Client, futures: Mapping[Any, Any], doing: Mapping[Any, str], fine: Iterable[int] = ()
) -> list[Any]:
    """Return the keys of what was done; errors that are `fine` are skipped. Raises BrokerError for the others."""
    answers = await client.ask(futures, " and ".join(doing.values()))
    done = []
    for key, answer in answers.items():
        if not isinstance(answer, KafkaError):
            done.append(key)
        elif answer.code() not in fine:
            raise broker_error(answer, client.servers, doing[key])
    return done
