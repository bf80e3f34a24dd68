"""Delivery: the records of a queued request's end get to Kafka, and its offset is committed after them, or with them.

Invariant: a request's offset is committed only after its terminal record is acknowledged. With `requests.exactly_once` both
are one transaction, so that neither a crash nor a rebalance leaves a second answer on the topic.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from podpair.gateway.core.offsets import Commit
from podpair.gateway.kafka.producer import DeliveryError, Outgoing, RecordMetadata, RecordProducer
from podpair.gateway.kafka.transactions import TransactionAborted, Transactions
from podpair.gateway.results.replies import ReplyWriter
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.tasks import Tasks, cancel_task
from podpair.gateway.worker.dead_letters import DeadLetters
from podpair.gateway.worker.partition import PartitionState
from podpair.gateway.worker.request import QueuedRequest, State
from podpair.gateway.worker.workflows import Workflows

_log = logging.getLogger(__name__)
_BACKOFF = 0.2  # seconds before a transaction that was aborted is retried
_REST = 0.01  # seconds between two transactions, in which the broker ends the first: it would send the second away

OnDelivered = Callable[[list[QueuedRequest]], object]
"""Called with requests whose records are in Kafka: it calls `done` of each."""


class Delivery(Protocol):
    """A delivery guarantee."""

    def complete(self, requests: Sequence[QueuedRequest]) -> None:
        """Write the records of answered requests, however long that takes, unless they are dropped while it does."""
        ...

    async def flush(self) -> None:
        """Wait until nothing is being committed of partitions that were revoked."""
        ...

    def pending_commit(self, partition: PartitionState) -> Commit | None:
        """Return what the group member is to commit by itself; None if there is nothing new."""
        ...

    def commit_soon(self, partition: PartitionState) -> None:
        """Commit how far the partition is, although no request of it may end."""
        ...

    async def close(self) -> None:
        """Stop."""
        ...


class AtLeastOnce:
    """Records first, each until it is acknowledged; the offset after them."""

    def __init__(self, producer: RecordProducer, on_delivered: OnDelivered) -> None:
        self._producer = producer
        self._on_delivered = on_delivered
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()

    def complete(self, requests: Sequence[QueuedRequest]) -> None:
        single, bare = [], []
        for request in requests:
            records = request.records
            if len(records) == 1:
                single.append((records[0], request))
            elif records:
                request.work = self._tasks.spawn(self._send_all(request))
            else:
                bare.append(request)
        self._producer.send_all(single, self._on_outcomes)
        if bare:
            self._loop.call_soon(self._on_delivered, bare)

    def _on_outcomes(self, outcomes: list[tuple[QueuedRequest, RecordMetadata | DeliveryError]]) -> None:
        delivered = []
        for request, outcome in outcomes:
            if not isinstance(outcome, DeliveryError):
                delivered.append(request)
            elif request.state is State.ANSWERED:
                request.work = self._tasks.spawn(self._send_all(request))
        self._on_delivered(delivered)

    async def _send_all(self, request: QueuedRequest) -> None:
        """Write the records of one request in their order, each until it is acknowledged."""
        for record in request.records:
            await self._producer.send_until_acked(record)
        request.work = None
        self._on_delivered([request])

    async def flush(self) -> None:
        """Wait for nothing: what is committed late is work done twice."""

    def pending_commit(self, partition: PartitionState) -> Commit | None:
        return partition.offsets.next_commit()

    def commit_soon(self, partition: PartitionState) -> None:
        """Do nothing: `pending_commit` has it."""

    async def close(self) -> None:
        """Stop nothing: requests have what is under way."""


class ExactlyOnce:
    """One transaction after the other; each takes whatever was answered during the one before: they grow with the load.

    Args:
        transactions: Commits them.
        on_delivered: Hears of the requests of a transaction.
        membership: Returns what names the group member in its present generation.
    """

    def __init__(self, transactions: Transactions, on_delivered: OnDelivered, membership: Callable[[], Any]) -> None:
        self._transactions = transactions
        self._on_delivered = on_delivered
        self._membership = membership
        self._answered: list[QueuedRequest] = []
        self._moved: set[PartitionState] = set()  # to be committed, whether or not a request of them ends
        self._some = asyncio.Event()
        self._turn = asyncio.Lock()  # held during a transaction
        self._task = asyncio.create_task(self._run())

    def complete(self, requests: Sequence[QueuedRequest]) -> None:
        self._answered += requests
        self._some.set()

    async def flush(self) -> None:
        async with self._turn:
            pass

    def pending_commit(self, partition: PartitionState) -> Commit | None:
        return None

    def commit_soon(self, partition: PartitionState) -> None:
        self._moved.add(partition)
        self._some.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            async with self._turn:
                self._some.clear()
                retry = await self._commit()
            await asyncio.sleep(_BACKOFF if retry else _REST)
            if retry:
                self._some.set()

    async def _commit(self) -> bool:
        """Commit what can be. Returns True if some of it has to be tried again."""
        waiting = [request for request in self._answered if request.state is State.ANSWERED]
        batch = [request for request in waiting if request.partition.offsets.reaches(request.offset)]
        self._answered = []
        if len(batch) < len(waiting):
            inside = set(batch)
            self._answered = [request for request in waiting if request not in inside]
        moved, self._moved = {partition for partition in self._moved if not partition.revoked}, set()
        if not batch and not moved:
            return False
        commits = _commits(batch, moved)
        membership = self._membership()  # as old as the batch: a later generation owns other partitions
        records = [record for request in batch for record in request.records]
        try:
            await self._transactions.commit(records, commits, membership)
        except TransactionAborted as error:
            _log.log(logging.INFO if error.too_large else logging.WARNING, "a transaction was aborted: %s", error)
            _replace(batch, error.too_large)
            self._answered = batch + self._answered
            self._moved |= moved
            return True
        try:
            self._on_delivered(batch)
        except Exception:  # what follows is other requests' transactions
            _log.exception("what a transaction has delivered was not taken")
        if self._answered:
            self._some.set()  # the contiguous prefix has advanced: they may be committable now
        return False

    async def close(self) -> None:
        await cancel_task(self._task)
        await self._transactions.close()


def _commits(batch: Iterable[QueuedRequest], moved: Iterable[PartitionState]) -> dict[int, Commit]:
    """Make each partition's commit, once the batch is in."""
    finished: dict[PartitionState, list[int]] = {partition: [] for partition in moved}
    for request in batch:
        finished.setdefault(request.partition, []).append(request.offset)
    return {partition.number: partition.offsets.with_finished(offsets) for partition, offsets in finished.items()}


def _replace(batch: Iterable[QueuedRequest], too_large: frozenset[int]) -> None:
    """Put each record's fallback in the place of those that no topic takes."""
    index = 0
    for request in batch:
        kept: list[Outgoing] = []
        for record in request.records:
            if index not in too_large:
                kept.append(record)
            elif record.fallback is not None:
                kept.append(record.fallback())
            index += 1
        request.records = kept


@dataclass(frozen=True, slots=True)
class Outputs:
    """What makes the records of a request's end, and what delivers them."""

    results: ResultWriter
    dead_letters: DeadLetters
    delivery: Delivery
    replies: ReplyWriter
    workflows: Workflows | None = None
    """Takes the requests for workflows over; None: there are none."""
