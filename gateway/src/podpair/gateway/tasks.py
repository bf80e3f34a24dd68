"""Work beside everything else. asyncio refers to its tasks weakly: somebody has to hold them until they end."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Tasks that nobody awaits one by one."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def ended(self, timeout: float) -> None:
        """Wait for all of it, and for what it begins meanwhile, up to `timeout` seconds."""
        end = time.monotonic() + timeout
        while self._running and (left := end - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=left)

    async def cancel(self) -> None:
        """Give up what still runs; returns when it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
