"""Queries the broker for the group's progress on the requests topic, and for whether its results can be read."""

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.offsets import decode_finished, incarnation_of, lost_before_of
from podpair.gateway.kafka.clients import properties

_TIMEOUT = 5.0  # seconds for each query
_LATE = 2 * _TIMEOUT  # seconds after which a query is abandoned if the client library does not return
_UNCOMMITTED = IsolationLevel.READ_UNCOMMITTED
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_COMMITTED = IsolationLevel.READ_COMMITTED


class Progress(NamedTuple):
    """One request partition: it has the offsets low ≤ o < high; those below `committed`, and `finished`, are finished."""

    low: int
    high: int
    committed: int
    finished: frozenset[int]
    incarnation: str = ""  # of the topic that the commit refers to; empty: unknown
    lost_before: int = 0  # where the log began when unread records were last truncated

    def has_finished(self, offset: int) -> bool:
        """Return whether the request at an offset is finished. A commit beyond the log's end belongs to another log."""
        return self.committed <= self.high and (offset < self.committed or offset in self.finished)

    def holds(self, offset: int) -> bool:
        """Return whether the log has a record at this offset."""
        return self.low <= offset < self.high


class GroupProgress:
    """Queries the broker, on a thread of its own. All methods raise KafkaException.

    Commits are queried with a consumer that never joins the group. AdminClient's list_consumer_group_offsets would need none, but
    if the coordinator has just moved, librdkafka passes the answer to the consumer group, which an AdminClient doesn't have, and
    the process crashes (librdkafka issue 5040).
    """

    def __init__(self, config: Config, admin: AdminClient) -> None:
        self._config = config
        self._requests = config.requests.topic
        self._results = config.results.topic
        self._group = config.requests.group
        self._admin = admin
        self._consumer: Consumer | None = None  # the thread's own
        self._thread = ThreadPoolExecutor(1, "kafka-group-progress")

    async def progress(self, partitions: Collection[int]) -> dict[int, Progress]:
        """Return the group's progress in these request partitions, except those that can't be queried."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._progress, list(partitions))

    def _progress(self, partitions: list[int]) -> dict[int, Progress]:
        # Commits first: committed requests and their results are in the logs by then.
        commits = self._commits([TopicPartition(self._requests, partition) for partition in partitions])
        low = self._offsets(self._requests, partitions, _EARLIEST, _UNCOMMITTED)
        high = self._offsets(self._requests, partitions, _LATEST, _UNCOMMITTED)
        return {
            place.partition: Progress(
                low[place.partition],
                high[place.partition],
                place.offset,
                decode_finished(place.metadata, place.offset),
                incarnation_of(place.metadata),
                lost_before_of(place.metadata),
            )
            for place in commits
            if place.error is None and place.partition in low and place.partition in high
        }

    def _commits(self, places: list[TopicPartition]) -> list[TopicPartition]:
        if self._consumer is None:
            # Open transactions are not waited for.
            own = {"group_id": self._group, "enable_auto_commit": False, "isolation_level": "read_uncommitted"}
            self._consumer = Consumer(properties(self._config, **own))
        self._consumer.poll(0)  # its log
        return self._consumer.committed(places, timeout=_TIMEOUT)

    async def close(self) -> None:
        """Close the connections to the broker."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    async def readable_end(self, partition: int) -> int | None:
        """Return the end of a results partition; None while an open transaction hides a part of it from readers."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._readable_end, partition)

    def _readable_end(self, partition: int) -> int | None:
        ends = [
            self._offsets(self._results, [partition], _LATEST, level).get(partition)
            for level in (_UNCOMMITTED, _COMMITTED)
        ]
        written, readable = ends
        return written if written is not None and readable is not None and readable >= written else None

    async def readable_ends(self, topic: str, partitions: list[int]) -> dict[int, int]:
        """Return up to which offset these partitions can be read, except those that can't be queried."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._offsets, topic, partitions, _LATEST, _COMMITTED)

    def _offsets(self, topic: str, partitions: list[int], spec: OffsetSpec, level: IsolationLevel) -> dict[int, int]:
        specs = {TopicPartition(topic, partition): spec for partition in partitions}
        found = {}
        futures = self._admin.list_offsets(specs, isolation_level=level, request_timeout=_TIMEOUT)
        for place, future in futures.items():
            try:
                found[place.partition] = future.result(_LATE).offset
            except TimeoutError:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"asking for the offsets of {topic}")) from None
            except KafkaException:
                continue  # it has no leader at the moment, or does not exist
        return found
