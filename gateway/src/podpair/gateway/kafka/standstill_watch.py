"""Watches that what is written to a topic is read here, whatever the client library believes.

librdkafka may read nothing of a partition any more and say nothing: it takes no news of one whose leader's epoch is lower than
what it has seen, as that of a topic which was made again (seen with 2.16.0). So now and then it is asked where the logs end; and
where a reader stays before an end, another consumer, which knows nothing yet, tells whether there is anything to be read.

Invariant: a reader that leaves records unread for some seconds is replaced, whatever the cause.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.core.standstill import Standstill
from podpair.gateway.kafka.clients import reader_properties
from podpair.gateway.kafka.group_progress import GroupProgress

_log = logging.getLogger(__name__)
_EVERY = 5.0  # seconds between looks
_PATIENCE = 10.0  # seconds for another consumer to read something
_WRONG = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
}  # the log was cut, which the reader has not noticed


class StandstillWatch:
    """Looks at one reader of `topic`. `reached()`: the offset that is read next, by partition, of all that is to be read now.

    stalled: called with a text where the reader leaves records unread. held(): how often it was kept from reading.
    """

    def __init__(
        self,
        config: Config,
        topic: str,
        progress: GroupProgress,
        reached: Callable[[], Mapping[int, int]],
        stalled: Callable[[str], object],
        held: Callable[[], int] = lambda: 0,
    ) -> None:
        self._config = config
        self._topic = topic
        self._progress = progress
        self._reached = reached
        self._stalled = stalled
        self._held = held
        self._seen = Standstill()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self._look()
            except KafkaException as error:
                _log.debug("whether %s is read can't be told: %s", self._topic, error.args[0].str())
            except Exception:
                _log.exception("looking whether %s is read failed", self._topic)

    async def _look(self) -> None:
        reached = dict(self._reached())
        ends = await self._progress.readable_ends(self._topic, list(reached)) if reached else {}
        suspects = self._seen.look(reached, ends, held := self._held())
        if not suspects:
            return
        unread = await asyncio.get_running_loop().run_in_executor(None, self._unread, suspects)
        for partition in suspects.keys() - unread.keys():
            self._seen.clear(partition, ends[partition])
        now = self._reached() if self._held() == held else {}
        still = {
            partition: at for partition, at in suspects.items() if unread.get(partition) and now.get(partition) == at
        }
        if still:
            self._seen.forget()
            places = ", ".join(f"{self._topic}[{partition}]@{at}" for partition, at in sorted(still.items())[:3])
            self._stalled(
                f"nothing comes of {places}{' and others' if len(still) > 3 else ''}, where there are records"
            )

    def _unread(self, places: Mapping[int, int]) -> dict[int, bool]:
        """Whether there is a record at or behind each place; those are left out that have none. False: it can't be told."""
        unread = dict.fromkeys(places, False)
        left = set(places)
        # Where the log was cut: what is left of it counts.
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
        """Look no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
