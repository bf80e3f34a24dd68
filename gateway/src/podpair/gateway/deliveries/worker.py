"""Works on the records of this gateway's partitions: of results, of deliveries that wait, and of those whose order is kept.

Invariants: a record is finished once all deliveries of it are settled (`courier`); what waits here is bounded in number and in
bytes, all else waits in Kafka; a receiver that is slow or away holds up only what is for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import KafkaError

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.deliveries.events import DeliveryEvent, Place, event_of
from podpair.gateway.core.deliveries.parcels import InvalidParcel, Parcel, decode_parcel, parcel_of
from podpair.gateway.core.deliveries.table import SubscriptionTable
from podpair.gateway.core.offsets import Commit, Committed
from podpair.gateway.deliveries.consumer import Partition, Record, Wishes
from podpair.gateway.deliveries.courier import Courier
from podpair.gateway.deliveries.ordered import Chains
from podpair.gateway.deliveries.partition import Flight, PartitionWork
from podpair.gateway.deliveries.subscription_log import SubscriptionRecord

_log = logging.getLogger(__name__)
_BYTES = 16 << 20  # in hand of results, and of each partition that waits
_WINDOW = 1000  # records in hand of a partition that waits
_CROWD = 500  # … of which so many may wait for one receiver
_PAUSE = 1.0  # seconds before one of them is put off once more
_COST = 1000  # bytes that a delivery in hand takes besides its body, about


@dataclass(frozen=True, slots=True)
class WorkerHooks:
    """What the worker tells and asks its owner."""

    incarnation: Callable[[str], str]
    """Returns how commits name a topic."""
    retry_partitions: Callable[[], int]
    """Returns how many the topic for retries has."""
    subscriptions_read: Callable[[list[SubscriptionRecord], bool], None]
    """Hears of records of the subscriptions' topic; with True they are the whole of it."""
    died: Callable[[KafkaError], None]
    """Hears that the consumer has died."""


class DeliveryWorker:
    """One per gateway. Everything happens on the loop's thread."""

    def __init__(
        self, config: Config, table: SubscriptionTable, courier: Courier, wishes: Wishes, hooks: WorkerHooks
    ) -> None:
        self._results = config.results.topic
        self._retries = config.deliveries.retry_topic
        self._in_flight = config.deliveries.in_flight
        # So many of new records may wait for one receiver: others find room while it hangs.
        self._crowd = max(config.deliveries.per_host, config.deliveries.in_flight // 8)
        self._absent = config.deliveries.absent_seconds
        self._table = table
        self._courier = courier
        self._wishes = wishes
        self._hooks = hooks
        self._chains = Chains(courier, config.deliveries.ordered_backlog)
        self._works: dict[Partition, PartitionWork] = {}
        self._unread = 0  # deliveries that wait in Kafka and were not read yet
        self._paused: frozenset[Partition] = frozenset()
        self._dirty = False  # something was settled since the last look at what is full

    def assigned(self, partitions: dict[Partition, Committed]) -> None:
        """Begin with partitions."""
        for partition, committed in partitions.items():
            self._works[partition] = PartitionWork(committed, self._hooks.incarnation(partition[0]))

    def subscriptions_read(self, records: list[SubscriptionRecord], *, anew: bool) -> None:
        """Pass on what was read of the subscriptions."""
        self._hooks.subscriptions_read(records, anew)

    def waiting_in_kafka(self, records: int) -> None:
        """Note how many deliveries wait and were not read yet."""
        self._unread = records

    def died(self, error: KafkaError) -> None:
        """Pass on that the consumer has died."""
        self._hooks.died(error)

    def received(self, records: list[Record]) -> None:
        """Begin with records."""
        for record in records:
            work = self._works.get(record.partition)
            if work is None or work.closing:
                continue
            self._note_gap(work, record)
            if not work.offsets.start(record.offset):
                continue
            if record.partition[0] == self._results:
                self._begin_event(work, record)
            else:
                self._begin_parcel(work, record)
        self._wish()

    def _note_gap(self, work: PartitionWork, record: Record) -> None:
        """Log records that retention has deleted before they were read; a few missing offsets are transaction markers."""
        missing, first = record.offset - work.expected, work.expected
        work.expected = record.offset + 1
        if first > 0 and missing > 1000:
            _log.warning(
                "up to %d records of %s[%d] were deleted before they could be delivered", missing, *record.partition
            )

    def _begin_event(self, work: PartitionWork, record: Record) -> None:
        try:
            key = record.key.decode() if record.key is not None else ""
        except UnicodeDecodeError:
            key = ""
        event = None
        if key and self._table.concerned(key):
            incarnation = self._hooks.incarnation(record.partition[0])
            place = Place(incarnation, record.partition[1], record.offset, record.timestamp)
            try:
                event = event_of(key, record.value, record.headers, place)
            except Exception:  # those beside it are delivered
                _log.exception("a record of %s[%d] can't be delivered: offset %d", *record.partition, record.offset)
        found = self._table.matches(event) if event is not None else []
        if event is None or not found:
            self._settle(work, record.offset)
            return
        work.unsettled[record.offset] = len(found)
        for subscription in found:
            parcel = parcel_of(event, subscription.id)
            # The parcels of one event share its body: the first one has it.
            flight = Flight(_COST + (len(event.body) if subscription is found[0] else 0), parcel.first)
            if subscription.when == "absent":
                flight.busy = True
                work.begin(flight, self._hold(work, record.offset, self._for_absent(parcel, event)))
            elif subscription.ordered:
                flight.busy = True
                work.begin(flight, self._forward(work, record.offset, parcel))
            else:
                work.begin(flight, self._deliver(work, record.offset, parcel, flight, self._crowd))

    def _begin_parcel(self, work: PartitionWork, record: Record) -> None:
        try:
            parcel = decode_parcel(record.value, record.headers)
        except InvalidParcel as error:
            _log.warning("a record of %s that is no delivery is passed over: %s", record.partition[0], error)
            self._settle(work, record.offset)
            return
        flight = Flight(_COST + len(parcel.body), parcel.first)
        if record.partition[0] == self._retries:
            work.begin(flight, self._deliver(work, record.offset, parcel, flight, _CROWD))
        else:
            self._chains.add(work, record.offset, parcel, self._settle)

    def _for_absent(self, parcel: Parcel, event: DeliveryEvent) -> Parcel:
        place = event.place
        return parcel._replace(
            due=int((time.time() + self._absent) * 1000), place=(place.incarnation, place.partition, place.offset)
        )

    async def _hold(self, work: PartitionWork, offset: int, parcel: Parcel) -> None:
        await self._courier.hold(parcel, max(1, self._hooks.retry_partitions()))
        self._settle(work, offset)

    async def _forward(self, work: PartitionWork, offset: int, parcel: Parcel) -> None:
        await self._courier.forward(parcel)
        self._settle(work, offset)

    async def _deliver(
        self, work: PartitionWork, offset: int, parcel: Parcel, flight: Flight, most_waiting: int
    ) -> None:
        if (wait := parcel.due / 1000 - time.time()) > 0:
            await asyncio.sleep(wait)
        setback = await self._courier.try_once(parcel, flight, most_waiting)
        if setback is not None and setback.crowded and parcel.due:
            await self._pause(flight)
        if setback is not None and setback.next is not None:
            await self._courier.park(setback, setback.next, max(1, self._hooks.retry_partitions()))
        elif setback is not None:
            await self._courier.give_up(setback.parcel, setback.reason, setback.text)
        self._settle(work, offset)

    async def _pause(self, flight: Flight) -> None:
        """Keep what comes too early for its receiver again and again from being written all the time."""
        flight.busy = False
        await asyncio.sleep(_PAUSE)
        flight.busy = True

    def _settle(self, work: PartitionWork, offset: int) -> None:
        work.settle(offset)
        if not self._dirty:
            self._dirty = True
            asyncio.get_running_loop().call_soon(self._wish)

    def _wish(self) -> None:
        """Tell the thread what to pause: what is full, until it is half empty."""
        self._dirty = False
        results = [work for partition, work in self._works.items() if partition[0] == self._results]
        share = 2 if any(partition[0] == self._results for partition in self._paused) else 1
        full = (
            sum(len(work.flights) for work in results) * share >= self._in_flight
            or sum(work.size for work in results) * share >= _BYTES
        )
        paused = {
            partition
            for partition, work in self._works.items()
            if (full if partition[0] == self._results else self._is_full(partition, work))
        }
        if paused != self._paused:
            self._paused = frozenset(paused)
            with self._wishes.lock:
                self._wishes.paused = self._paused

    def collect_commits(self) -> None:
        """Tell the thread what to commit."""
        commits = {
            partition: commit
            for partition, work in self._works.items()
            if not work.closing and (commit := work.offsets.next_commit()) is not None
        }
        with self._wishes.lock:
            self._wishes.commits.update(commits)

    def _is_full(self, partition: Partition, work: PartitionWork) -> bool:
        share = 2 if partition in self._paused else 1
        return partition[0] == self._retries and (len(work.flights) * share >= _WINDOW or work.size * share >= _BYTES)

    async def revoked(self, partitions: list[Partition], *, lost: bool) -> dict[Partition, Commit]:
        """End the work on partitions that are given back, or were taken away; return what to commit."""
        works = {partition: self._works[partition] for partition in partitions if partition in self._works}
        commits: dict[Partition, Commit] = {}
        for work in works.values():
            work.closing = True
            if lost:
                work.abandon()
        if not lost:
            ended = await asyncio.gather(*(work.close() for work in works.values()))
            commits = {p: commit for p, commit in zip(works, ended, strict=True) if commit is not None}
        for partition, work in works.items():
            if self._works.get(partition) is work:
                del self._works[partition]
        return commits

    def forget_all(self) -> None:
        """Drop all partitions: the consumer is being replaced."""
        for work in self._works.values():
            work.abandon()
        self._works.clear()
        self._paused = frozenset()
        with self._wishes.lock:
            self._wishes.paused, self._wishes.commits = frozenset(), {}

    @property
    def waiting(self) -> int:
        """How many deliveries are in hand, or wait on the topics of partitions held here."""
        return self._unread + sum(len(work.flights) for work in self._works.values()) + self._chains.waiting

    @property
    def oldest(self) -> float:
        """The age of the oldest event in hand, in seconds."""
        firsts = [flight.first for work in self._works.values() for flight in work.flights]
        return max(0.0, time.time() - min(firsts) / 1000) if firsts else 0.0
