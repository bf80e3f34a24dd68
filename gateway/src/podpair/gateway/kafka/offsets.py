"""Queries the broker for the watermarks of results partitions.

Invariant: nobody waits for longer than one query may take. Concurrent queries for the same partition share the answer, and
while no broker answers all fail at once.
"""

import asyncio
import logging
import threading
import time
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.supervisor import SupervisedClient, Supervisor, is_dead
from podpair.gateway.kafka.threads import post_to_loop
from podpair.gateway.kafka.topic_watch import TopicWatch

_log = logging.getLogger(__name__)
_TIMEOUT = 10.0  # seconds for a query
PASSING = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._TRANSPORT,
}

_Ends = tuple[int, int]

UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}
_METADATA = 5.0  # seconds for the metadata of a topic


def learn(consumer: Consumer, topic: str) -> None:
    """Refresh the consumer's metadata of a topic, on the consumer's thread: by itself it would do so only after a while."""
    try:
        consumer.list_topics(topic, timeout=_METADATA)
    except KafkaException as error:
        _log.warning("refreshing the metadata of topic %s: %s", topic, error.args[0].str())


class _OffsetThread:
    """A consumer for queries alone, on a thread of its own: a consumer can't answer queries while it polls."""

    def __init__(self, config: Config, client: SupervisedClient) -> None:
        self._topic = config.results.topic
        self._client = client
        self._calls = client.calls()
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer(reader_properties(config))
        self._waiting: dict[int, tuple[asyncio.Future[_Ends], float]] = {}  # partition → its future, until when
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kafka-offsets", daemon=True)
        self._thread.start()

    def ask(self, partition: int, answer: "asyncio.Future[_Ends]") -> None:
        with self._wake:
            self._waiting[partition] = (answer, time.monotonic() + _TIMEOUT)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._stopping:
                    self._wake.wait()
                if self._stopping:
                    break
                partition = next(iter(self._waiting))
                answer, end = self._waiting.pop(partition)
            found: _Ends | KafkaException
            try:
                found = self._watermarks(partition, end)
            except KafkaException as error:
                found = error
                if is_dead(error.args[0]):
                    post_to_loop(self._loop, self._client.died, error.args[0])
            if not post_to_loop(self._loop, _settle, answer, found):
                break
        self._consumer.close()

    def _watermarks(self, partition: int, end: float) -> _Ends:
        # A partition that was just created, or whose broker was just lost, has no leader for a moment.
        while True:
            left = end - time.monotonic()
            if left <= 0.0 or self._stopping:
                raise _late(f"no offsets of {self._topic}[{partition}] in {_TIMEOUT:.0f} s")
            place = TopicPartition(self._topic, partition)
            try:
                with self._calls.within(left):
                    found = self._consumer.get_watermark_offsets(place, timeout=left, cached=False)
            except KafkaException as error:
                if error.args[0].code() not in PASSING:
                    raise
                if error.args[0].code() in UNKNOWN:
                    with self._calls.within(_METADATA):
                        learn(self._consumer, self._topic)
                time.sleep(0.05)
            else:
                if found is not None:
                    return found

    def stop(self) -> threading.Thread:
        """Stop: the thread ends when the current query is answered."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        return self._thread


class OffsetQueries:
    """Queries watermarks; one query per partition at a time."""

    def __init__(self, config: Config, supervisor: Supervisor, topic_watch: TopicWatch | None = None) -> None:
        self._config = config
        self._topic_watch = topic_watch
        self._client = supervisor.watch("offsets", self._replace)
        self._asking = _OffsetThread(config, self._client)
        self._asked: dict[int, asyncio.Future[_Ends]] = {}
        self._closed = False
        if topic_watch is not None:
            topic_watch.on_broker_change(self._on_broker_change)

    def changed(self, *, another: bool) -> None:
        """Abandon queries about a topic that has changed. another: use another client from now on."""
        self._fail_all(_late(f"topic {self._config.results.topic} has changed"))
        if another and not self._closed:
            self._asking.stop()
            self._asking = _OffsetThread(self._config, self._client)

    async def watermarks(self, partition: int) -> tuple[int, int]:
        """Return (low, high): the partition has the offsets low ≤ o < high. Raises KafkaException, also once this is closed."""
        if self._closed:
            raise _closed()
        if self._topic_watch is not None and self._topic_watch.broker_error is not None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, self._topic_watch.broker_error))
        answer = self._asked.get(partition)
        if answer is None:
            answer = self._asked[partition] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(partial(self._on_answer, partition))
            self._asking.ask(partition, answer)
        return await asyncio.shield(answer)

    def _on_answer(self, partition: int, answer: "asyncio.Future[_Ends]") -> None:
        if self._asked.get(partition) is answer:
            del self._asked[partition]
        if not answer.cancelled():
            answer.exception()  # the caller may be gone

    def _fail_all(self, error: KafkaException) -> None:
        for answer in list(self._asked.values()):
            _settle(answer, error)
        self._asked.clear()

    def _on_broker_change(self, broker_error: str | None) -> None:
        if broker_error is not None:
            self._fail_all(KafkaException(KafkaError(KafkaError._TRANSPORT, broker_error)))

    def _replace(self) -> None:
        """Query with another client: this one is dead, or stuck."""
        self._asking.stop()
        self._fail_all(_late("its Kafka client is being replaced"))
        if not self._closed:
            self._asking = _OffsetThread(self._config, self._client)
            self._client.works()

    async def close(self) -> None:
        """Fail pending queries, and wait for the current one."""
        self._closed = True
        self._client.close()
        self._fail_all(_closed())
        thread = self._asking.stop()
        await asyncio.get_running_loop().run_in_executor(None, thread.join, _TIMEOUT)


def _settle(answer: "asyncio.Future[_Ends]", found: _Ends | KafkaException) -> None:
    if answer.done():
        return
    if isinstance(found, KafkaException):
        answer.set_exception(found)
    else:
        answer.set_result(found)


def _late(message: str) -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, message))


def _closed() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._DESTROY, "the gateway is stopping"))
