"""Reads and writes the marks that say whose topics are (`core.ownership`): the metadata of offsets of one consumer group.

Kafka's topics take no settings but its own, so a mark is stored beside a topic: `__consumer_offsets` is a compacted topic that
every broker has, with room for text by group and topic. It needs no topic of podpair's, the broker deletes a mark with its
topic, and `kafka-consumer-groups.sh` removes one by hand. A mark's offset is beyond every end, so that no monitor counts it as
lag.
"""

from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from podpair.operator.core.broker_access import BrokerAccess
from podpair.operator.core.ownership import MARKS_GROUP
from podpair.operator.kafka.clients import Client
from podpair.operator.kafka.errors import BrokerError, broker_error
from podpair.operator.kafka.group_consumer import GroupConsumer
from podpair.operator.kafka.groups import group_exists

_PATIENCE = 8.0  # seconds; the group may have no coordinator yet
_BEYOND = 2**62
_NONE = ""  # as metadata: no mark


class MarksDenied(Exception):
    """The broker's ACLs allow no marks. The text says what to grant."""

    def __init__(self) -> None:
        super().__init__(
            f"the topics can't be marked as this resource's: grant the operator's user Read on consumer group {MARKS_GROUP} and"
            " on the topics, so that other resources see whose they are"
        )


class OwnershipMarks(GroupConsumer):
    """The marks at one broker."""

    def __init__(self, access: BrokerAccess) -> None:
        super().__init__(access, MARKS_GROUP)

    async def read(self, client: Client, topics: Iterable[str]) -> dict[str, str]:
        """Return the marks of those topics that have one, as text. Raises MarksDenied, BrokerError."""
        # A consumer gets no authorization error: it would wait.
        if await group_exists(client, MARKS_GROUP) is None:
            raise MarksDenied
        return await self._run(self._read, list(topics))

    async def write(self, marks: Mapping[str, str | None]) -> None:
        """Mark topics; None removes the mark. Raises MarksDenied, BrokerError."""
        await self._run(self._write, dict(marks))

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

    def _why(self, error: KafkaError, doing: str) -> MarksDenied | BrokerError:
        cause = self._cause()
        code = (cause or error).code()
        if code in (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED):
            return MarksDenied()
        return broker_error(error, self._servers, doing, cause)
