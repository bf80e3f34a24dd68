"""Reads the home partitions of the sessions that live here, with assign() and no group: nothing to rebalance.

Invariant: a partition is assigned at the end that it had when it was asked for, before the session that needs it is
welcomed; so nothing that is published after the welcome is missed.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.tails import Record
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.offsets import OffsetQueries, learn
from podpair.gateway.kafka.supervisor import Calls, Supervisor, is_dead
from podpair.gateway.kafka.threads import call_on
from podpair.gateway.kafka.topic_watch import TopicWatch

_log = logging.getLogger(__name__)
_BATCH = 10_000  # records that cross to the loop together
_IN_FLIGHT = 2  # batches: one is delivered while the next is read
WIDENED = 600.0  # seconds in which producers learn of new partitions: twice what clients take by default
_RETRY = 0.5  # seconds before the offsets of a partition are asked for again
_METADATA = 5.0  # seconds for the broker to say what the topic is
_CLOSE = 10.0  # seconds that closing may take
_POLL = 0.05  # seconds; how late a change of what is read takes effect


class Hold:
    """Somebody's need of the home partition of a session, which moves where the topic changes."""

    __slots__ = ("_reader", "partition", "session")

    def __init__(self, session: str | None, partition: int, reader: "ResultsReader") -> None:
        self.session = session  # None: the partition was home to somebody until the topic was widened
        self.partition = partition
        self._reader = reader

    def release(self) -> None:
        """It is not needed any more."""
        self._reader.release(self)


class ResultsReader:
    """A thread that polls, and hands whole batches to `deliver` on the loop's thread.

    `opened(partition, offset)` and `closed(partition)` tell what is read. `lost(partition)` is called where the log was cut under
    the reader, so that its next offset is not there any more, and `failed()` where reading fails otherwise: the topic may not be
    what it was. `reached(partition)`: the offset up to which it was delivered, where a reader that died is followed by another.
    """

    def __init__(
        self,
        config: Config,
        homes: HomePartitions,
        supervisor: Supervisor,
        presence: TopicWatch | None = None,
        *,
        opened: Callable[[int, int], object],
        closed: Callable[[int], object],
        deliver: Callable[[Sequence[Record]], object],
        lost: Callable[[int], object],
        failed: Callable[[], object],
        reached: Callable[[int], int],
    ) -> None:
        self._topic = config.results.topic
        self._linger = config.results.linger_seconds
        self._homes = homes
        self._opened = opened
        self._closed = closed
        self._deliver = deliver
        self._lost = lost
        self._failed = failed
        self._reached = reached
        self._loop = asyncio.get_running_loop()
        self._offsets = OffsetQueries(config, supervisor, presence)
        self._config = config
        self._client = supervisor.watch("results", self._replace)
        self._commands: deque[Callable[[Consumer], object]] = deque()  # for the thread: the consumer is its alone
        self._holds: dict[int, set[Hold]] = {}  # partition → who needs it; none: it lingers
        self._assigned: dict[int, asyncio.Task[None]] = {}
        self._incarnation = 0  # of the topic: what was asked about an earlier one counts for nothing
        self._stop = threading.Event()
        self._thread = self._begin()

    def _begin(self) -> threading.Thread:
        """Poll with a new consumer. A thread before this one, which may be stuck, delivers nothing more."""
        self._turn = turn = threading.BoundedSemaphore(_IN_FLIGHT)  # for batches; and whose turn it is
        self._commands = deque()
        consumer = Consumer(reader_properties(self._config))
        thread = threading.Thread(
            target=self._poll, args=(consumer, self._commands, turn, self._client.calls()), name="kafka-results",
            daemon=True,
        )  # fmt: skip
        thread.start()
        return thread

    def _replace(self) -> None:
        """Read with another consumer, from where this one has come to: it is dead, or does not come back."""
        if self._stop.is_set():
            return
        self._thread = self._begin()
        for partition, offset in self.reached.items():
            self._read_from(partition, offset)
        self._client.works()

    @property
    def reached(self) -> dict[int, int]:
        """The offset that comes next in each partition that is read."""
        return {
            partition: self._reached(partition)
            for partition, task in self._assigned.items()
            if task.done() and not task.cancelled() and task.exception() is None
        }

    def stalled(self, text: str) -> None:
        """It reads nothing, although there are records: go on with another consumer."""
        self._client.stalled(text)

    @property
    def partitions(self) -> int:
        """How many partitions are read."""
        return len(self._assigned)

    async def hold(self, session: str) -> "Hold":
        """Return when the session's home partition is read; raises KafkaException where the broker does not tell its end.

        It is read until the hold is released.
        """
        hold = Hold(session, self._homes.of(session), self)
        self._holds.setdefault(hold.partition, set()).add(hold)
        try:
            await self.reads(session)
        except BaseException:
            hold.release()
            raise
        return hold

    async def reads(self, session: str) -> None:
        """Return when the home partition of a session that holds it is read. Raises KafkaException."""
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
            # The topic has changed meanwhile.

    def release(self, hold: "Hold") -> None:
        """A session that held the partition is gone; it is read on for a while, for the session may come back."""
        holds = self._holds.get(hold.partition)
        if holds is not None:
            holds.discard(hold)
            if not holds:
                self._loop.call_later(self._linger, self._drop_if_idle, hold.partition)

    def changed(self, *, widened_from: int | None) -> None:
        """The topic is another one, or has been widened: homes have moved.

        Another one is read from its start, for all that is in it is new, and by another consumer: librdkafka takes no news of a
        partition whose leader's epoch is below what it has seen, and those of a topic that was made again begin at 0. In one
        that was widened the new partitions are read from their start; those that were read are read on, for some producers
        write there until they have learnt of it.
        """
        self._offsets.changed(another=widened_from is None)
        holds = [hold for held in self._holds.values() for hold in held if hold.session is not None]
        if widened_from is None:
            self._incarnation += 1
            self._thread = self._begin()
            for partition in self._assigned:
                self._closed(partition)
            self._assigned, self._holds = {}, {}
        else:
            self._commands.append(self._ask_for_metadata)
            for partition, held in self._holds.items():
                held.clear()
                held.add(kept := Hold(None, partition, self))
                self._loop.call_later(WIDENED, kept.release)
        for hold in holds:
            hold.partition = self._homes.of(hold.session or "")
            self._holds.setdefault(hold.partition, set()).add(hold)
            if hold.partition not in self._assigned:
                from_start = widened_from is None or hold.partition >= widened_from
                work = self._assign(hold.partition, from_start=from_start, patient=True)
                self._assigned[hold.partition] = self._loop.create_task(work)

    def _ask_for_metadata(self, consumer: Consumer) -> None:
        """On the thread."""
        learn(consumer, self._topic)

    def retain(self, session: str) -> Callable[[], None] | None:
        """Have the home of a session be read on, until what is returned is called. None: it isn't read."""
        partition = self._homes.of(session)
        if partition not in self._assigned:
            return None
        hold = Hold(session, partition, self)
        self._holds.setdefault(partition, set()).add(hold)
        return hold.release

    async def watermarks(self, partition: int) -> tuple[int, int]:
        """(low, high) of the partition, asked from the broker. Raises KafkaException."""
        return await self._offsets.watermarks(partition)

    async def _assign(self, partition: int, *, from_start: bool, patient: bool = False) -> None:
        """Begin to read a partition, at its end or its start. `patient`: try until that succeeds, or the topic changes."""
        incarnation = self._incarnation
        while True:
            try:
                low, high = await self._offsets.watermarks(partition)
                break
            except KafkaException as error:
                if not patient or self._stop.is_set() or incarnation != self._incarnation:
                    raise
                _log.warning("asking for the offsets of %s[%d] again: %s", self._topic, partition, error.args[0].str())
                await asyncio.sleep(_RETRY)
        if incarnation != self._incarnation:
            return
        # The tail is there before the first record can be. Reading begins there whenever the thread gets to it.
        offset = low if from_start else high
        self._opened(partition, offset)
        self._read_from(partition, offset)

    def _read_from(self, partition: int, offset: int) -> None:
        place = TopicPartition(self._topic, partition, offset)
        self._commands.append(lambda consumer: consumer.incremental_assign([place]))

    def _read_no_more(self, partition: int) -> None:
        place = TopicPartition(self._topic, partition)
        self._commands.append(lambda consumer: consumer.incremental_unassign([place]))

    def _drop_if_idle(self, partition: int) -> None:
        task = self._assigned.get(partition)
        if self._stop.is_set() or self._holds.get(partition) or task is None or not task.done():
            return
        del self._assigned[partition]
        self._holds.pop(partition, None)
        self._read_no_more(partition)
        self._closed(partition)

    def move(self, partition: int, offset: int) -> None:
        """Go on reading at `offset`: the log was cut."""
        self._read_no_more(partition)
        self._opened(partition, offset)
        self._read_from(partition, offset)

    def _poll(
        self,
        consumer: Consumer,
        commands: deque[Callable[[Consumer], object]],
        turn: threading.BoundedSemaphore,
        calls: Calls,
    ) -> None:
        # poll() returns with the first record at once; consume() would wait for all it was asked for.
        poll, consume = consumer.poll, consumer.consume
        try:
            while not self._stop.is_set() and self._turn is turn:
                with calls.within(_METADATA):
                    while commands:
                        commands.popleft()(consumer)
                    first = poll(_POLL)
                    if first is None:
                        continue
                    batch = [first, *consume(_BATCH - 1, 0)]
                while not turn.acquire(timeout=1.0):
                    if self._stop.is_set() or self._turn is not turn:
                        return
                if not call_on(self._loop, self._hand_over, batch, turn):
                    return
        except KafkaException as error:
            call_on(self._loop, self._on_death, error.args[0], turn)
        with calls.within(_CLOSE):
            consumer.close()

    def _on_death(self, error: KafkaError, turn: threading.BoundedSemaphore) -> None:
        if self._turn is turn:
            self._client.died(error)

    def _hand_over(self, batch: list[Message], turn: threading.BoundedSemaphore) -> None:
        try:
            if self._turn is not turn:
                return  # of a topic that is not there any more, or it is read once more
            records = [message for message in batch if message.error() is None]
            if len(records) < len(batch):
                self._on_errors([message for message in batch if message.error() is not None])
            self._deliver(cast("Sequence[Record]", records))
        finally:
            turn.release()

    def _on_errors(self, messages: list[Message]) -> None:
        for message in messages:
            error = message.error()
            partition = message.partition()
            if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET and partition is not None:
                _log.error("%s[%d] was cut: %s", self._topic, partition, error.str())
                self._lost(partition)
            elif error is not None and is_dead(error):
                self._client.died(error)
            else:
                _log.warning("reading %s: %s", self._topic, error)
                self._failed()

    async def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._client.close()
        await self._loop.run_in_executor(None, self._thread.join, _CLOSE)
        await self._offsets.close()
