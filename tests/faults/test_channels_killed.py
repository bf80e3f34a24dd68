"""Gateways die under publications: each subscriber gets each of them once and in order, wherever it comes back to."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from harness.checking import OrderChecker
from harness.pair import Gateway, token
from podpair import client

pytestmark = pytest.mark.process
_ROOMS = ("room.a", "room.b", "room.c")
_CHANNELS = {"enabled": True, "rules": [{"subscribe": ["room.*"]}]}


class Audience:
    """Clients that follow all rooms, and what they were told."""

    def __init__(self, checker: OrderChecker, rooms: int) -> None:
        self._checker = checker
        self._rooms = rooms
        self.taken: dict[str, int] = {}
        self.gaps: list[client.Gap] = []
        self._progress = asyncio.Event()

    async def follow(self, session: client.Session, name: str, room: str) -> None:
        whose = f"{name} in {room}"
        subscription = await session.subscribe(room)
        self._took(whose, 0)
        async for publication in subscription:
            self._checker.saw(whose, publication.data)
            self._took(whose, self.taken[whose] + 1)

    def _took(self, whose: str, count: int) -> None:
        self.taken[whose] = count
        self._progress.set()

    async def took(self, count: int) -> None:
        """Wait until everybody has taken so many of each room."""
        async with asyncio.timeout(90):
            while len(self.taken) < self._rooms or min(self.taken.values()) < count:
                self._progress.clear()
                await self._progress.wait()


async def faults_under_fire(
    gateways: list[Gateway], producer: Producer, topic: str, clients: int, count: int
) -> list[str]:
    """Publish in all rooms, and kill all gateways but the last, one after the other. Returns what is wrong."""
    names = [f"c{number}" for number in range(clients)]
    checker = OrderChecker({f"{name} in {room}": count for name in names for room in _ROOMS})
    audience = Audience(checker, clients * len(_ROOMS))
    quick = client.Backoff(initial=0.01, maximum=0.2)
    async with contextlib.AsyncExitStack() as stack:
        following = []
        for number, name in enumerate(names):
            at = number % len(gateways)
            urls = [gateway.url for gateway in (*gateways[at:], *gateways[:at])]
            connected = client.connect(urls, token=token(name), backoff=quick, on_gap=audience.gaps.append)
            session = await stack.enter_async_context(connected)
            following += [asyncio.create_task(audience.follow(session, name, room)) for room in _ROOMS]
        await audience.took(0)
        written, parts = 0, len(gateways)
        for part, victim in enumerate(gateways, 1):
            upto = count * part // parts
            for number in range(written, upto):
                for room in _ROOMS:
                    producer.produce(topic, str(number), f"channel:{room}")
            written = upto
            if victim is gateways[-1]:
                break
            producer.poll(0)
            await asyncio.to_thread(victim.kill)  # while these are on their way
        await asyncio.to_thread(producer.flush, 20)
        await audience.took(count)
    await asyncio.gather(*following)
    return checker.faults() + [f"a gap: {gap}" for gap in audience.gaps]


@pytest.mark.parametrize(("clients", "count"), [(4, 300), pytest.param(50, 3000, marks=pytest.mark.slow)])
async def test_each_subscriber_gets_each_publication_once(
    start_pair: Callable[..., Gateway], names: dict[str, Any], producer: Producer, clients: int, count: int
) -> None:
    gateways = [start_pair(channels=_CHANNELS) for _ in range(3)]
    topic = names["results"]["topic"]
    assert await faults_under_fire(gateways, producer, topic, clients, count) == []
