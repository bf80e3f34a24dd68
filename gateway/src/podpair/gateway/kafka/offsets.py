"""Asks the broker where a results partition begins and ends."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.kafka.clients import reader_properties

_log = logging.getLogger(__name__)
_TIMEOUT = 10.0  # seconds for a question
_PASSING = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._TRANSPORT,
}


UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}
_METADATA = 5.0  # seconds for the broker to say what a topic is


def learn(consumer: Consumer, topic: str) -> None:
    """Ask the broker what a topic is now, on the consumer's thread: by itself it would do so only after a while."""
    try:
        consumer.list_topics(topic, timeout=_METADATA)
    except KafkaException as error:
        _log.warning("asking what topic %s is: %s", topic, error.args[0].str())


class OffsetQueries:
    """A consumer that reads nothing, on a thread of its own: a consumer that polls answers no questions meanwhile."""

    def __init__(self, config: Config) -> None:
        self._topic = config.results.topic
        self._consumer = Consumer(reader_properties(config))
        self._thread = ThreadPoolExecutor(1, "kafka-offsets")
        self._closed = False
        self._incarnation = 0  # of the topic

    def changed(self) -> None:
        """The topic is another one: questions about the one before are given up."""
        self._incarnation += 1

    async def watermarks(self, partition: int) -> tuple[int, int]:
        """(low, high): the partition holds the offsets low ≤ o < high. Raises KafkaException, also once this is closed."""
        if self._closed:
            raise _closed()
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._watermarks, partition, self._incarnation
        )

    def _watermarks(self, partition: int, incarnation: int) -> tuple[int, int]:
        # A partition that was just made, or whose broker was just lost, has no leader for a moment.
        end = time.monotonic() + _TIMEOUT
        while True:
            if self._closed:
                raise _closed()
            try:
                return self._ask(partition)
            except KafkaException as error:
                if error.args[0].code() not in _PASSING or time.monotonic() > end:
                    raise
                if incarnation != self._incarnation:
                    raise
                if error.args[0].code() in UNKNOWN:
                    learn(self._consumer, self._topic)
                time.sleep(0.05)

    def _ask(self, partition: int) -> tuple[int, int]:
        place = TopicPartition(self._topic, partition)
        found = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT, cached=False)
        if found is None:
            message = f"no offsets of {self._topic}[{partition}] in {_TIMEOUT:.0f} s"
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, message))
        return found

    async def close(self) -> None:
        """Stop asking: what waits is told so, the one in hand is waited for."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._consumer.close)
        self._thread.shutdown(wait=False)


def _closed() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._DESTROY, "the gateway is stopping"))
