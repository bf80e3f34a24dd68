"""Whose order is kept waits for its own receiver alone, and what is given back is forgotten."""

import asyncio
from typing import Any, cast

from podpair.gateway.core.deliveries.parcels import Parcel
from podpair.gateway.core.offsets import Committed
from podpair.gateway.deliveries import ordered
from podpair.gateway.deliveries.ordered import Chains
from podpair.gateway.deliveries.partition import Flight, PartitionWork

BODY = bytes(1 << 20)


class Receivers:
    """A courier: of `away` no attempt ends before `back` is set."""

    def __init__(self) -> None:
        self.back = asyncio.Event()
        self.delivered: list[str] = []
        self.given_up: list[str] = []

    async def try_once(self, parcel: Parcel, flight: Flight, most_waiting: int) -> None:
        if parcel.subscription == "away":
            await self.back.wait()
        self.delivered.append(f"{parcel.subscription} {parcel.id}")

    async def give_up(self, parcel: Parcel, reason: str, text: str) -> None:
        self.given_up.append(f"{parcel.subscription} {parcel.id}")


class World:
    def __init__(self) -> None:
        self.courier = Receivers()
        self.chains = Chains(cast("Any", self.courier), 1000)
        self.work = PartitionWork(Committed(), "")
        self.offset = 0

    def add(self, subscription: str, number: int, session: str = "s") -> None:
        self.work.offsets.start(self.offset)
        parcel = Parcel(str(number), subscription, session, "push", 0, BODY)
        self.chains.add(self.work, self.offset, parcel, PartitionWork.settle)
        self.offset += 1

    async def idle(self) -> None:
        async with asyncio.timeout(10):
            while tasks := [flight.task for flight in self.work.flights if flight.task is not None]:
                await asyncio.wait(tasks)
                await asyncio.sleep(0)


MOST = ordered._BYTES // len(BODY)


async def test_one_that_is_away_takes_no_room_that_another_needs() -> None:
    world = World()
    for number in range(2 * MOST):
        world.add("away", number)
    for number in range(3):
        world.add("works", number)
    await asyncio.sleep(0)
    world.courier.back.set()
    await world.idle()
    assert [name for name in world.courier.given_up if name.startswith("works")] == []
    assert [name for name in world.courier.delivered if name.startswith("works")] == [f"works {n}" for n in range(3)]
    assert len(world.courier.given_up) >= MOST
    assert world.work.offsets.unfinished == 0


async def test_many_sessions_of_one_that_is_away_are_bounded_too() -> None:
    world = World()
    for number in range(2 * MOST):
        world.add("away", number, session=str(number))
    await asyncio.sleep(0)
    world.courier.back.set()
    await world.idle()
    assert len(world.courier.given_up) >= MOST


async def test_what_is_given_back_before_it_began_leaves_its_room() -> None:
    world = World()
    for _ in range(3):
        for number in range(MOST):
            world.add("away", number)
        await world.work.close()
        assert world.chains.waiting == 0
        world.work = PartitionWork(Committed(), "")
    world.courier.back.set()
    world.add("away", 1)
    await world.idle()
    assert world.courier.given_up == []
    assert world.courier.delivered == ["away 1"]
