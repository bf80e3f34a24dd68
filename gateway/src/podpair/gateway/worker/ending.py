"""How a queued request ends: its records are in Kafka, and its offset is committed after them, or with them.

Invariant: a request's offset is committed only after its terminal record is acknowledged. With `requests.exactly_once` both
are one transaction, so that neither a crash nor a rebalance leaves a second answer on the topic.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from podpair.gateway.core.offsets import Commit, ContiguousOffsets
from podpair.gateway.kafka.producer import Outgoing, RecordProducer, Told
from podpair.gateway.kafka.transactions import Aborted, Transactions

_log = logging.getLogger(__name__)
_BACKOFF = 0.2  # seconds before a transaction that was aborted is tried again


class Work(Protocol):
    """A request partition, for as long as it is this member's."""

    offsets: ContiguousOffsets
    gone: bool  # it is not ours any more: nothing of it may be committed


class Endings(Protocol):
    """What the worker needs of either way."""

    async def end(self, work: Work, partition: int, offset: int, records: Sequence[Outgoing]) -> None:
        """Return when the request at `offset` has ended for good."""
        ...

    async def settled(self) -> None:
        """Return when nothing is being committed of partitions that are gone."""
        ...

    def take(self, work: Work) -> Commit | None:
        """What the group member is to commit by itself."""
        ...

    def lose(self, work: Work, partition: int, log_start: int) -> None:
        """Commit that the log of a partition was cut, up to `log_start`, over records that nobody had read."""
        ...

    async def close(self) -> None:
        """Stop."""
        ...


class AtLeastOnce:
    """Records first, each until it is acknowledged, the offset after them."""

    def __init__(self, producer: RecordProducer) -> None:
        self._producer = producer

    async def end(self, work: Work, partition: int, offset: int, records: Sequence[Outgoing]) -> None:
        for record in records:
            await self._producer.write_surely(record)
        work.offsets.finish(offset)

    def begin(self, record: Outgoing, told: Told, context: Any) -> None:
        """Write an answer; `told` hears whether it is in Kafka, together with others."""
        self._producer.send(
            record.topic, record.value, key=record.key, headers=record.headers, told=told, context=context
        )

    async def settled(self) -> None:
        """Nothing to wait for: what is committed late is work done twice."""

    def take(self, work: Work) -> Commit | None:
        return work.offsets.take()

    def lose(self, work: Work, partition: int, log_start: int) -> None:
        work.offsets.lose(log_start)

    async def close(self) -> None:
        """Nothing to stop."""


class _Ending:
    __slots__ = ("done", "offset", "partition", "records", "work")

    def __init__(self, work: Work, partition: int, offset: int | None, records: Sequence[Outgoing]) -> None:
        self.work = work
        self.partition = partition
        self.offset = offset  # None: only what the partition's commit tells besides has changed
        self.records = list(records)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def wanted(self) -> bool:
        return not self.work.gone and not self.done.done()

    @property
    def in_reach(self) -> bool:
        return self.offset is None or self.work.offsets.reaches(self.offset)


class Member(Protocol):
    """The group member, as a transaction names it."""

    @property
    def membership(self) -> Any: ...


class ExactlyOnce:
    """One transaction after the other; each takes whatever has ended meanwhile, so that they grow with the load."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self.member: Member | None = None  # set once there is one
        self._ended: list[_Ending] = []
        self._some = asyncio.Event()
        self._turn = asyncio.Lock()  # a transaction is under way
        self._task = asyncio.create_task(self._run())

    async def end(self, work: Work, partition: int, offset: int, records: Sequence[Outgoing]) -> None:
        ending = _Ending(work, partition, offset, records)
        self._ended.append(ending)
        self._some.set()
        await ending.done

    async def settled(self) -> None:
        async with self._turn:
            pass

    def take(self, work: Work) -> Commit | None:
        return None

    def lose(self, work: Work, partition: int, log_start: int) -> None:
        work.offsets.lose(log_start)
        self._ended.append(_Ending(work, partition, None, ()))
        self._some.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            async with self._turn:
                self._some.clear()
                again = await self._commit()
            if again:
                await asyncio.sleep(_BACKOFF)
                self._some.set()

    async def _commit(self) -> bool:
        """Commit what can be; True where some of it has to be tried again."""
        waiting = [ending for ending in self._ended if ending.wanted]
        batch = [ending for ending in waiting if ending.in_reach]
        self._ended = [ending for ending in waiting if ending not in batch] if len(batch) < len(waiting) else []
        if not batch or self.member is None:
            self._ended += batch
            return False
        commits = _commits(batch)
        membership = self.member.membership  # as old as the batch: a later generation has other partitions
        records = [record for ending in batch for record in ending.records]
        try:
            await self._transactions.commit(records, commits, membership)
        except Aborted as error:
            _log.log(logging.INFO if error.too_large else logging.WARNING, "a transaction was aborted: %s", error)
            _replace(batch, error.too_large)
            self._ended = batch + self._ended
            return True
        for ending in batch:
            if not ending.work.gone and ending.offset is not None:
                ending.work.offsets.finish(ending.offset)
            if not ending.done.done():
                ending.done.set_result(None)
        if self._ended:
            self._some.set()  # the prefix has moved on: they may be within reach
        return False

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._transactions.close()


def _commits(batch: list[_Ending]) -> dict[int, Commit]:
    """What each partition's commit says once the batch is in."""
    by_partition: dict[int, list[_Ending]] = {}
    for ending in batch:
        by_partition.setdefault(ending.partition, []).append(ending)
    return {
        partition: endings[0].work.offsets.with_finished(
            [ending.offset for ending in endings if ending.offset is not None]
        )
        for partition, endings in by_partition.items()
    }


def _replace(batch: list[_Ending], too_large: frozenset[int]) -> None:
    """Each record that no topic takes gives way to the one that says so."""
    index = 0
    for ending in batch:
        kept: list[Outgoing] = []
        for record in ending.records:
            if index not in too_large:
                kept.append(record)
            elif record.instead is not None:
                kept.append(record.instead())
            index += 1
        ending.records = kept
