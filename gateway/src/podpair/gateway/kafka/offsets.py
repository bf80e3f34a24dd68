"""Asks the broker where a results partition begins and ends.

Invariant: nobody waits for longer than one question may take. Who asks for the same partition meanwhile shares the answer, and
while no broker answers all are told so at once.
"""

import asyncio
import logging
import threading
import time
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.supervisor import Client, Supervisor, is_dead
from podpair.gateway.kafka.threads import call_on
from podpair.gateway.kafka.topic_watch import TopicWatch

_log = logging.getLogger(__name__)
_TIMEOUT = 10.0  # seconds for a question, from when it was asked
_PASSING = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._TRANSPORT,
}

_Ends = tuple[int, int]

UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}
_METADATA = 5.0  # seconds for the broker to say what a topic is


def learn(consumer: Consumer, topic: str) -> None:
    """Ask the broker what a topic is now, on the consumer's thread: by itself it would do so only after a while."""
    try:
        consumer.list_topics(topic, timeout=_METADATA)
    except KafkaException as error:
        _log.warning("asking what topic %s is: %s", topic, error.args[0].str())


class _Asker:
    """A consumer that reads nothing, on a thread of its own: a consumer that polls answers no questions meanwhile."""

    def __init__(self, config: Config, client: Client) -> None:
        self._topic = config.results.topic
        self._client = client
        self._calls = client.calls()
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer(reader_properties(config))
        self._waiting: dict[int, tuple[asyncio.Future[_Ends], float]] = {}  # partition → who waits, until when
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
                    call_on(self._loop, self._client.died, error.args[0])
            if not call_on(self._loop, _settle, answer, found):
                break
        self._consumer.close()

    def _watermarks(self, partition: int, end: float) -> _Ends:
        # A partition that was just made, or whose broker was just lost, has no leader for a moment.
        while True:
            left = end - time.monotonic()
            if left <= 0.0 or self._stopping:
                raise _late(f"no offsets of {self._topic}[{partition}] in {_TIMEOUT:.0f} s")
            place = TopicPartition(self._topic, partition)
            try:
                with self._calls.within(left):
                    found = self._consumer.get_watermark_offsets(place, timeout=left, cached=False)
            except KafkaException as error:
                if error.args[0].code() not in _PASSING:
                    raise
                if error.args[0].code() in UNKNOWN:
                    with self._calls.within(_METADATA):
                        learn(self._consumer, self._topic)
                time.sleep(0.05)
            else:
                if found is not None:
                    return found

    def stop(self) -> threading.Thread:
        """Ask no more: its thread ends when the question in hand is answered."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        return self._thread


class OffsetQueries:
    """`watermarks` asks; one question a partition at a time."""

    def __init__(self, config: Config, supervisor: Supervisor, presence: TopicWatch | None = None) -> None:
        self._config = config
        self._presence = presence
        self._client = supervisor.watch("offsets", self._replace)
        self._asker = _Asker(config, self._client)
        self._asked: dict[int, asyncio.Future[_Ends]] = {}
        self._closed = False
        if presence is not None:
            presence.on_away(self._on_presence)

    def changed(self, *, another: bool) -> None:
        """The topic has changed: questions about what it was are given up. `another`: another client asks from now on."""
        self._fail_all(_late(f"topic {self._config.results.topic} has changed"))
        if another and not self._closed:
            self._asker.stop()
            self._asker = _Asker(self._config, self._client)

    async def watermarks(self, partition: int) -> tuple[int, int]:
        """(low, high): the partition holds the offsets low ≤ o < high. Raises KafkaException, also once this is closed."""
        if self._closed:
            raise _closed()
        if self._presence is not None and self._presence.away is not None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, self._presence.away))
        answer = self._asked.get(partition)
        if answer is None:
            answer = self._asked[partition] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(partial(self._answered, partition))
            self._asker.ask(partition, answer)
        return await asyncio.shield(answer)

    def _answered(self, partition: int, answer: "asyncio.Future[_Ends]") -> None:
        if self._asked.get(partition) is answer:
            del self._asked[partition]
        if not answer.cancelled():
            answer.exception()  # who asked may be gone

    def _fail_all(self, error: KafkaException) -> None:
        for answer in list(self._asked.values()):
            _settle(answer, error)
        self._asked.clear()

    def _on_presence(self, away: str | None) -> None:
        if away is not None:
            self._fail_all(KafkaException(KafkaError(KafkaError._TRANSPORT, away)))

    def _replace(self) -> None:
        """Ask with another client: this one is dead, or does not come back."""
        self._asker.stop()
        self._fail_all(_late("its Kafka client is being replaced"))
        if not self._closed:
            self._asker = _Asker(self._config, self._client)
            self._client.works()

    async def close(self) -> None:
        """Stop asking: what waits is told so, the one in hand is waited for."""
        self._closed = True
        self._client.close()
        self._fail_all(_closed())
        thread = self._asker.stop()
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
