"""Finds requests on the requests topic, by reading all of it; for a topic that was created again."""

import asyncio
import time
from collections.abc import Collection
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.cloud_events import in_binary_mode_if_any
from podpair.gateway.kafka.clients import reader_properties
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
    topic = config.requests.topic
    consumer = Consumer(reader_properties(config, enable_partition_eof=True))
    found: dict[tuple[str, str], Place] = {}
    try:
        about = consumer.list_topics(topic, timeout=_METADATA).topics[topic]
        if about.error is not None:
            raise KafkaException(about.error)
        left = set(about.partitions)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        end = time.monotonic() + _PATIENCE
        while left:
            if time.monotonic() > end:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"reading {topic}"))
            for message in consumer.consume(10_000, 0.1):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                elif error is not None:
                    raise KafkaException(error)
                else:
                    members = headers_of([message])[0]
                    headers = dict(in_binary_mode_if_any(message.value(), members)[1] or ())
                    subject, request_id = headers.get("ce_subject") or b"", headers.get("ce_id") or b""
                    name = subject.decode(errors="replace"), request_id.decode(errors="replace")
                    if name in wanted:
                        found[name] = Place(message.partition() or 0, message.offset() or 0)
    finally:
        consumer.close()
    return found
