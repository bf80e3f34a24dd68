"""Passes the chunks of a stream from the user's thread to the serving loop.

The user's code is never more than WINDOW chunks ahead of the client, and ends when the stream isn't read any more. It never
runs on the serving loop: a model that blocks delays only itself.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

WINDOW = 16


class StreamBridge(Generic[Chunk]):
    """One stream. Created and read on the serving loop; `put` and `end` are called from the other side."""

    def __init__(self, release: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[Chunk] | BaseException | None] = asyncio.Queue()
        # Allows the other side one more chunk.
        self._release = release

    def put(self, chunk: Chunk) -> None:
        """Send one chunk."""
        self._send((chunk,))

    def end(self, error: BaseException | None = None) -> None:
        """End the stream, with an error if there is one."""
        self._send(error)

    async def get(self) -> tuple[Chunk] | None:
        """Return the next chunk, in a tuple; None at the end. Raises the error that ended the stream."""
        item = await self._queue.get()
        if isinstance(item, BaseException):
            raise item
        if item is not None:
            self._release()
        return item

    def _send(self, item: tuple[Chunk] | BaseException | None) -> None:
        # The loop may be gone after a stop that didn't wait.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


class LoopThread:
    """An event loop in a thread of its own, started when it is first needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, running."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Start a coroutine there; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run until stopped (in the thread). A task that exits ends only itself, not the loop that it shares."""
        while True:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                log.warning("a task of a model's asked to exit", extra={"loop": self._name, "error": repr(error)})
            else:
                return

    def close(self) -> None:
        """Cancel all tasks, and end the thread; one that is stuck in the model's code is abandoned."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(5)
        except TimeoutError:
            log.warning("a model's event loop is stuck in its code, and abandoned", extra={"loop": self._name})
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        if not thread.is_alive():
            loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=3) if tasks else None
    await asyncio.get_running_loop().shutdown_asyncgens()
