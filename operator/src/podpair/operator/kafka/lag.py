"""Reads a group's lag: its committed offsets, and the partitions' start and end offsets."""

import asyncio
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from podpair.operator.core.broker_access import BrokerAccess
from podpair.operator.core.lag import Log, total_lag
from podpair.operator.kafka.clients import REQUEST_TIMEOUT, Client
from podpair.operator.kafka.errors import broker_error
from podpair.operator.kafka.group_consumer import GroupConsumer

_GROUP_TIMEOUT = 5.0  # seconds until the group's coordinator has answered

_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]


class LagUnknown(Exception):
    """An offset can't be read. The text says why."""


class Group(GroupConsumer):
    """Reads a group's committed offsets."""

    def __init__(self, access: BrokerAccess, group: str) -> None:
        super().__init__(access, group)
        self._group = group

    async def committed(self, topic: str, partitions: int) -> dict[int, int | None]:
        """Return the next offset by partition; None: nothing is committed. Raises LagUnknown."""
        return await self._run(self._committed, topic, partitions)

    def _committed(self, topic: str, partitions: int) -> dict[int, int | None]:
        doing = f"reading the offsets of group {self._group}"
        try:
            places = [TopicPartition(topic, number) for number in range(partitions)]
            found = self._consumer.committed(places, timeout=_GROUP_TIMEOUT)
        except KafkaException as error:
            raise LagUnknown(broker_error(error.args[0], self._servers, doing, self._cause()).state.message) from None
        for place in found:
            if place.error is not None:
                raise LagUnknown(broker_error(place.error, self._servers, doing).state.message)
        return {place.partition: place.offset if place.offset >= 0 else None for place in found}

    async def topics(self) -> set[str]:
        """Return all topics with a committed offset. Raises LagUnknown."""
        return await self._run(self._topics)

    def _topics(self) -> set[str]:
        try:
            topics = self._consumer.list_topics(timeout=_GROUP_TIMEOUT).topics
            places = [TopicPartition(name, number) for name, topic in topics.items() for number in topic.partitions]
            found = self._consumer.committed(places, timeout=_GROUP_TIMEOUT) if places else []
        except KafkaException as error:
            doing = f"reading the offsets of group {self._group}"
            raise LagUnknown(broker_error(error.args[0], self._servers, doing).state.message) from None
        return {place.topic for place in found if place.error is None and place.offset >= 0}


async def group_lag(client: Client, group: Group, topic: str, partitions: int) -> int:
    """Return the records that wait for `group` in the partitions 0 … `partitions` - 1 of `topic`.

    Raises LagUnknown if an offset isn't known, BrokerError if the broker can't be reached.
    """
    # Committed offsets are read first: an end that was read before a later commit would hide records.
    committed = await group.committed(topic, partitions)
    starts, ends = await asyncio.gather(
        _offsets(client, topic, partitions, _EARLIEST),
        _offsets(client, topic, partitions, _LATEST),
    )
    logs = {number: Log(starts[number], max(starts[number], ends[number])) for number in range(partitions)}
    lag = total_lag(logs, committed, range(partitions))
    if lag is None:
        raise LagUnknown(f"the committed offsets of some partitions of {topic} aren't known")
    return lag


async def _offsets(client: Client, topic: str, partitions: int, which: OffsetSpec) -> dict[int, int]:
    asked: dict[Any, OffsetSpec] = {TopicPartition(topic, number): which for number in range(partitions)}
    futures = client.admin.list_offsets(
        asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_TIMEOUT
    )
    offsets: dict[int, int] = {}
    for place, answer in (await client.ask(futures, f"reading the offsets of {topic}")).items():
        if isinstance(answer, KafkaError):
            raise LagUnknown(_why(client, answer, f"reading the offsets of {topic}"))
        offsets[place.partition] = answer.offset
    return offsets


def _why(client: Client, error: KafkaError, doing: str) -> str:
    return broker_error(error, client.servers, doing).state.message
