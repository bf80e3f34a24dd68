"""What is in hand of one partition, and what of it can be committed."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from podpair.gateway.core.offsets import Commit, Committed, ContiguousOffsets


class Flight:
    """The work on one or more records: a task, and whether it may be cancelled without anything being done twice."""

    __slots__ = ("busy", "first", "size", "task")

    def __init__(self, size: int, first: int) -> None:
        self.task: asyncio.Task[None] | None = None
        self.busy = False  # an attempt has begun, whose outcome is not written down yet
        self.size = size  # bytes
        self.first = first  # Unix milliseconds: when its event happened


class PartitionWork:
    """The records of one partition that are in hand."""

    def __init__(self, committed: Committed, incarnation: str) -> None:
        self.offsets = ContiguousOffsets(committed.finished, incarnation, committed.lost_before)
        self.expected = committed.offset  # the offset that comes next, if none is missing
        self.flights: set[Flight] = set()
        self.unsettled: dict[int, int] = {}  # offset → deliveries of its record that are not settled
        self.size = 0  # bytes
        self.closing = False

    def settle(self, offset: int) -> None:
        """Mark one delivery of a record as delivered or written down."""
        left = self.unsettled.get(offset, 1) - 1
        if left > 0:
            self.unsettled[offset] = left
        else:
            self.unsettled.pop(offset, None)
            self.offsets.finish(offset)

    def begin(self, flight: Flight, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the background until it ends or the partition is given back."""
        self.flights.add(flight)
        self.size += flight.size
        flight.task = asyncio.get_running_loop().create_task(work)

        def ended(_: asyncio.Task[None]) -> None:
            self.flights.discard(flight)
            self.size -= flight.size

        flight.task.add_done_callback(ended)

    async def close(self) -> Commit | None:
        """Give the partition back: what waits is left to the next owner, what has begun is ended. Return what to commit."""
        self.closing = True
        tasks = [flight.task for flight in self.flights if flight.task is not None]
        for flight in self.flights:
            if not flight.busy and flight.task is not None:
                flight.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self.offsets.next_commit()

    def abandon(self) -> None:
        """Drop everything: the partition is another member's already."""
        self.closing = True
        for flight in self.flights:
            if flight.task is not None:
                flight.task.cancel()
