"""Kinds of faults and when they come: trains of faults run beside each other, each mended before its next.

So a broker, a process of a pair and some clients may be in trouble at the same time, as they would be; two brokers never are,
for three copies of a record bear the loss of one.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from harness.fleet import GROUP, REQUESTS, RESULTS, Fleet, freeze, thaw
from harness.unruly import Mood
from harness.waiting import until

Fault = Callable[[], Awaitable[None]]
_LEARNT = 1.2  # seconds after a change in which the crowd's producer may not know of it yet
_QUIET = 0.7  # seconds after that in which what is pushed must come, or be in a gap


@dataclass(slots=True)
class Storm:
    """Runs trains of faults; `counts` says how often each kind has come."""

    random: random.Random
    counts: Counter[str]

    async def run(self, trains: Sequence[dict[str, Fault]], seconds: float, least: int) -> None:
        """At least `seconds` long, and until each kind of fault has come `least` times."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as running:
            for kinds in trains:
                running.create_task(self._train(kinds, end, least))

    async def _train(self, kinds: dict[str, Fault], end: float, least: int) -> None:
        while time.monotonic() < end or any(self.counts[kind] < least for kind in kinds):
            for kind in self.random.sample(sorted(kinds), len(kinds)):
                if time.monotonic() > end and self.counts[kind] >= least:
                    continue
                await asyncio.sleep(self.random.uniform(0.1, 0.7))
                await kinds[kind]()
                self.counts[kind] += 1


def processes(fleet: Fleet, rng: random.Random) -> dict[str, Fault]:
    """What happens to gateways and inference containers."""

    async def kill_gateway() -> None:
        pair = rng.choice(fleet.pairs)
        await asyncio.to_thread(pair.gateway.kill)
        await asyncio.sleep(rng.uniform(0, 1))
        await asyncio.to_thread(pair.start_gateway)

    async def restart_gateway() -> None:
        pair = rng.choice(fleet.pairs)
        status = await asyncio.to_thread(pair.gateway.stop, 60)
        assert status == 0, "\n".join(pair.gateway.lines[-20:])
        await asyncio.to_thread(pair.start_gateway)

    async def freeze_gateway() -> None:
        gateway = rng.choice(fleet.pairs).gateway
        freeze(gateway)
        await asyncio.sleep(rng.uniform(0.5, 5))  # sometimes so long that its clients leave it
        thaw(gateway)

    async def kill_inference() -> None:
        pair = rng.choice(fleet.pairs)
        await asyncio.to_thread(pair.inference.kill)
        await asyncio.sleep(rng.uniform(0, 1))
        await asyncio.to_thread(pair.start_inference)

    async def freeze_inference() -> None:
        inference = rng.choice(fleet.pairs).inference
        freeze(inference)
        await asyncio.sleep(rng.uniform(0.5, 3))
        thaw(inference)

    return {
        "gateway killed": kill_gateway,
        "gateway restarted": restart_gateway,
        "gateway frozen": freeze_gateway,
        "inference killed": kill_inference,
        "inference frozen": freeze_inference,
    }


def brokers(fleet: Fleet, rng: random.Random) -> dict[str, Fault]:
    """What happens to brokers, one at a time."""

    async def kill() -> None:
        member = rng.choice(fleet.brokers.members)
        await asyncio.to_thread(member.kill)
        member.start()
        await asyncio.to_thread(member.wait_ready)

    async def restart() -> None:
        member = rng.choice(fleet.brokers.members)
        await asyncio.to_thread(member.stop)
        member.start()
        await asyncio.to_thread(member.wait_ready)

    async def freeze_one() -> None:
        member = rng.choice(fleet.brokers.members)
        member.freeze()
        await asyncio.sleep(rng.uniform(0.5, 5))  # sometimes so long that it is fenced
        member.thaw()

    return {"broker killed": kill, "broker restarted": restart, "broker frozen": freeze_one}


@contextlib.contextmanager
def visitor(fleet: Fleet) -> Iterator[Consumer]:
    """A member of the gateways' group that is no gateway."""
    consumer = Consumer(
        {
            "bootstrap.servers": fleet.brokers.addresses,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",  # or who commits skips what nobody has committed yet
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 6000,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        consumer.subscribe([REQUESTS])
        yield consumer
    finally:
        with contextlib.suppress(KafkaException):  # its coordinator is away: it is put out of the group later
            consumer.close()


def rebalances(fleet: Fleet, rng: random.Random) -> dict[str, Fault]:
    """A member joins the gateways' group, is given partitions, and leaves without having done anything."""

    def visit(seconds: float) -> None:
        with visitor(fleet) as consumer:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                consumer.poll(0.1)

    async def rebalance() -> None:
        await asyncio.to_thread(visit, rng.uniform(0.5, 3))

    return {"rebalance": rebalance}


def models(fleet: Fleet, rng: random.Random) -> dict[str, Fault]:
    """What the model that misbehaves says instead of its answers, while its health is well."""

    def mood(kind: Mood, longest: float) -> Fault:
        async def misbehave() -> None:
            for pair in fleet.pairs:
                if (unruly := pair.unruly) is not None:
                    await asyncio.to_thread(unruly.be, kind)
                    await asyncio.sleep(rng.uniform(0.2, longest))
                    await asyncio.to_thread(unruly.be, "well")

        return misbehave

    return {
        "model says 503": mood("busy", 1.0),
        "model says 1xx": mood("interim", 3.0),
        "model says nonsense": mood("nonsense", 1.0),
    }


class Topics:
    """Changes the topics, as their owner would who does not know of the gateways."""

    def __init__(self, fleet: Fleet, rng: random.Random, changed: Callable[[float, float], Awaitable[object]]) -> None:
        self._fleet = fleet
        self._rng = rng
        self._changed = changed  # is told of each change: when it began, and when all could know of it
        self._admin = AdminClient({"bootstrap.servers": fleet.brokers.addresses, "log_level": 0})

    def kinds(self) -> dict[str, Fault]:
        """Made again with the same width or another, widened, cut."""
        return {
            f"{name} {what}": self._fault(change, topic)
            for name, topic in (("requests", REQUESTS), ("results", RESULTS))
            for what, change in (("made again", self._make_again), ("widened", self._widen), ("cut", self._cut))
        }

    def _fault(self, change: Callable[[str], None], topic: str) -> Fault:
        async def fault() -> None:
            began = time.time()
            await asyncio.to_thread(change, topic)
            await asyncio.to_thread(until, self.settled, self._told, 120)
            await asyncio.sleep(_LEARNT)
            await self._changed(began, time.time())
            await asyncio.sleep(_QUIET)

        return fault

    def width(self, topic: str) -> int:
        """Partitions of the topic, as the brokers say; 0 where they know of none."""
        found = self._admin.list_topics(timeout=20).topics.get(topic)
        return 0 if found is None or found.error is not None else len(found.partitions)

    def settled(self) -> bool:
        """Whether both gateways say that they are ready."""
        return all(status == 200 for status, _ in self._readiness())

    def _told(self) -> list[str]:
        return [body for _, body in self._readiness()]

    def _readiness(self) -> list[tuple[int, str]]:
        found = []
        for pair in self._fleet.pairs:
            try:
                found.append(pair.gateway.get("/readyz"))
            except OSError as error:
                found.append((0, str(error)))
        return found

    def _make_again(self, topic: str) -> None:
        _retried(lambda: self._admin.delete_topics([topic])[topic].result(20), {KafkaError.UNKNOWN_TOPIC_OR_PART})
        width = self._rng.choice((8, 8, 6, 12))
        if self._rng.random() < 0.5:
            time.sleep(self._rng.uniform(0, 1.5))
        new = NewTopic(topic, width, 3)
        # A gateway may be quicker: then it is as wide as the gateway makes it.
        _retried(lambda: self._admin.create_topics([new])[topic].result(20), {KafkaError.TOPIC_ALREADY_EXISTS})

    def _widen(self, topic: str) -> None:
        wanted = self.width(topic) + 1

        def widen() -> None:
            self._admin.create_partitions([NewPartitions(topic, wanted)])[topic].result(20)

        _retried(widen, {KafkaError.INVALID_PARTITIONS, KafkaError.UNKNOWN_TOPIC_OR_PART})

    def _cut(self, topic: str) -> None:
        """All that is in a half of the partitions, as retention would."""
        width = self.width(topic)
        places = [TopicPartition(topic, p, -1) for p in self._rng.sample(range(width), (width + 1) // 2)]

        def cut() -> None:
            for future in self._admin.delete_records(places).values():
                future.result(20)

        _retried(cut, {KafkaError.UNKNOWN_TOPIC_OR_PART})


def _retried(act: Callable[[], object], settled: set[int]) -> None:
    """Do it until a broker has done it, or says that it is so already (`settled`). Raises AssertionError after a minute."""
    refused = ""

    def done() -> bool:
        nonlocal refused
        try:
            act()
        except KafkaException as error:
            refused = error.args[0].str()
            return error.args[0].code() in settled
        return True

    until(done, lambda: refused, 60)
