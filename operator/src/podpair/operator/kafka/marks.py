"""Reads and writes the marks that say whose topics are (`core.ownership`): the metadata of offsets of one consumer group.

Kafka's topics take no settings but its own, so a mark lies beside a topic: `__consumer_offsets` is a compacted topic that every
broker has, with room for text by group and topic. It needs no topic of podpair's, the broker deletes a mark with its topic, and
`kafka-consumer-groups.sh` removes one by hand. A mark's offset is beyond every end, so that no monitor counts it as lag.
"""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.operator.core.broker_access import BrokerAccess
from podpair.operator.core.ownership import MARKS_GROUP
from podpair.operator.kafka.clients import Client, librdkafka_log
from podpair.operator.kafka.failures import BrokerTrouble, client_invalid, trouble
from podpair.operator.kafka.groups import group_exists

_PATIENCE = 8.0  # seconds; the group may have no coordinator yet
_BEYOND = 2**62
_NONE = ""  # as metadata: no mark


class MarksRefused(Exception):
    """The broker's ACLs allow no marks. The text says what to grant."""

    def __init__(self) -> None:
        super().__init__(
            f"the topics can't be marked as this resource's: grant the operator's user Read on consumer group {MARKS_GROUP} and"
            " on the topics, so that other resources see whose they are"
        )


class Marks:
    """The marks at one broker. Its consumer never joins the group (`lag.Group` says why it is none of AdminClient's calls)."""

    def __init__(self, access: BrokerAccess) -> None:
        self._servers = access.servers
        properties: dict[str, Any] = {**dict(access.properties), "group.id": MARKS_GROUP, "enable.auto.commit": "false"}
        try:
            self._consumer = Consumer({**properties, "logger": librdkafka_log})
        except KafkaException as error:
            raise client_invalid(error) from None
        self._thread = ThreadPoolExecutor(1, "kafka-marks")

    async def read(self, client: Client, topics: Iterable[str]) -> dict[str, str]:
        """The marks of those topics that have one, as text. Raises MarksRefused, BrokerTrouble."""
        # A consumer is not told that it may not: it would wait.
        if await group_exists(client, MARKS_GROUP) is None:
            raise MarksRefused
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, list(topics))

    async def write(self, marks: Mapping[str, str | None]) -> None:
        """Mark topics; None takes the mark away. Raises MarksRefused, BrokerTrouble."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, dict(marks))

    def _read(self, topics: list[str]) -> dict[str, str]:
        if not topics:
            return {}
        try:
            found = self._consumer.committed([TopicPartition(topic, 0) for topic in topics], timeout=_PATIENCE)
        except KafkaException as error:
            raise self._why(error.args[0], "reading whose the topics are") from None
        for place in found:
            if place.error is not None and place.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise self._why(place.error, "reading whose the topics are")
        return {place.topic: place.metadata for place in found if place.metadata}

    def _write(self, marks: dict[str, str | None]) -> None:
        places = [TopicPartition(topic, 0, _BEYOND, text or _NONE) for topic, text in marks.items()]
        try:
            written = self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            raise self._why(error.args[0], "marking whose the topics are") from None
        for place in written or ():
            if place.error is not None:
                raise self._why(place.error, "marking whose the topics are")

    def _why(self, error: KafkaError, doing: str) -> MarksRefused | BrokerTrouble:
        told = self._consumer.poll(0)
        cause = told.error() if told is not None else None
        code = (cause or error).code()
        if code in (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED):
            return MarksRefused()
        return trouble(error, self._servers, doing, cause)

    def close(self) -> None:
        """Let go of the broker. Blocks."""
        self._thread.submit(self._consumer.close).result()
        self._thread.shutdown()
