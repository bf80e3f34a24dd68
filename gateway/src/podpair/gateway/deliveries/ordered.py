"""Deliveries whose order is kept: of one subscription and session each waits until the one before it has ended.

Invariant: what fails, and waits behind it, is bounded, in number for each and in bytes for all; what comes beyond that is a dead
letter, of a subscription that has more than its share, so that no receiver holds up another one's order.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from podpair.gateway.core.deliveries.parcels import Parcel, record_key
from podpair.gateway.deliveries.courier import Courier
from podpair.gateway.deliveries.partition import Flight, PartitionWork

_BYTES = 32 << 20  # of all that wait
_COST = 1000  # bytes that one takes besides its body, about
_CROWD = 500  # that may wait for one receiver


class _Link(NamedTuple):
    """One that waits for its turn."""

    offset: int
    parcel: Parcel


def _cost(parcel: Parcel) -> int:
    return _COST + len(parcel.body)


Settle = Callable[[PartitionWork, int], None]


class Chains:
    """All orders that are kept here."""

    def __init__(self, courier: Courier, backlog: int) -> None:
        self._courier = courier
        self._backlog = backlog
        self._chains: dict[tuple[PartitionWork, bytes], deque[_Link]] = {}  # the first of each is being delivered
        self._bytes: Counter[str] = Counter()  # of what waits and what is being delivered, by subscription

    @property
    def waiting(self) -> int:
        """How many wait for one before them."""
        return sum(len(links) - 1 for links in self._chains.values())

    def add(self, work: PartitionWork, offset: int, parcel: Parcel, settle: Settle) -> None:
        """Deliver a parcel after those of its order that came before."""
        chain = work, record_key(parcel)
        links = self._chains.get(chain)
        if (links is not None and len(links) > self._backlog) or self._has_its_share(parcel.subscription):
            flight = Flight(_cost(parcel), parcel.first)
            flight.busy = True
            work.begin(flight, self._refuse(work, offset, parcel, settle))
            return
        self._bytes[parcel.subscription] += _cost(parcel)
        if links is None:
            self._begin(chain, _Link(offset, parcel), settle)
        else:
            links.append(_Link(offset, parcel))

    def _begin(self, chain: tuple[PartitionWork, bytes], link: _Link, settle: Settle) -> None:
        links = self._chains[chain] = deque([link])
        flight = Flight(0, link.parcel.first)
        chain[0].begin(flight, self._run(chain, links, flight, settle))
        assert flight.task is not None  # noqa: S101 - it has begun

        def ended(_: asyncio.Task[None]) -> None:  # also of a task that was cancelled before its first step
            for left in links:
                self._free(left.parcel)
            if self._chains.get(chain) is links:
                del self._chains[chain]

        flight.task.add_done_callback(ended)

    def _has_its_share(self, subscription: str) -> bool:
        """Return whether there is no room, and this subscription takes as much of it as each may."""
        return self._bytes.total() >= _BYTES and self._bytes[subscription] >= _BYTES / len(self._bytes)

    def _free(self, parcel: Parcel) -> None:
        self._bytes[parcel.subscription] -= _cost(parcel)
        if not self._bytes[parcel.subscription]:
            del self._bytes[parcel.subscription]

    async def _refuse(self, work: PartitionWork, offset: int, parcel: Parcel, settle: Settle) -> None:
        await self._courier.give_up(
            parcel, "backlog", "too many wait behind one that fails (deliveries.ordered_backlog)"
        )
        settle(work, offset)

    async def _run(
        self, chain: tuple[PartitionWork, bytes], links: deque[_Link], flight: Flight, settle: Settle
    ) -> None:
        """Deliver a chain, link by link, until it is empty."""
        work, _ = chain
        while not work.closing:
            offset, parcel = links[0]
            flight.busy, flight.first = False, parcel.first
            if not await self._deliver(work, parcel, flight):
                return
            settle(work, offset)
            links.popleft()
            self._free(parcel)
            if not links:
                del self._chains[chain]  # what comes from now on begins another
                return

    async def _deliver(self, work: PartitionWork, parcel: Parcel, flight: Flight) -> bool:
        """Try until the parcel is settled; return False if its partition is given back before that.

        How often it was tried is not written down: its age alone ends it.
        """
        while (setback := await self._courier.try_once(parcel, flight, _CROWD)) is not None:
            if setback.next is None:
                await self._courier.give_up(setback.parcel, setback.reason, setback.text)
                return True
            if work.closing:
                return False
            parcel = self._courier.later(setback, setback.next)
            flight.busy = False
            await asyncio.sleep(max(0.0, setback.next.due - time.time()))
        return True
