"""Finds requests on the requests topic, by reading all of it; for a topic that was created again."""

import asyncio
import time
from collections.abc import Collection, Iterator
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.cloud_events import in_binary_mode_if_any
from podpair.gateway.kafka.clients import bounds, reader_properties
from podpair.gateway.kafka.headers import headers_of

_PATIENCE = 30.0  # seconds for the whole search
_METADATA = 10.0  # seconds for the metadata of the topic


class Place(NamedTuple):
    """The place of a record."""

    partition: int
    offset: int


async def places_of(config: Config, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], Place]:
    """Return the places of the requests with the wanted (session, id), as far as they exist.

    Raises KafkaException if the topic can't be read to its end.
    """
    return await asyncio.get_running_loop().run_in_executor(None, _places_of, config, set(wanted))


def _places_of(config: Config, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Place]:
    found: dict[tuple[str, str], Place] = {}
    for message in read_all(config, config.requests.topic):
        members = headers_of([message])[0]
        headers = dict(in_binary_mode_if_any(message.value(), members)[1] or ())
        subject, request_id = headers.get("ce_subject") or b"", headers.get("ce_id") or b""
        name = subject.decode(errors="replace"), request_id.decode(errors="replace")
        if name in wanted:
            found[name] = Place(message.partition() or 0, message.offset() or 0)
    return found


def read_all(config: Config, topic: str) -> Iterator[Message]:
    """Yield all records that are on a topic when it is looked at, those of a partition in order.

    Raises KafkaException if it can't be read to its end. A partition that others write to all the time is never reported to be
    at its end (findings/end-of-partition-is-not-reported-while-written.sh), so its last offset is asked for first.
    """
    consumer = Consumer(reader_properties(config, enable_partition_eof=True))
    try:
        about = consumer.list_topics(topic, timeout=_METADATA).topics[topic]
        if about.error is not None:
            raise KafkaException(about.error)
        left = {
            partition: bounds(consumer, TopicPartition(topic, partition), _METADATA)[1]
            for partition in about.partitions
        }
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        end = time.monotonic() + _PATIENCE
        while left:
            if time.monotonic() > end:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"reading {topic}"))
            for message in consumer.consume(10_000, 0.1):
                error, partition = message.error(), message.partition() or 0
                if error is None:
                    yield message
                    if (message.offset() or 0) + 1 >= left.get(partition, 0):
                        left.pop(partition, None)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.pop(partition, None)
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
