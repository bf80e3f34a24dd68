"""Asks the broker for what lag is made of: the group's offsets, and where the partitions begin and end."""

import asyncio
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from podpair.operator.core.broker_access import BrokerAccess
from podpair.operator.core.lag import Log, total_lag
from podpair.operator.kafka.clients import PATIENCE, Client
from podpair.operator.kafka.failures import trouble
from podpair.operator.kafka.group_consumer import GroupConsumer

_GROUP_PATIENCE = 5.0  # seconds until the group's coordinator has answered

_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]


class LagUnknown(Exception):
    """The broker doesn't tell an offset. The text says why."""


class Group(GroupConsumer):
    """Tells what is committed."""

    def __init__(self, access: BrokerAccess, group: str) -> None:
        super().__init__(access, group)
        self._group = group

    async def committed(self, topic: str, partitions: int) -> dict[int, int | None]:
        """The next offset by partition; None: nothing is committed. Raises LagUnknown."""
        return await self._run(self._committed, topic, partitions)

    def _committed(self, topic: str, partitions: int) -> dict[int, int | None]:
        doing = f"reading the offsets of group {self._group}"
        try:
            places = [TopicPartition(topic, number) for number in range(partitions)]
            found = self._consumer.committed(places, timeout=_GROUP_PATIENCE)
        except KafkaException as error:
            raise LagUnknown(trouble(error.args[0], self._servers, doing, self._cause()).seen.message) from None
        for place in found:
            if place.error is not None:
                raise LagUnknown(trouble(place.error, self._servers, doing).seen.message)
        return {place.partition: place.offset if place.offset >= 0 else None for place in found}

    async def topics(self) -> set[str]:
        """All topics of which anything is committed. Raises LagUnknown."""
        return await self._run(self._topics)

    def _topics(self) -> set[str]:
        try:
            topics = self._consumer.list_topics(timeout=_GROUP_PATIENCE).topics
            places = [TopicPartition(name, number) for name, topic in topics.items() for number in topic.partitions]
            found = self._consumer.committed(places, timeout=_GROUP_PATIENCE) if places else []
        except KafkaException as error:
            doing = f"reading the offsets of group {self._group}"
            raise LagUnknown(trouble(error.args[0], self._servers, doing).seen.message) from None
        return {place.topic for place in found if place.error is None and place.offset >= 0}


async def group_lag(client: Client, group: Group, topic: str, partitions: int) -> int:
    """Records that wait for `group` in the partitions 0 … `partitions` - 1 of `topic`.

    Raises LagUnknown where an offset isn't told, BrokerTrouble where the broker isn't reached.
    """
    # What is committed is asked first: an end that was read before a later commit would hide records.
    committed = await group.committed(topic, partitions)
    starts, ends = await asyncio.gather(
        _offsets(client, topic, partitions, _EARLIEST),
        _offsets(client, topic, partitions, _LATEST),
    )
    logs = {number: Log(starts[number], max(starts[number], ends[number])) for number in range(partitions)}
    lag = total_lag(logs, committed, range(partitions))
    if lag is None:
        raise LagUnknown(f"no committed offset is told of every partition of {topic}")
    return lag


async def _offsets(client: Client, topic: str, partitions: int, which: OffsetSpec) -> dict[int, int]:
    asked: dict[Any, OffsetSpec] = {TopicPartition(topic, number): which for number in range(partitions)}
    futures = client.admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=PATIENCE)
    offsets: dict[int, int] = {}
    for place, answer in (await client.ask(futures, f"reading the offsets of {topic}")).items():
        if isinstance(answer, KafkaError):
            raise LagUnknown(_why(client, answer, f"reading the offsets of {topic}"))
        offsets[place.partition] = answer.offset
    return offsets


def _why(client: Client, error: KafkaError, doing: str) -> str:
    return trouble(error, client.servers, doing).seen.message
