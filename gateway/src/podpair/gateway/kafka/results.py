"""Reads the home partitions of this gateway's sessions, with assign() and no group: there is nothing to rebalance.

Invariant: a partition is assigned at the end that it had when it was acquired, before the session that needs it is
welcomed; so no record that is written after the welcome is missed.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.record_batch import PartitionRecords
from podpair.gateway.kafka.batch_consumer import Batch, BatchConsumer, fetching
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.offsets import OffsetQueries, learn
from podpair.gateway.kafka.supervisor import CallDeadlines, Supervisor, is_dead
from podpair.gateway.kafka.threads import post_to_loop
from podpair.gateway.kafka.topic_watch import TopicWatch

_log = logging.getLogger(__name__)
WIDENED = 600.0  # seconds in which producers notice new partitions: twice the default of clients
_RETRY = 0.5  # seconds before the offsets of a partition are queried again
_METADATA = 5.0  # seconds for the metadata of the topic
_CLOSE = 10.0  # seconds that closing may take
_TURN = 20_000  # records that are delivered in one turn of the loop, or those of one partition
_POLL = 0.05  # seconds; how late a change of the assignment takes effect


class PartitionLease:
    """Keeps the home partition of a session assigned; it moves when the topic changes."""

    __slots__ = ("_reader", "partition", "session")

    def __init__(self, session: str | None, partition: int, reader: "ResultsReader") -> None:
        self.session = session  # None: the partition was the home of sessions until the topic was widened
        self.partition = partition
        self._reader = reader

    def release(self) -> None:
        """Release the partition."""
        self._reader.release(self)


@dataclass(frozen=True, slots=True)
class ResultsHooks:
    """What a results reader calls, on the loop's thread."""

    opened: Callable[[int, int], object]
    """Hears of a partition that is read from now on, and of the offset."""
    closed: Callable[[int], object]
    """Hears of a partition that is not read any more."""
    deliver: Callable[[int, PartitionRecords], object]
    """Takes the records of a partition that were read together."""
    lost: Callable[[int], object]
    """Hears of a partition whose log was truncated, so that the next offset is gone."""
    failed: Callable[[], object]
    """Hears that reading fails otherwise: the topic may have changed."""
    reached: Callable[[int], int]
    """Returns the offset up to which a partition was delivered, for a reader that replaces a dead one."""


class ResultsReader:
    """Polls on a thread, and passes whole batches on."""

    def __init__(
        self,
        config: Config,
        homes: HomePartitions,
        supervisor: Supervisor,
        hooks: ResultsHooks,
        topic_watch: TopicWatch | None = None,
    ) -> None:
        self._topic = config.results.topic
        self._linger = config.results.linger_seconds
        self._batch_linger = config.results.batch_linger_seconds
        self._homes = homes
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._offsets = OffsetQueries(config, supervisor, topic_watch)
        self._config = config
        self._client = supervisor.watch("results", self._replace)
        self._commands: deque[Callable[[Consumer], object]] = deque()  # for the thread, which alone uses the consumer
        self._leases: dict[int, set[PartitionLease]] = {}  # partition → its leases; none: it lingers
        self._assigned: dict[int, asyncio.Task[None]] = {}
        self._incarnation = 0  # of the topic: answers about an earlier one are ignored
        self._stop = threading.Event()
        self._thread = self._begin()

    def _begin(self) -> threading.Thread:
        """Poll with a new consumer. The former thread, which may be stuck, delivers nothing more."""
        # Held by the batch that is being delivered, and identifies the current thread. One batch: the next is larger for it.
        self._turn = turn = threading.Lock()
        self._commands = deque()
        consumer = Consumer(reader_properties(self._config, **fetching(self._batch_linger)))
        thread = threading.Thread(
            target=self._poll, args=(consumer, self._commands, turn, self._client.calls()), name="kafka-results",
            daemon=True,
        )  # fmt: skip
        thread.start()
        return thread

    def _replace(self) -> None:
        """Read with another consumer, from where the former one stopped, which is dead or stuck."""
        if self._stop.is_set():
            return
        self._thread = self._begin()
        for partition, offset in self.reached.items():
            self._read_from(partition, offset)
        self._client.works()

    @property
    def reached(self) -> dict[int, int]:
        """The next offset of each partition that is read."""
        return {
            partition: self._hooks.reached(partition)
            for partition, task in self._assigned.items()
            if task.done() and not task.cancelled() and task.exception() is None
        }

    def stalled(self, text: str) -> None:
        """Replace the consumer, which reads nothing although there are records."""
        self._client.stalled(text)

    @property
    def partitions(self) -> int:
        """The number of partitions that are read."""
        return len(self._assigned)

    async def acquire(self, session: str) -> "PartitionLease":
        """Have the session's home partition read until the lease is released; return when it is read.

        Raises KafkaException if its offsets can't be queried.
        """
        lease = PartitionLease(session, self._homes.of(session), self)
        self._leases.setdefault(lease.partition, set()).add(lease)
        try:
            await self.reads(session)
        except BaseException:
            lease.release()
            raise
        return lease

    async def reads(self, session: str) -> None:
        """Wait until the home partition of a session with a lease is read. Raises KafkaException."""
        while True:
            partition = self._homes.of(session)
            task = self._assigned.get(partition)
            if task is None:
                task = self._assigned[partition] = self._loop.create_task(self._assign(partition, from_start=False))
            try:
                await asyncio.shield(task)
            except KafkaException:
                if self._assigned.get(partition) is task:
                    del self._assigned[partition]
                    raise
            if self._assigned.get(partition) is task and self._homes.of(session) == partition:
                return
            # The topic has changed.

    def release(self, lease: "PartitionLease") -> None:
        """Release a partition. It is read for a while longer, because the session may come back."""
        leases = self._leases.get(lease.partition)
        if leases is not None:
            leases.discard(lease)
            if not leases:
                self._loop.call_later(self._linger, self._drop_if_idle, lease.partition)

    def changed(self, *, widened_from: int | None) -> None:
        """Follow homes that have moved, because the topic was replaced or widened.

        A new topic is read from its start, because all of it is new, and by another consumer: librdkafka ignores metadata of a
        partition whose leader epoch is below the one it knows, and those of a topic that was created again start at 0. Of a
        widened topic new partitions are read from their start; former homes are read on, because some producers write there
        until they notice the change.
        """
        self._offsets.changed(another=widened_from is None)
        leases = [lease for current in self._leases.values() for lease in current if lease.session is not None]
        if widened_from is None:
            self._incarnation += 1
            self._thread = self._begin()
            for partition in self._assigned:
                self._hooks.closed(partition)
            self._assigned, self._leases = {}, {}
        else:
            self._commands.append(self._ask_for_metadata)
            for partition, current in self._leases.items():
                current.clear()
                current.add(kept := PartitionLease(None, partition, self))
                self._loop.call_later(WIDENED, kept.release)
        for lease in leases:
            lease.partition = self._homes.of(lease.session or "")
            self._leases.setdefault(lease.partition, set()).add(lease)
            if lease.partition not in self._assigned:
                from_start = widened_from is None or lease.partition >= widened_from
                work = self._assign(lease.partition, from_start=from_start, patient=True)
                self._assigned[lease.partition] = self._loop.create_task(work)

    def _ask_for_metadata(self, consumer: Consumer) -> None:
        """Refresh the topic's metadata, on the thread."""
        learn(consumer, self._topic)

    def retain(self, session: str) -> Callable[[], None] | None:
        """Keep the home of a session read until the returned function is called. Return None if it isn't read."""
        partition = self._homes.of(session)
        if partition not in self._assigned:
            return None
        lease = PartitionLease(session, partition, self)
        self._leases.setdefault(partition, set()).add(lease)
        return lease.release

    async def watermarks(self, partition: int) -> tuple[int, int]:
        """Return (low, high) of the partition, as the broker has them. Raises KafkaException."""
        return await self._offsets.watermarks(partition)

    async def _assign(self, partition: int, *, from_start: bool, patient: bool = False) -> None:
        """Start reading a partition at its end or its start. patient: retry until that succeeds, or the topic changes."""
        incarnation = self._incarnation
        while True:
            try:
                low, high = await self._offsets.watermarks(partition)
                break
            except KafkaException as error:
                if not patient or self._stop.is_set() or incarnation != self._incarnation:
                    raise
                _log.warning("querying the offsets of %s[%d] again: %s", self._topic, partition, error.args[0].str())
                await asyncio.sleep(_RETRY)
        if incarnation != self._incarnation:
            return
        # The tail exists before the first record can arrive; the thread starts reading there when it gets to it.
        offset = low if from_start else high
        self._hooks.opened(partition, offset)
        self._read_from(partition, offset)

    def _read_from(self, partition: int, offset: int) -> None:
        place = TopicPartition(self._topic, partition, offset)
        self._commands.append(lambda consumer: consumer.incremental_assign([place]))

    def _read_no_more(self, partition: int) -> None:
        place = TopicPartition(self._topic, partition)
        self._commands.append(lambda consumer: consumer.incremental_unassign([place]))

    def _drop_if_idle(self, partition: int) -> None:
        task = self._assigned.get(partition)
        if self._stop.is_set() or self._leases.get(partition) or task is None or not task.done():
            return
        del self._assigned[partition]
        self._leases.pop(partition, None)
        self._read_no_more(partition)
        self._hooks.closed(partition)

    def move(self, partition: int, offset: int) -> None:
        """Continue reading at `offset`: the log was truncated."""
        self._read_no_more(partition)
        self._hooks.opened(partition, offset)
        self._read_from(partition, offset)

    def _poll(
        self,
        consumer: Consumer,
        commands: deque[Callable[[Consumer], object]],
        turn: threading.Lock,
        calls: CallDeadlines,
    ) -> None:
        batches = BatchConsumer(consumer, self._batch_linger, self._pause)
        try:
            while not self._stop.is_set() and self._turn is turn:
                with calls.within(_METADATA):
                    while commands:
                        commands.popleft()(consumer)
                    batch = batches.read(_POLL)
                if batch is None:
                    continue
                if not turn.acquire(blocking=False):
                    if not self._acquire(turn):
                        return
                    batches.extend(batch)
                if not post_to_loop(self._loop, self._hand_over, batch, turn):
                    return
                if batches.in_burst:  # what comes while it is delivered is part of the next
                    if not self._acquire(turn):
                        return
                    turn.release()
        except KafkaException as error:
            post_to_loop(self._loop, self._on_death, error.args[0], turn)
        with calls.within(_CLOSE):
            consumer.close()

    def _pause(self, seconds: float) -> bool:
        """Sleep for up to some milliseconds, and return whether to stop: waiting for an event is Python's work, and much."""
        time.sleep(seconds)
        return self._stop.is_set()

    def _acquire(self, turn: threading.Lock) -> bool:
        """Wait until the batch before is delivered. Return False if this thread is to end."""
        while not turn.acquire(timeout=1.0):
            if self._stop.is_set() or self._turn is not turn:
                return False
        return True

    def _on_death(self, error: KafkaError, turn: threading.Lock) -> None:
        if self._turn is turn:
            self._client.died(error)

    def _hand_over(self, batch: Batch, turn: threading.Lock) -> None:
        try:
            if self._turn is turn:  # else they are of a replaced topic, or will be read again
                self._on_errors(batch.errors)
        finally:
            self._deliver(deque(batch.records.partitions.items()), turn)

    def _deliver(self, batch: deque[tuple[int, PartitionRecords]], turn: threading.Lock) -> None:
        """Deliver partitions of a batch; if they have many records, the other partitions in the next turn of the loop."""
        delivered = 0
        while batch and delivered < _TURN and self._turn is turn:
            partition, records = batch.popleft()
            delivered += records.count
            try:
                self._hooks.deliver(partition, records)
            except Exception:
                # Whatever failed concerns this partition only: the others get their records.
                _log.exception("delivering %s[%d] failed", self._topic, partition)
        if batch and self._turn is turn:
            self._loop.call_soon(self._deliver, batch, turn)
        else:
            turn.release()

    def _on_errors(self, messages: list[Message]) -> None:
        for message in messages:
            error = message.error()
            partition = message.partition()
            if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET and partition is not None:
                _log.error("%s[%d] was truncated: %s", self._topic, partition, error.str())
                self._hooks.lost(partition)
            elif error is not None and is_dead(error):
                self._client.died(error)
            else:
                _log.warning("reading %s: %s", self._topic, error)
                self._hooks.failed()

    async def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._client.close()
        await self._loop.run_in_executor(None, self._thread.join, _CLOSE)
        await self._offsets.close()
