"""Looks up which queued requests the requests topic holds, where it may be another one than they were written to."""

import logging
import time
from collections.abc import Mapping
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.core.records import Headers, InvalidRecord, request_of_record
from podpair.gateway.kafka.clients import reader_properties

_log = logging.getLogger(__name__)
_PATIENCE = 30.0  # seconds, after which what was not found counts as gone

Place = tuple[int, int]  # partition and offset
Who = tuple[str, str]  # session, and id of the request


def stored(config: Config, wanted: Mapping[Place, Who]) -> set[Place]:
    """Those places that hold the request that is wanted there. Blocks, for half a minute at most; raises nothing of Kafka's."""
    found: set[Place] = set()
    end = time.monotonic() + _PATIENCE
    consumer = Consumer(reader_properties(config, auto_offset_reset="latest", enable_partition_eof=True))
    try:
        for partition in sorted({partition for partition, _ in wanted}):
            offsets = [offset for p, offset in wanted if p == partition]
            _look(consumer, config.requests.topic, partition, (min(offsets), max(offsets)), wanted, found, end)
    except KafkaException as error:
        _log.warning("which requests are in %s can't be told: %s", config.requests.topic, error.args[0].str())
    finally:
        consumer.close()
    return found


def _look(
    consumer: Consumer,
    topic: str,
    partition: int,
    between: tuple[int, int],
    wanted: Mapping[Place, Who],
    found: set[Place],
    end: float,
) -> None:
    """Read one partition from the first offset to the last. Raises KafkaException."""
    first, last = between
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10) or (0, 0)
    except KafkaException as error:
        if error.args[0].code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION,
                                    KafkaError._UNKNOWN_TOPIC):  # fmt: skip
            return  # there is no such partition any more, nor what was in it
        raise
    first = max(first, low)
    last = min(last, high - 1)
    if first > last:
        return
    consumer.assign([TopicPartition(topic, partition, first)])
    while time.monotonic() < end:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if (fault := message.error()) is not None:
            if fault.code() == KafkaError._PARTITION_EOF:
                return
            raise KafkaException(fault)
        place = (partition, message.offset() or 0)
        if place[1] > last:
            return
        try:
            request = request_of_record(message.value(), cast("Headers | None", message.headers()))
        except InvalidRecord:
            continue
        if wanted.get(place) == (request.session, request.id):
            found.add(place)
        if place[1] == last:
            return
