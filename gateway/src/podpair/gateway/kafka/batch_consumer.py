"""Takes records from a consumer in batches: at once while few come, larger ones the more come.

A batch costs a fetch, wake-ups of three threads and a write to each session in it, whatever is in it. So under load records
are held for a moment, in which librdkafka sees that some wait and puts off its next fetch (`fetching`): what comes in the
meantime gathers at the broker. Of a burst, whose batches are large, more is gathered here.

Invariants: a record that comes after a pause is not delayed; a batch is bounded in records and in bytes; nothing waits for
more than 10 ms once reading is to stop.
"""

import time
from collections.abc import Callable
from typing import cast

from confluent_kafka import Consumer, Message

from podpair.gateway.core.record_batch import Record, RecordBatch
from podpair.gateway.kafka.headers import headers_of

_PAUSE = 0.005  # seconds without a batch after which the next record is not delayed
_HOLD = 0.000_25  # seconds; librdkafka decides on its next fetch as soon as it has passed on what the last one brought
_CHUNK = 2_000  # records that are taken from the client in one call, which holds the interpreter's lock
_LARGE = 100  # records; a larger batch is looked at by its thread, which has to get the interpreter's lock for that
_BURST = 1_000  # records; a batch that large is part of a burst
_STEP, _FEW = 0.01, 100  # seconds in which more of a burst is waited for, and the records below which it is over
_LONGEST = 0.06  # seconds that a burst is gathered
_RECORDS, _BYTES = 200_000, 16 << 20  # at which a batch is full: it may exceed them by one chunk


def fetching(linger: float) -> dict[str, int]:
    """Return librdkafka's properties by which records gather at the broker for `linger` seconds while some wait here."""
    return {"queued_min_messages": 1, "fetch_queue_backoff_ms": max(round(linger * 1000), 1)} if linger else {}


class Batch:
    """What was read together: records by partition and key, and errors that came in place of records."""

    __slots__ = ("_errors", "_messages", "_records", "count", "size")

    def __init__(self) -> None:
        self._messages: list[Message] = []  # that were not looked at yet
        self._records = RecordBatch()
        self._errors: list[Message] = []
        self.count = 0  # records and errors
        self.size = 0  # bytes of the records' values, and of errors that were not looked at yet

    @property
    def full(self) -> bool:
        return self.count >= _RECORDS or self.size >= _BYTES

    @property
    def records(self) -> RecordBatch:
        """The records, by partition and key."""
        self._look()
        return self._records

    @property
    def errors(self) -> list[Message]:
        """What came in place of records."""
        self._look()
        return self._errors

    def add(self, messages: list[Message]) -> None:
        """Add messages. Those of a large batch are looked at now, those of a small one by whoever asks for its records."""
        self.count += len(messages)
        self.size += sum(map(len, messages))
        self._messages += messages
        if self.count > _LARGE:
            self._look()

    def _look(self) -> None:
        """Ask each message for each of its members, once."""
        messages, self._messages = self._messages, []
        if not messages:
            return
        if errors := [message for message in messages if message.error() is not None]:
            self._errors += errors
            self.size -= sum(map(len, errors))
            messages = [message for message in messages if message.error() is None]
        sizes = list(map(len, messages))
        members = map(Message.offset, messages), map(Message.value, messages), headers_of(messages)
        self._records.add(
            cast("list[int]", list(map(Message.partition, messages))),
            list(map(Message.key, messages)),
            cast("list[Record]", list(zip(*members, strict=True))),
            sizes,
        )


class BatchConsumer:
    """Reads batches for one thread. linger: seconds that a record may wait for others, about; 0: none waits.

    wait: sleeps for so many seconds, 0.01 at most; returns True when reading is to stop.
    """

    def __init__(
        self,
        consumer: Consumer,
        linger: float,
        wait: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer = consumer
        self._linger = linger
        self._wait = wait
        self._clock = clock
        self._last = float("-inf")  # when the last batch was read
        self.in_burst = False  # … and whether it was a large one

    def read(self, timeout: float) -> Batch | None:
        """Return the next batch; None if nothing comes within `timeout` seconds."""
        # poll() returns with the first record at once; consume() would wait for as many as requested.
        first = self._consumer.poll(timeout)
        if first is None:
            return None
        began = self._clock()
        if self._linger and began - self._last < _PAUSE:
            self._wait(_HOLD)
        batch, was_in_burst = Batch(), self.in_burst
        self._take(batch, first)
        if self._linger and (was_in_burst or self.in_burst):
            self._gather(batch, began + _LONGEST)
        self._last = self._clock()
        return batch

    def _gather(self, batch: Batch, end: float) -> None:
        """Add what else comes of a burst, until `end`."""
        more = True
        while more and not batch.full and self._clock() < end and not self._wait(_STEP):
            before = batch.count
            self.extend(batch)
            more = batch.count - before >= _FEW

    def extend(self, batch: Batch) -> None:
        """Add what the client has, until the batch is full."""
        if not batch.full:
            self._take(batch)

    def _take(self, batch: Batch, *messages: Message) -> None:
        """Add these messages and what the client has, until the batch is full."""
        more = True
        while more:
            chunk = self._consumer.consume(_CHUNK, 0)
            batch.add([*messages, *chunk] if messages else chunk)
            messages = ()
            more = len(chunk) == _CHUNK and not batch.full
        self.in_burst = batch.count >= _BURST
