"""Threads for Kafka's blocking calls, and calls back to the loop.

librdkafka's calls block, so each client has a thread. A thread that dies of an unexpected error stops the gateway (cli.serve): a
gateway that half works would silently break its promises.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def post_to_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any) -> bool:
    """Run `function` on the loop's thread. Return False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        _log.debug("the loop has closed")
        return False
    return True


class CallThread:
    """Makes blocking calls, one after the other. A thread that is stuck can be abandoned: nothing joins it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., _T], *arguments: Any) -> "asyncio.Future[_T]":
        """Make a call on the thread; return a future with its result."""
        made: asyncio.Future[_T] = self._loop.create_future()

        def make() -> None:
            try:
                result = function(*arguments)
            except Exception as error:
                post_to_loop(self._loop, _settle, made, None, error)
            else:
                post_to_loop(self._loop, _settle, made, result, None)

        self._calls.put(make)
        return made

    def _run(self) -> None:
        while (make := self._calls.get()) is not None:
            make()

    def end(self) -> None:
        """Stop after the calls that wait."""
        self._calls.put(None)


def _settle(made: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if made.done():
        return
    if error is not None:
        made.set_exception(error)
    else:
        made.set_result(result)
