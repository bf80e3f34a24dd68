"""Detects readers that stall although there are records to read.

librdkafka may silently stop reading a partition: it ignores metadata whose leader epoch is lower than the one it knows, as that
of a topic that was created again (seen with 2.16.0). So the ends of the logs are queried at intervals; if a reader stays before
an end, a new consumer, without cached metadata, checks whether there is anything to read.

Invariant: a reader that leaves records unread for some seconds is replaced, whatever the cause.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.stall import StallDetector
from podpair.gateway.kafka.checks import Check
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.group_progress import GroupProgress
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_EVERY = 5.0  # seconds between checks
_PATIENCE = 10.0  # seconds for the new consumer to read something
_WRONG = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
}  # the log was truncated, which the reader has not noticed


@dataclass(frozen=True, slots=True)
class WatchedReader:
    """A reader, as its watch sees it."""

    reached: Callable[[], Mapping[int, int]]
    """Returns the next offset of each partition that should be read now."""
    stalled: Callable[[str], object]
    """Called with a text if the reader leaves records unread."""
    held: Callable[[], int] = lambda: 0
    """Returns how often it was kept from reading."""
    others: Callable[[], Collection[int]] = tuple
    """Returns further partitions whose logs' ends are asked for."""
    on_ends: Callable[[Mapping[int, int]], object] = lambda _: None
    """Called at each check with the ends of the logs."""


class StallWatch:
    """Watches one reader of `topic`."""

    def __init__(self, config: Config, topic: str, progress: GroupProgress, reader: WatchedReader) -> None:
        self._config = config
        self._topic = topic
        self._progress = progress
        self._reader = reader
        self._seen = StallDetector()
        check = Check(f"whether {topic} is read", _log, logging.DEBUG)
        self._task = asyncio.create_task(check.every(_EVERY, self._check, first=_EVERY))

    async def _check(self) -> None:
        reached = dict(self._reader.reached())
        partitions = {*reached, *self._reader.others()}
        ends = await self._progress.readable_ends(self._topic, list(partitions)) if partitions else {}
        self._reader.on_ends(ends)
        suspects = self._seen.observe(reached, ends, held := self._reader.held())
        if not suspects:
            return
        unread = await asyncio.get_running_loop().run_in_executor(None, self._unread, suspects)
        for partition in suspects.keys() - unread.keys():
            self._seen.clear(partition, ends[partition])
        now = self._reader.reached() if self._reader.held() == held else {}
        still = {
            partition: at for partition, at in suspects.items() if unread.get(partition) and now.get(partition) == at
        }
        if still:
            self._seen.reset()
            places = ", ".join(f"{self._topic}[{partition}]@{at}" for partition, at in sorted(still.items())[:3])
            self._reader.stalled(
                f"nothing is read of {places}{' and others' if len(still) > 3 else ''}, although there are records"
            )

    def _unread(self, places: Mapping[int, int]) -> dict[int, bool]:
        """Return the places at or behind which there is a record (True), or may be one (False)."""
        unread = dict.fromkeys(places, False)
        left = set(places)
        # Of a truncated log the remaining records count.
        consumer = Consumer(
            {**reader_properties(self._config, enable_partition_eof=True), "auto.offset.reset": "earliest"}
        )
        try:
            consumer.assign([TopicPartition(self._topic, partition, at) for partition, at in places.items()])
            end = time.monotonic() + _PATIENCE
            while left and time.monotonic() < end:
                for message in consumer.consume(1000, 0.2):
                    error, partition = message.error(), message.partition()
                    if partition not in left:
                        continue
                    if error is None:
                        unread[partition] = True
                    elif error.code() == KafkaError._PARTITION_EOF:
                        del unread[partition]
                    left.discard(partition)
        finally:
            consumer.close()
        return unread

    async def close(self) -> None:
        """Stop checking."""
        await cancel_task(self._task)
