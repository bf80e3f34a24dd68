"""Cancels work for HTTP clients that disconnect.

aiohttp could cancel every handler whose client is gone, but those of WebSockets and event streams have to end in their own
way; so only calls that are forwarded to the model are watched, and only those that take a while.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

_POLL = 0.1  # seconds between checks whether the client is connected
_Answer = TypeVar("_Answer")


async def cancel_on_disconnect(request: web.Request, work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Return the result of `work`; cancel it, and raise CancelledError, when the client has disconnected."""
    task = asyncio.create_task(work)
    try:
        while True:
            done, _ = await asyncio.wait((task,), timeout=_POLL)
            if done:
                return task.result()
            if request.transport is None or request.transport.is_closing():
                task.cancel()
    finally:
        task.cancel()
