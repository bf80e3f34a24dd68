"""Queued requests that their clients take back: what of them is in hand here is given up, and so by the model.

A cancellation stands behind its request in the same partition, so the request is in hand when it is read, or has ended.
Invariant: only the task of that request is cancelled, once, and one that was cancelled for another reason as well (its
partition is gone) is not taken for one that was taken back.
"""

import asyncio
from types import TracebackType

Who = tuple[str, str]  # session, and id of the request


class TakenBack(Exception):
    """Its client does not want it any more."""


class InHand:
    """The requests that are worked on, or wait for their turn."""

    def __init__(self) -> None:
        self._tasks: dict[Who, set[asyncio.Task[object]]] = {}  # several where an id was asked twice

    def holding(self, who: Who) -> "Holding":
        """While the present task works on it. Raises TakenBack, in the midst of whatever it waits for."""
        return Holding(self._tasks, who)

    def take_back(self, who: Who) -> None:
        """Nobody wants it any more."""
        mine = self._tasks.pop(who, set())
        for task in list(mine):
            mine.discard(task)
            task.cancel()


class Holding:
    """A context, without the generator that `contextlib` would make for each request."""

    __slots__ = ("_before", "_mine", "_task", "_tasks", "_who")

    def __init__(self, tasks: dict[Who, set[asyncio.Task[object]]], who: Who) -> None:
        self._tasks = tasks
        self._who = who

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task = task
        self._before = task.cancelling()
        self._mine = self._tasks.setdefault(self._who, set())
        self._mine.add(task)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        task, mine = self._task, self._mine
        given_up = task not in mine
        mine.discard(task)
        if not mine and self._tasks.get(self._who) is mine:
            del self._tasks[self._who]
        # Any other cancellation is somebody else's.
        if isinstance(error, asyncio.CancelledError) and given_up and task.cancelling() == self._before + 1:
            task.uncancel()
            raise TakenBack from None
