"""Queued requests that their clients take back: what of them is in hand here is given up, and so by the model.

A cancellation stands behind its request in the same partition, so the request is in hand when it is read, or has ended.
Invariant: only the task of that request is cancelled, once, and one that was cancelled for another reason as well (its
partition is gone) is not taken for one that was taken back.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

Who = tuple[str, str]  # session, and id of the request


class TakenBack(Exception):
    """Its client does not want it any more."""


class InHand:
    """The requests that are worked on, or wait for their turn."""

    def __init__(self) -> None:
        self._tasks: dict[Who, set[asyncio.Task[object]]] = {}  # several where an id was asked twice

    @asynccontextmanager
    async def holding(self, who: Who) -> AsyncIterator[None]:
        """The present task works on it. Raises TakenBack, in the midst of whatever it waits for."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        before = task.cancelling()
        mine = self._tasks.setdefault(who, set())
        mine.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in mine or task.cancelling() != before + 1:
                raise  # somebody else's cancellation
            task.uncancel()
            raise TakenBack from None
        finally:
            mine.discard(task)
            if not mine and self._tasks.get(who) is mine:
                del self._tasks[who]

    def take_back(self, who: Who) -> None:
        """Nobody wants it any more."""
        mine = self._tasks.pop(who, set())
        for task in list(mine):
            mine.discard(task)
            task.cancel()
