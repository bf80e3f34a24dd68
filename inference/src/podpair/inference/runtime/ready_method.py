"""A class's own word on whether it is ready: its optional method `ready`, and how it is asked.

It is asked one time after the other, in a thread of its own or on the model's loop: one that hangs, as its database does, holds
up no request, and is left alone until it has answered.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from podpair.inference.core.errors import InferenceError
from podpair.inference.core.model_config import RuntimeConfig
from podpair.inference.runtime.protocol import SelfChecking
from podpair.inference.runtime.stream_bridge import LoopThread
from podpair.inference.runtime.user_code import describe, place

log = logging.getLogger(__name__)


class ReadyMethod:
    """The method `ready` of a class, sync or async. folder: that of the class's file, for messages."""

    def __init__(self, method: Callable[[], Any], folder: Path, loop: LoopThread, name: str) -> None:
        self._method = method
        self._folder = folder
        self._loop = loop
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"ready-{name}")

    def ask(self) -> "Future[str | None]":
        """Ask it. The future has None if it is ready, else why it isn't: never an exception."""
        return self._threads.submit(self._ask)

    def close(self) -> None:
        """End the thread, once it has an answer."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> str | None:
        try:
            found = self._method()
            if inspect.iscoroutine(found):
                found = self._loop.submit(found).result()
        except InferenceError as error:
            return str(error)
        except BaseException as error:
            return describe(error, self._folder, self._method)
        if found is None or found is True:
            return None
        if isinstance(found, str) and found:
            return found
        where = place(self._method, self._folder)
        if found is False:
            return f"ready answered False ({where})"
        return f"ready answered {found!r}; it answers True, False or why it isn't ready, as a text ({where})"


async def first_answer(runtime: SelfChecking, config: RuntimeConfig) -> str | None:
    """Ask a class that was just loaded. Return why it isn't ready."""
    return await _answer(runtime.ask_ready(), config.ready_timeout_seconds)


async def poll(runtime: SelfChecking, config: RuntimeConfig, notify: Callable[[str | None], object]) -> None:
    """Ask a class again and again, and `notify` of each answer, until cancelled."""
    asked: Future[str | None] | None = None
    while True:
        await asyncio.sleep(config.ready_poll_seconds)
        if asked is None or asked.done():
            asked = runtime.ask_ready()
        notify(await _answer(asked, config.ready_timeout_seconds))


def log_change(reason: str | None, fields: Mapping[str, str]) -> None:
    """Log that a model is ready again, or isn't any more."""
    if reason is None:
        log.info("a model is ready again", extra={**fields})
    else:
        log.warning("a model isn't ready", extra={**fields, "reason": reason})


async def _answer(asked: "Future[str | None]", seconds: float) -> str | None:
    try:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(asked)), seconds)
    except TimeoutError:
        return f"ready has not answered in {seconds:g} s (runtime.ready_timeout_seconds)"
