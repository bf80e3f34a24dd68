"""Reads a topic from where a gateway started up to its end, and knows when it has. Blocks: it is for a thread.

librdkafka goes on at its old offset in a topic that was deleted and made again. So the topic's id and width are asked for after
its ends: ids do not come back, and the ends are those of the topic that was known if it is still there. Else reading begins anew.
"""

from typing import NamedTuple, cast

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.kafka.clients import properties, reader_properties
from podpair.gateway.kafka.topics import NO_TOPIC_IDS, describe, widths

QUERY_SECONDS = 5.0
"""How long one query of the brokers may take."""
_MOST = 10_000  # records of one read
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_UNCOMMITTED = IsolationLevel.READ_UNCOMMITTED  # an end that no open transaction holds back


class TopicNews(NamedTuple):
    """What a read has brought."""

    messages: list[Message]
    anew: bool  # reading begins here: whatever was written before is not known
    complete: bool  # all is read that was there when the read began


class TopicReader:
    """Reads one topic. Its methods raise KafkaException; after that the reader goes on where it was, or anew."""

    def __init__(self, config: Config, topic: str) -> None:
        self._topic = topic
        self._config = config
        self._admin = AdminClient(properties(config))
        self._has_ids = not config.kafka.embedded  # the mock broker has none, and does not report that
        self._consumer: Consumer | None = None
        self._state: TopicState | None = None
        self._reached: dict[int, int] | None = (
            None  # by partition, the offset up to which it is read; None: nowhere yet
        )

    def read(self) -> TopicNews:
        """Read what was written since the last time, up to some thousand records."""
        if self._state is None:
            self._state = self._describe()
        state = self._state
        ends = self._ends(state.partitions)
        if self._describe() != state:
            self._begin_anew()
            return TopicNews([], anew=True, complete=False)
        reached = self._reached
        if reached is None or any(end < reached[partition] for partition, end in ends.items()):
            self._reached = ends
            return TopicNews([], anew=True, complete=True)
        behind = {partition: end for partition, end in ends.items() if end > reached[partition]}
        try:
            messages = self._consume(reached, behind) if behind else []
        except KafkaException:
            self._begin_anew()  # part of the log may be gone
            raise
        return TopicNews(
            messages, anew=False, complete=all(reached[partition] >= end for partition, end in ends.items())
        )

    def _describe(self) -> TopicState:
        found: TopicState | KafkaError | None = None
        if self._has_ids:
            found = describe(self._admin, [self._topic], QUERY_SECONDS)[self._topic]
            if isinstance(found, KafkaError) and found.code() in NO_TOPIC_IDS:
                self._has_ids = False
        if not self._has_ids:
            found = widths(self._admin, [self._topic], QUERY_SECONDS)[self._topic]
        if isinstance(found, KafkaError):
            self._begin_anew()
            raise KafkaException(found)
        return cast("TopicState", found)

    def _ends(self, partitions: int) -> dict[int, int]:
        specs = {TopicPartition(self._topic, partition): _LATEST for partition in range(partitions)}
        futures = self._admin.list_offsets(specs, isolation_level=_UNCOMMITTED, request_timeout=QUERY_SECONDS)
        try:
            return {place.partition: future.result(2 * QUERY_SECONDS).offset for place, future in futures.items()}
        except TimeoutError:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"asking where {self._topic} ends")) from None

    def _consume(self, reached: dict[int, int], ends: dict[int, int]) -> list[Message]:
        """Read up to these ends, or a first part, and move `reached` on."""
        if self._consumer is None:
            own = {"enable_partition_eof": True, "isolation_level": "read_uncommitted"}
            self._consumer = Consumer(reader_properties(self._config, **own))
        consumer = self._consumer
        consumer.assign([TopicPartition(self._topic, partition, reached[partition]) for partition in ends])
        found: list[Message] = []
        try:
            while len(found) < _MOST and any(reached[partition] < end for partition, end in ends.items()):
                message = consumer.poll(QUERY_SECONDS)
                if message is None:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no records of {self._topic}"))
                for item in (message, *consumer.consume(1000, 0)):
                    partition, error = cast("int", item.partition()), item.error()
                    if error is None:
                        found.append(item)
                        reached[partition] = cast("int", item.offset()) + 1
                    elif error.code() == KafkaError._PARTITION_EOF:  # the last offsets may be transaction markers
                        reached[partition] = max(reached[partition], cast("int", item.offset()))
                    else:
                        raise KafkaException(error)
        finally:
            consumer.unassign()
        return found

    def _begin_anew(self) -> None:
        """Go on as if nothing had been read: with another consumer, for this one may know a topic that is gone."""
        self._state = self._reached = None
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def close(self) -> None:
        """Close the connections to the brokers."""
        self._begin_anew()
