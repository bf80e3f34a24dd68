"""This gateway's part of the requests topic: which partitions it has, how far each was read, and what is committed.

Invariant: a request's offset is committed only after its terminal record is acknowledged, or together with it (`delivery`).
A model that is not there costs no attempt: its partitions are paused, and what was in flight waits.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from confluent_kafka import Message

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.offsets import Commit, Committed
from podpair.gateway.kafka.member import GroupMember
from podpair.gateway.kafka.requests import Gate
from podpair.gateway.kafka.supervisor import Supervisor
from podpair.gateway.metrics import Metrics
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.worker.delivery import Delivery
from podpair.gateway.worker.engine import RequestEngine
from podpair.gateway.worker.partition import PartitionState
from podpair.gateway.worker.workflows import Workflows

_log = logging.getLogger(__name__)
_COMMIT = 0.2  # seconds between commits
_GRACE = 3.0  # seconds that requests in flight may take to end when their partition is revoked


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with records, who commits their offsets, and how much room there is for more."""

    engine: RequestEngine
    delivery: Delivery
    gate: Gate
    workflows: Workflows | None = None
    """Goes on with the workflows of partitions; None: there are none."""


@dataclass(frozen=True, slots=True)
class TopicHooks:
    """What the worker asks and tells of the requests topic."""

    incarnation: Callable[[], str]
    """Returns what names the topic that there is now."""
    on_skipped: Callable[[], object]
    """Called when records may have been deleted that nobody had read."""


class Worker:
    """Takes partitions from the group, and has their records worked on; `RequestsConsumer` does the Kafka I/O."""

    def __init__(
        self,
        config: Config,
        work: Work,
        readiness: Readiness,
        metrics: Metrics,
        supervisor: Supervisor,
        topic: TopicHooks,
    ) -> None:
        self._topic = config.requests.topic
        self._reads = config.requests.source != "amqp"
        self._engine = work.engine
        self._delivery = work.delivery
        self._gate = work.gate
        self._workflows = work.workflows
        self._metrics = metrics
        self._partitions: dict[int, PartitionState] = {}
        self._leaving: dict[int, PartitionState] = {}  # being revoked
        self._incarnation = topic.incarnation
        self._on_skipped = topic.on_skipped
        self._member = GroupMember(config, self, self._gate, lambda: self.owned, supervisor, topic.incarnation)
        metrics.lag.source = lambda: self.lag
        self._committer = asyncio.create_task(self._commit_regularly())
        self._on_ready(readiness.ready)
        readiness.on_change(self._on_ready)
        self._member.start()

    @property
    def membership(self) -> object:
        """What names this member of the group in its present generation."""
        return self._member.membership

    @property
    def owned(self) -> frozenset[int]:
        """The request partitions that the group has assigned to this gateway."""
        return frozenset(self._partitions)

    @property
    def reached(self) -> dict[int, int]:
        """The next offset of each partition that is read; empty while there is no room for more requests."""
        if self._gate.wants_pause or self._gate.room <= 0:
            return {}
        return {partition: state.next_offset for partition, state in self._partitions.items()}

    def log_ends(self, ends: Mapping[int, int]) -> None:
        """Update where the logs of partitions end."""
        for partition, end in ends.items():
            if (state := self._partitions.get(partition)) is not None:
                state.end = end

    @property
    def lag(self) -> dict[int, int]:
        """The number of unfinished requests by partition, for partitions whose log's end is known."""
        return {partition: state.lag for partition, state in self._partitions.items() if state.end is not None}

    @property
    def held(self) -> int:
        """How often reading stopped: there was no room, or the model was not ready."""
        return self._gate.held

    def stalled(self, text: str) -> None:
        """Go on with another consumer: nothing comes, although there are requests."""
        self._member.stalled(text)

    def restart(self) -> None:
        """Begin with a requests topic that was made anew, from its start, and drop what is in flight of the old one."""
        self._member.restart()

    def _on_ready(self, ready: bool) -> None:
        self._gate.set_paused(not (ready and self._reads))
        self._metrics.paused.set(not ready)

    def assigned(self, partitions: dict[int, Committed]) -> None:
        """Take partitions that the group gave this member, each with what is committed of it."""
        for number, committed in partitions.items():
            self._partitions[number] = PartitionState(number, committed, self._incarnation())
            if self._workflows is not None:
                self._workflows.assigned(number)
        self._log_rebalance("assigned", list(partitions))

    def revoking(self, partitions: list[int]) -> None:
        """Begin with nothing more of partitions that the group takes away. `revoked` follows."""
        for partition in partitions:
            if (state := self._partitions.pop(partition, None)) is not None:
                self._leaving[partition] = state

    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, Commit]:
        """Let go of what was taken away. Returns what to commit. Work in flight gets a moment to end."""
        revoked = {number: state for number in partitions if (state := self._leaving.pop(number, None)) is not None}
        if not lost:
            await self._drain(revoked, _GRACE)
        for state in revoked.values():
            state.revoked = True
        self._engine.drop_partitions(revoked.values())  # another member has them now
        if self._workflows is not None:
            self._workflows.dropped(revoked)
        await self._delivery.flush()
        self._log_rebalance("lost" if lost else "revoked", partitions)
        if lost:
            return {}
        return {
            number: commit
            for number, state in revoked.items()
            if (commit := self._delivery.pending_commit(state)) is not None
        }

    async def _drain(self, partitions: Mapping[int, PartitionState], timeout: float) -> None:
        """Wait up to `timeout` seconds for what is in flight of partitions, stages of workflows included."""
        drains = [self._engine.drain(partitions.values(), timeout)]
        if self._workflows is not None:
            drains.append(self._workflows.drain(partitions, timeout))
        await asyncio.gather(*drains)

    def _log_rebalance(self, kind: str, partitions: list[int]) -> None:
        self._metrics.owned.set(len(self._partitions))
        self._metrics.rebalances.labels(kind).inc()
        _log.info("request partitions %s", kind, extra={"partitions": partitions, "owned": sorted(self._partitions)})

    def received(self, records: list[Message]) -> None:
        """Start processing records."""
        partitions, begin, passed_over = self._partitions, self._engine.begin, 0
        try:
            for record in records:
                partition = partitions.get(record.partition() or 0)
                offset = record.offset() or 0
                if partition is None or offset <= partition.last:
                    passed_over += 1
                    continue
                if offset > partition.last + 1 and partition.skip_to(offset):
                    self._on_skipped()
                partition.last = offset
                if partition.offsets.start(offset):
                    begin(partition, record, offset)
                else:
                    passed_over += 1
        finally:
            if passed_over:
                self._gate.give_room(passed_over)

    @property
    def skips(self) -> dict[int, tuple[int, ...]]:
        """By partition, the offsets that should have come and did not, if why is not known yet."""
        return {partition: tuple(state.skips) for partition, state in self._partitions.items() if state.skips}

    def on_log_truncated(self, log_starts: Mapping[int, int], skips: Mapping[int, Collection[int]]) -> bool:
        """Compare where the partitions' logs begin with what was read: the rest is lost for good.

        The starts were asked for after `skips`, which are settled by them. Returns whether any loss was not known yet;
        commits tell of it then.
        """
        news = False
        for partition, state in self._partitions.items():
            if partition not in log_starts:
                continue
            start, first = log_starts[partition], min([state.next_offset, *state.skips])
            if state.settle(skips.get(partition, ())):
                self._delivery.commit_soon(state)
            if start <= first or start <= state.lost_before:
                continue
            news = True
            state.lost_before = state.first = start
            about = {"partition": partition, "first_unread": first, "log_start": start}
            _log.warning("the requests topic was truncated: records were lost that nobody had read", extra=about)
            self._metrics.topic_changes.labels(self._topic, "cut").inc()
            state.offsets.on_log_truncated(start)
            self._delivery.commit_soon(state)
        return news

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT)
            commits = {
                p: c for p, state in self._partitions.items() if (c := self._delivery.pending_commit(state)) is not None
            }
            if commits:
                self._gate.commit(commits)

    async def close(self, timeout: float) -> None:
        """Accept no more, finish requests in flight (up to `timeout` seconds), commit, leave the group."""
        self._gate.set_paused(True)
        self._engine.close()
        await self._drain(self._partitions, timeout)
        self._committer.cancel()
        await self._member.close()
        if self._workflows is not None:
            await self._workflows.close()
        await self._delivery.close()
