"""Background tasks. asyncio refers to its tasks weakly: something has to keep a reference until they end."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def cancel_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task; return when it has ended, however that was."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Tasks:
    """A set of background tasks."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def join(self, timeout: float) -> None:
        """Wait for all tasks, and for those that they start, up to `timeout` seconds."""
        end = time.monotonic() + timeout
        while self._running and (left := end - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=left)

    async def cancel(self) -> None:
        """Cancel all tasks; return when they have ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
