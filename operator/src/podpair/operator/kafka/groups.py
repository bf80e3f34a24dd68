"""Consumer groups, to find out whose one is: whether it exists, and the topics that it works on."""

import asyncio
import time
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaError

from podpair.operator.kafka.clients import REQUEST_TIMEOUT, Client
from podpair.operator.kafka.errors import broker_error

_WAITING, _AGAIN = 5.0, 0.1  # seconds until a group has a coordinator, and between two polls
_PASSING = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}


async def group_exists(client: Client, group: str) -> bool | None:
    """Return whether a group of this id exists, of any protocol; None: ACLs hide it. Raises BrokerError."""
    described = await _describe(client, group)
    return None if isinstance(described, KafkaError) else described.state != ConsumerGroupState.DEAD


async def member_topics(client: Client, group: str) -> set[str]:
    """Return the topics that a group's members work on, as far as the broker says. Raises BrokerError."""
    described = await _describe(client, group)
    if isinstance(described, KafkaError):
        return set()
    assignments = (member.assignment for member in described.members)
    return {place.topic for one in assignments if one is not None for place in one.topic_partitions}


async def _describe(client: Client, group: str) -> Any | KafkaError:
    """Describe the group, or return GROUP_AUTHORIZATION_FAILED. Raises BrokerError, also if no coordinator comes."""
    doing, end = f"looking for consumer group {group}", time.monotonic() + _WAITING
    while True:
        futures = client.admin.describe_consumer_groups([group], request_timeout=REQUEST_TIMEOUT)
        answer = (await client.ask(futures, doing))[group]
        if not isinstance(answer, KafkaError) or answer.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return answer
        if answer.code() not in _PASSING or time.monotonic() > end:
            raise broker_error(answer, client.servers, doing)
        await asyncio.sleep(_AGAIN)
