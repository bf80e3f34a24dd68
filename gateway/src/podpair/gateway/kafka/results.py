"""Reads the home partitions of the sessions that live here, with assign() and no group: nothing to rebalance.

Invariant: a partition is assigned at the end that it had when it was asked for, before the session that needs it is
welcomed; so nothing that is published after the welcome is missed.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.core.tails import Record
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.offsets import OffsetQueries
from podpair.gateway.kafka.threads import call_on

_log = logging.getLogger(__name__)
_BATCH = 10_000  # records that cross to the loop together
_IN_FLIGHT = 2  # batches: one is delivered while the next is read
_POLL = 0.05  # seconds; how late a change of what is read takes effect


class ResultsReader:
    """A thread that polls, and hands whole batches to `deliver` on the loop's thread.

    `lost(partition)` is called where the log was cut under the reader, so that its next offset is not there any more.
    """

    def __init__(
        self,
        config: Config,
        *,
        opened: Callable[[int, int], object],
        closed: Callable[[int], object],
        deliver: Callable[[Sequence[Record]], object],
        lost: Callable[[int], object],
    ) -> None:
        self._topic = config.results.topic
        self._linger = config.results.linger_seconds
        self._opened = opened
        self._closed = closed
        self._deliver = deliver
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._offsets = OffsetQueries(config)
        self._consumer = Consumer(reader_properties(config))
        self._commands: deque[Callable[[], object]] = deque()  # for the thread: the consumer is its alone
        self._holds: dict[int, int] = {}  # partition → sessions that need it; 0: it lingers
        self._assigned: dict[int, asyncio.Task[None]] = {}
        self._slots = threading.BoundedSemaphore(_IN_FLIGHT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-results", daemon=True)
        self._thread.start()

    @property
    def partitions(self) -> int:
        """How many partitions are read."""
        return len(self._assigned)

    async def hold(self, partition: int) -> None:
        """Return when the partition is read; raises KafkaException where the broker does not tell its end.

        Each hold needs a `release`.
        """
        self._holds[partition] = self._holds.get(partition, 0) + 1
        task = self._assigned.get(partition)
        if task is None:
            task = self._assigned[partition] = self._loop.create_task(self._assign(partition))
        try:
            await asyncio.shield(task)
        except BaseException as error:
            if isinstance(error, KafkaException) and self._assigned.get(partition) is task:
                del self._assigned[partition]
            self.release(partition)
            raise

    def release(self, partition: int) -> None:
        """A session that held the partition is gone; it is read on for a while, for the session may come back."""
        self._holds[partition] -= 1
        if self._holds[partition] == 0:
            self._loop.call_later(self._linger, self._drop_if_idle, partition)

    def retain(self, partition: int) -> Callable[[], None] | None:
        """Have a partition that is read be read on, until what is returned is called. None: it isn't read."""
        if partition not in self._assigned:
            return None
        self._holds[partition] = self._holds.get(partition, 0) + 1
        return partial(self.release, partition)

    async def watermarks(self, partition: int) -> tuple[int, int]:
        """(low, high) of the partition, asked from the broker. Raises KafkaException."""
        return await self._offsets.watermarks(partition)

    async def _assign(self, partition: int) -> None:
        _, high = await self._offsets.watermarks(partition)
        # The tail is there before the first record can be. Reading begins at `high` whenever the thread gets to it.
        self._opened(partition, high)
        self._read_from(partition, high)

    def _read_from(self, partition: int, offset: int) -> None:
        place = TopicPartition(self._topic, partition, offset)
        self._commands.append(lambda: self._consumer.incremental_assign([place]))

    def _read_no_more(self, partition: int) -> None:
        place = TopicPartition(self._topic, partition)
        self._commands.append(lambda: self._consumer.incremental_unassign([place]))

    def _drop_if_idle(self, partition: int) -> None:
        task = self._assigned.get(partition)
        if self._stop.is_set() or self._holds.get(partition) or task is None or not task.done():
            return
        del self._assigned[partition], self._holds[partition]
        self._read_no_more(partition)
        self._closed(partition)

    def move(self, partition: int, offset: int) -> None:
        """Go on reading at `offset`: the log was cut."""
        self._read_no_more(partition)
        self._opened(partition, offset)
        self._read_from(partition, offset)

    def _poll(self) -> None:
        # poll() returns with the first record at once; consume() would wait for all it was asked for.
        poll, consume = self._consumer.poll, self._consumer.consume
        while not self._stop.is_set():
            while self._commands:
                self._commands.popleft()()
            first = poll(_POLL)
            if first is None:
                continue
            batch = [first, *consume(_BATCH - 1, 0)]
            while not self._slots.acquire(timeout=1.0):
                if self._stop.is_set():
                    return
            if not call_on(self._loop, self._hand_over, batch):
                return
        self._consumer.close()

    def _hand_over(self, batch: list[Message]) -> None:
        try:
            records = [message for message in batch if message.error() is None]
            if len(records) < len(batch):
                self._on_errors([message for message in batch if message.error() is not None])
            self._deliver(cast("Sequence[Record]", records))
        finally:
            self._slots.release()

    def _on_errors(self, messages: list[Message]) -> None:
        for message in messages:
            error = message.error()
            partition = message.partition()
            if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET and partition is not None:
                _log.error("%s[%d] was cut: %s", self._topic, partition, error.str())
                self._lost(partition)
            else:
                _log.warning("reading %s: %s", self._topic, error)

    async def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        await self._loop.run_in_executor(None, self._thread.join)
        await self._offsets.close()
