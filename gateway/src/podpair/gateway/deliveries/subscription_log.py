"""Reads the compacted topic with the subscriptions, from its start and on. Blocks: it is for a thread."""

from typing import NamedTuple, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.kafka.clients import bounds, reader_properties

_QUERY = 5.0  # seconds that one query of the broker may take
_CHUNK = 1000


class SubscriptionRecord(NamedTuple):
    """One record of the topic."""

    key: bytes | None
    value: bytes | None
    place: tuple[int, int]  # partition and offset


class SubscriptionLog:
    """One reader of the topic. Its methods raise KafkaException; after that another one has to be made."""

    def __init__(self, config: Config) -> None:
        self._topic = config.deliveries.subscriptions_topic
        self._consumer = Consumer(reader_properties(config, enable_partition_eof=True, queued_max_messages_kbytes=4096))
        self._reached: dict[int, int] = {}

    def read_all(self) -> list[SubscriptionRecord]:
        """Return what was written since the last call, up to where the topic ends now."""
        if not self._reached:
            self._begin()
        ends = {
            partition: bounds(self._consumer, TopicPartition(self._topic, partition), _QUERY)[1]
            for partition in self._reached
        }
        found: list[SubscriptionRecord] = []
        while any(self._reached[partition] < end for partition, end in ends.items()):
            first = self._consumer.poll(_QUERY)
            if first is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no records of {self._topic}"))
            self._take([first, *self._consumer.consume(_CHUNK, 0)], found)
        return found

    def read_some(self) -> list[SubscriptionRecord]:
        """Return what is there without asking or waiting."""
        found: list[SubscriptionRecord] = []
        if self._reached:
            self._take(self._consumer.consume(_CHUNK, 0), found)
        return found

    def _begin(self) -> None:
        topic = self._consumer.list_topics(self._topic, timeout=_QUERY).topics[self._topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        self._reached = dict.fromkeys(topic.partitions, 0)
        self._consumer.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in self._reached])

    def _take(self, messages: list[Message], found: list[SubscriptionRecord]) -> None:
        for message in messages:
            partition, offset, error = cast("int", message.partition()), cast("int", message.offset()), message.error()
            if error is None:
                found.append(SubscriptionRecord(message.key(), message.value(), (partition, offset)))
                self._reached[partition] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # compaction and transactions leave gaps at the end, too
                self._reached[partition] = max(self._reached[partition], offset)
            else:
                raise KafkaException(error)

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()
