"""Kinds of faults and when they come: three trains of faults run beside each other, each mended before its next.

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

from confluent_kafka import Consumer, KafkaException

from harness.fleet import GROUP, REQUESTS, Fleet, freeze, thaw

Fault = Callable[[], Awaitable[None]]


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
