"""Callers that wait for an answer over plain HTTP, and may hang up.

aiohttp could cancel each handler whose client is gone, but those of WebSockets and event streams have to end in their own
way; so only the calls that are passed on to the model are watched, and only those that take a while.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

_LOOK = 0.1  # seconds between looks whether the caller is still there
_Answer = TypeVar("_Answer")


async def while_there(request: web.Request, work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """The outcome of `work`, which is cancelled when the caller has hung up: then CancelledError."""
    task = asyncio.create_task(work)
    try:
        while True:
            done, _ = await asyncio.wait((task,), timeout=_LOOK)
            if done:
                return task.result()
            if request.transport is None or request.transport.is_closing():
                task.cancel()
    finally:
        task.cancel()
