"""Samples results partitions that are not read, to find misplaced records.

A gateway reads the homes of its sessions and nothing else, so that records of a producer with another partitioner may be in a
partition that no gateway reads. One gateway is responsible for each partition; if it doesn't read the partition, it samples the
new records there.

Invariant: a check is bounded in partitions, records and bytes, and partitions without misplaced records are checked less and
less often: that costs a broker next to nothing, however much is written.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.checks import Check
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.group_progress import GroupProgress
from podpair.gateway.kafka.headers import headers_of
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_EVERY = 5.0  # seconds between checks
_SELDOM = 60.0  # seconds between checks of a partition without misplaced records
_PARTITIONS = 32  # per check
_RECORDS = 200  # the newest of a partition
_BYTES = 8 << 20  # per check
_PATIENCE = 10.0  # seconds per check


class Sampled(NamedTuple):
    """A record of a partition that is not read here, without its value."""

    offset: int
    key: bytes | None
    headers: Headers | None


class _Seen:
    """The state of one partition."""

    __slots__ = ("due", "end", "wait")

    def __init__(self, end: int) -> None:
        self.end = end  # offset up to which it was checked
        self.wait = _EVERY
        self.due = 0.0  # monotonic seconds: when it is checked next


class UnreadResultsWatch:
    """Checks unread partitions. unread: returns the partitions to check. found: called with a partition and samples of it,
    returns how many of them are misplaced.
    """

    def __init__(
        self,
        config: Config,
        homes: HomePartitions,
        progress: GroupProgress,
        unread: Callable[[], Collection[int]],
        found: Callable[[int, list[Sampled]], int],
    ) -> None:
        self._config = config
        self._topic = config.results.topic
        self._homes = homes
        self._progress = progress
        self._unread = unread
        self._found = found
        self._epoch = homes.epoch
        self._seen: dict[int, _Seen] = {}
        check = Check(f"unread partitions of {self._topic}", _log, logging.DEBUG)
        self._task = asyncio.create_task(check.every(_EVERY, self._check, first=0))

    async def _check(self) -> None:
        if self._homes.epoch != self._epoch:  # the topic was replaced or widened
            self._epoch = self._homes.epoch
            self._seen.clear()
        unread = set(self._unread())
        self._seen = {partition: seen for partition, seen in self._seen.items() if partition in unread}
        ends = await self._progress.readable_ends(self._topic, list(unread)) if unread else {}
        now = time.monotonic()
        ranges: dict[int, tuple[int, int]] = {}
        for partition, end in ends.items():
            seen = self._seen.setdefault(partition, _Seen(end))
            if end > seen.end and now >= seen.due and len(ranges) < _PARTITIONS:
                ranges[partition] = max(seen.end, end - _RECORDS), end
        if not ranges:
            return
        epoch = self._homes.epoch
        samples = await asyncio.get_running_loop().run_in_executor(None, self._read, ranges)
        if epoch != self._homes.epoch:
            return
        still = set(self._unread())
        for partition, (_, end) in ranges.items():
            seen = self._seen[partition]
            seen.end = end
            wrong = self._found(partition, samples.get(partition, [])) if partition in still else 0
            seen.wait = _EVERY if wrong else min(2 * seen.wait, _SELDOM)
            seen.due = time.monotonic() + (0.0 if wrong else seen.wait)

    def _read(self, ranges: Mapping[int, tuple[int, int]]) -> dict[int, list[Sampled]]:
        """Read the records of these ranges, up to the bounds. With a new consumer each time, because it is rarely needed."""
        samples: dict[int, list[Sampled]] = {}
        left, size = set(ranges), 0
        bounds = {"enable_partition_eof": True, "fetch_message_max_bytes": 1 << 18, "queued_max_messages_kbytes": 2048}
        # Of a truncated log the remaining records count.
        consumer = Consumer({**reader_properties(self._config, **bounds), "auto.offset.reset": "earliest"})
        try:
            consumer.assign([TopicPartition(self._topic, partition, start) for partition, (start, _) in ranges.items()])
            end = time.monotonic() + _PATIENCE
            while left and size < _BYTES and time.monotonic() < end:
                for message in consumer.consume(100, 0.2):
                    partition, error = message.partition() or 0, message.error()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    if error is not None:
                        left.discard(partition)
                        continue
                    offset = message.offset() or 0
                    size += len(message)
                    last = ranges[partition][1] - 1
                    if offset >= last:
                        left.discard(partition)
                    if offset <= last:
                        headers = headers_of([message])[0]
                        samples.setdefault(partition, []).append(Sampled(offset, message.key(), headers))
        finally:
            consumer.close()
        return samples

    async def close(self) -> None:
        """Stop checking."""
        await cancel_task(self._task)
