"""Keeps the topics of resources as they are wanted, and reads their groups' lag.

Every call ends within seconds, whatever the broker does, and tells what it found instead of raising; nothing is written where
nothing differs.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
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

from podpair.operator.core.broker_access import BrokerAccess, broker_access
from podpair.operator.core.credentials import Credentials
from podpair.operator.core.kafka_state import KafkaSeen, Reason
from podpair.operator.core.objects.naming import consumer_group, requests_topic
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.core.topics import FoundTopic, TopicsPlan, WantedTopic, plan_topics, wanted_topics
from podpair.operator.kafka.clients import PATIENCE, Client, Kept
from podpair.operator.kafka.failures import BrokerTrouble, trouble
from podpair.operator.kafka.lag import Group, LagUnknown, group_lag

_WHOLE = 10.0  # seconds for all questions of one resource
_SHOWING, _AGAIN = 3.0, 0.05  # seconds until a broker tells of a change, and between two looks
_ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND}


class NotForgotten(Exception):
    """What is to be deleted is still there. The text says why, and what to do."""


class Topics:
    """All brokers' topics, as resources want them. Used on one event loop."""

    def __init__(self) -> None:
        self._clients: Kept[BrokerAccess, Client] = Kept()
        self._groups: Kept[tuple[BrokerAccess, str], Group] = Kept()

    async def keep(self, gateway: InferenceGateway, credentials: Credentials) -> KafkaSeen:
        """Create, grow and set what is to be, and see how things stand. Raises nothing."""
        try:
            async with asyncio.timeout(_WHOLE):
                access, group = broker_access(gateway, credentials), consumer_group(gateway)
                client = self._clients.get(access, lambda: Client(access))
                return await _keep(client, self._groups.get((access, group), lambda: Group(access, group)), gateway)
        except BrokerTrouble as error:
            return error.seen
        except TimeoutError:
            return trouble(_timed_out(), gateway.spec.kafka.bootstrap_servers).seen

    async def forget(self, gateway: InferenceGateway, credentials: Credentials) -> None:
        """Delete the topics and the group, for deletionPolicy Delete. Those that aren't there are fine.

        Raises NotForgotten: try again later. While pods are still members the group can't go.
        """
        try:
            async with asyncio.timeout(_WHOLE):
                access = broker_access(gateway, credentials)
                client = self._clients.get(access, lambda: Client(access))
                await _forget(client, gateway)
        except BrokerTrouble as error:
            raise NotForgotten(error.seen.message) from None
        except TimeoutError:
            raise NotForgotten(trouble(_timed_out(), gateway.spec.kafka.bootstrap_servers).seen.message) from None

    async def close(self) -> None:
        """Let go of the brokers."""
        await self._groups.close()
        await self._clients.close()


def _timed_out() -> KafkaError:
    return KafkaError(KafkaError._TIMED_OUT, f"no answer in {_WHOLE:.0f} s")


async def _keep(client: Client, group: Group, gateway: InferenceGateway) -> KafkaSeen:
    wanted = wanted_topics(gateway)
    found = await _look(client, gateway)
    plan = plan_topics(gateway, found)
    changes = await _carry_out(client, plan)
    if changes:
        await _shown(client, gateway)
    widths = {name: topic.partitions for name, topic in found.items()} | dict(plan.grow)
    widths |= {topic.name: topic.partitions for topic in plan.create}
    requests = requests_topic(gateway)
    notes = list(plan.notes)
    lag = None
    if requests in widths:
        try:
            lag = await group_lag(client, group, requests, widths[requests])
        except LagUnknown as error:
            notes.append(f"lag isn't known: {error}")
    if plan.fault is not None:
        reason, message = plan.fault
        return KafkaSeen(False, reason, message, lag, widths.get(requests), tuple(changes))
    good = f"{', '.join(f'{topic.name} ({widths[topic.name]})' for topic in wanted)} at {client.servers}"
    message = ". ".join([f"topics (partitions): {good}", *notes])
    return KafkaSeen(True, Reason.TOPICS_READY, message, lag, widths.get(requests), tuple(changes))


async def _shown(client: Client, gateway: InferenceGateway) -> None:
    """Until the broker tells of what its controller has just done, or for `_SHOWING` at most: asked too early it would be
    told to do it again."""
    end = time.monotonic() + _SHOWING
    while time.monotonic() < end:
        plan = plan_topics(gateway, await _look(client, gateway))
        if not (plan.create or plan.grow or plan.alter):
            return
        await asyncio.sleep(_AGAIN)


async def _look(client: Client, gateway: InferenceGateway) -> dict[str, FoundTopic]:
    """The topics as the broker has them, with what podpair keeps of them."""
    found = await _find(client, [topic.name for topic in wanted_topics(gateway)])
    return await _with_configs(client, found) if gateway.spec.kafka.create_topics else found


async def _find(client: Client, names: list[str]) -> dict[str, FoundTopic]:
    """Those of the topics that the broker has."""
    futures = client.admin.describe_topics(TopicCollection(names), request_timeout=PATIENCE)
    answers = await client.ask(futures, "looking for the topics")
    found = {}
    for name, answer in answers.items():
        if not isinstance(answer, KafkaError):
            partitions = answer.partitions
            found[name] = FoundTopic(len(partitions), len(partitions[0].replicas))
        elif answer.code() not in _ABSENT:
            raise trouble(answer, client.servers, f"looking for topic {name}")
    return found


async def _with_configs(client: Client, found: Mapping[str, FoundTopic]) -> dict[str, FoundTopic]:
    if not found:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
    answers = await client.ask(
        client.admin.describe_configs(resources, request_timeout=PATIENCE), "reading the topics' settings"
    )
    filled = dict(found)
    for resource, answer in answers.items():
        if isinstance(answer, KafkaError):
            if answer.code() in _ABSENT:  # it went away between two questions
                filled.pop(resource.name)
                continue
            raise trouble(answer, client.servers, f"reading the settings of topic {resource.name}")
        # What the topic itself was given: a default that happens to be the same may change below it.
        own = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        config = {key: entry.value for key, entry in answer.items() if entry.source == own and entry.value is not None}
        filled[resource.name] = found[resource.name]._replace(config=config)
    return filled


async def _carry_out(client: Client, plan: TopicsPlan) -> list[str]:
    """Does what is planned; sentences on what was done. Raises BrokerTrouble where the broker doesn't do it."""
    changes: list[str] = []
    for topic in plan.create:
        changes += await _create(client, topic)
    if plan.grow:
        new = [NewPartitions(name, partitions) for name, partitions in plan.grow.items()]
        futures = client.admin.create_partitions(new, operation_timeout=PATIENCE / 2, request_timeout=PATIENCE)
        done = await _do(client, futures, {name: f"growing topic {name}" for name in plan.grow})
        changes += [f"Grew topic {name} to {plan.grow[name]} partitions" for name in done]
    if plan.alter:
        altered = [_altered(name, config) for name, config in plan.alter.items()]
        altering = client.admin.incremental_alter_configs(altered, request_timeout=PATIENCE)
        told = {
            name: ", ".join(f"{key}={value}" for key, value in config.items()) for name, config in plan.alter.items()
        }
        done = await _do(client, altering, {one: f"setting {told[one.name]} of topic {one.name}" for one in altered})
        changes += [f"Set {told[one.name]} of topic {one.name}" for one in done]
    return changes


async def _create(client: Client, topic: WantedTopic) -> list[str]:
    new = NewTopic(
        topic.name,
        num_partitions=topic.partitions,
        replication_factor=-1 if topic.replication is None else topic.replication,
        config=topic.config_at_creation,
    )
    futures = client.admin.create_topics([new], operation_timeout=PATIENCE / 2, request_timeout=PATIENCE)
    doing = {topic.name: f"creating topic {topic.name}"}
    made = await _do(client, futures, doing, fine=(KafkaError.TOPIC_ALREADY_EXISTS,))  # a gateway was quicker
    return [f"Created topic {name} with {topic.partitions} partitions" for name in made]


def _altered(name: str, config: Mapping[str, str]) -> ConfigResource:
    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in sorted(config.items())
    ]
    return ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)


async def _do(
    client: Client, futures: Mapping[Any, Any], doing: Mapping[Any, str], fine: Iterable[int] = ()
) -> list[Any]:
    """The keys of what was done; errors that are `fine` are passed over. Raises BrokerTrouble for the others."""
    answers = await client.ask(futures, " and ".join(doing.values()))
    done = []
    for key, answer in answers.items():
        if not isinstance(answer, KafkaError):
            done.append(key)
        elif answer.code() not in fine:
            raise trouble(answer, client.servers, doing[key])
    return done


async def _forget(client: Client, gateway: InferenceGateway) -> None:
    names = [topic.name for topic in wanted_topics(gateway)]
    futures = client.admin.delete_topics(names, operation_timeout=PATIENCE / 2, request_timeout=PATIENCE)
    await _do(client, futures, {name: f"deleting topic {name}" for name in names}, fine=_ABSENT)
    group = consumer_group(gateway)
    gone = client.admin.delete_consumer_groups([group], request_timeout=PATIENCE)
    answer = (await client.ask(gone, f"deleting group {group}"))[group]
    if isinstance(answer, KafkaError) and answer.code() == KafkaError.NON_EMPTY_GROUP:
        raise NotForgotten(f"consumer group {group} still has members: it goes once the pods have stopped")
    if isinstance(answer, KafkaError) and answer.code() not in _ABSENT:
        raise trouble(answer, client.servers, f"deleting group {group}")
