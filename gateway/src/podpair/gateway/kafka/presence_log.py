"""Reads the presence topic from its start and on, on a thread.

Invariant: what is passed on is in the order of the topic; `complete` says that all is read that was there when reading began.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.presence import Record
from podpair.gateway.kafka.clients import bounds, reader_properties
from podpair.gateway.kafka.supervisor import CallDeadlines, Supervisor
from podpair.gateway.kafka.threads import post_to_loop

_log = logging.getLogger(__name__)
_QUERY = 5.0  # seconds that one query of the broker may take
_POLL = 0.2  # seconds
_CHUNK = 1000  # records that are passed on together

OnRead = Callable[[list[Record], bool, bool], object]
"""Takes records; whether reading begins anew with them; whether all is read that was there when it began."""


class PresenceLog:
    """Reads, and begins anew when its client dies or the topic is another one. Starts at once."""

    def __init__(self, config: Config, supervisor: Supervisor, on_read: OnRead) -> None:
        self._config = config
        self._topic = config.presence.topic
        self._on_read = on_read
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._client = supervisor.watch("presence", self.restart)
        self._begin()

    def _begin(self) -> None:
        self._turn = turn = object()  # identifies the current thread: an abandoned one sees another turn
        arguments = (turn, self._client.calls())
        self._thread = threading.Thread(target=self._run, args=arguments, name="kafka-presence", daemon=True)
        self._thread.start()

    def restart(self) -> None:
        """Read from the start, with another consumer."""
        if not self._stop.is_set():
            self._begin()

    def _run(self, turn: object, calls: CallDeadlines) -> None:
        consumer = None
        try:
            consumer = Consumer(
                reader_properties(self._config, enable_partition_eof=True, queued_max_messages_kbytes=4096)
            )
            with calls.within(2 * _QUERY):
                unread = self._assign(consumer)
            anew = True
            while not self._stop.is_set() and self._turn is turn:
                with calls.within(2 * _QUERY):
                    records = self._read(consumer, unread)
                if (records or anew or not unread) and not post_to_loop(
                    self._loop, self._pass_on, turn, records, anew, not unread
                ):
                    break
                anew = False
        except KafkaException as error:
            post_to_loop(self._loop, self._failed, turn, error.args[0])
        except Exception as error:  # else nothing would be read any more, and nobody hear of it
            _log.exception("presence is read anew after an internal error")
            fault = KafkaError(KafkaError._FAIL, f"internal error: {type(error).__name__}")
            post_to_loop(self._loop, self._failed, turn, fault)
        finally:
            if consumer is not None:
                consumer.close()

    def _assign(self, consumer: Consumer) -> dict[int, int]:
        """Begin to read; return where the partitions end now that have records."""
        topic = consumer.list_topics(self._topic, timeout=_QUERY).topics.get(self._topic)
        if topic is None or topic.error is not None:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if topic is None else topic.error)
        consumer.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in topic.partitions])
        found: dict[int, int] = {}
        for number in topic.partitions:
            low, high = bounds(consumer, TopicPartition(self._topic, number), _QUERY)
            if low < high:
                found[number] = high
        return found

    def _read(self, consumer: Consumer, unread: dict[int, int]) -> list[Record]:
        """Read what is there. unread: the ends of partitions that have not been reached yet.

        The end of a partition is not reported while it is written to more often than a fetch waits, but where its last records
        were removed nothing else says that it is reached.
        """
        first = consumer.poll(_POLL)
        if first is None:
            return []
        found: list[Record] = []
        for message in (first, *consumer.consume(_CHUNK, 0)):
            error, partition = message.error(), cast("int", message.partition())
            if error is None:
                age = _age(message) if unread else 0.0
                found.append(Record(message.key(), message.value(), age))
                if partition in unread and cast("int", message.offset()) + 1 >= unread[partition]:
                    del unread[partition]
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.pop(partition, None)
            else:
                raise KafkaException(error)
        return found

    def _pass_on(self, turn: object, records: list[Record], anew: bool, complete: bool) -> None:
        if self._turn is turn:
            self._client.works()
            self._on_read(records, anew, complete)

    def _failed(self, turn: object, error: KafkaError) -> None:
        if self._turn is turn:
            self._client.died(error)

    async def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._client.close()
        await self._loop.run_in_executor(None, self._thread.join, 2 * _QUERY)


def _age(message: Message) -> float:
    """Return how many seconds ago a record was written, by its timestamp."""
    kind, milliseconds = message.timestamp()
    return 0.0 if kind == TIMESTAMP_NOT_AVAILABLE else max(0.0, time.time() - milliseconds / 1000)
