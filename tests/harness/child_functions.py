"""Functions for child processes of the tests: what a client library may do to its process, at its worst."""

import asyncio
import os
import signal
import threading
import time
from typing import Any

_held: list[object] = []


async def pid() -> int:
    return os.getpid()


async def echo(*args: Any) -> list[Any]:
    return list(args)


async def fail(text: str) -> None:
    raise ValueError(text)


async def abort() -> None:
    """As a library does that finds its memory in disorder."""
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.abort()


async def leave(status: int) -> None:
    os._exit(status)


async def never() -> None:
    await asyncio.Event().wait()


async def stuck() -> None:
    """Holds its loop for good."""
    while True:
        time.sleep(1)  # noqa: ASYNC251 - that is the point


async def slow(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def grow(size: int) -> None:
    _held.append(b"x" * size)
    await asyncio.Event().wait()


async def threads(count: int) -> None:
    for _ in range(count):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    await asyncio.Event().wait()


async def nonsense(descriptor_of: str) -> None:
    """Writes to the pipe for answers what is no answer: `length`, `text` or `shape`."""
    body = {"length": b"\xff\xff\xff\xff", "text": b"\0\0\0\4oops", "shape": b"\0\0\0\2{}"}[descriptor_of]
    mine = {number for number in range(64) if _is_pipe(number) and number not in (0, 1, 2)}
    os.write(min(mine), body)
    await asyncio.Event().wait()


async def long(size: int) -> str:
    return "x" * size


def _is_pipe(number: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}").startswith("pipe:")
    except OSError:
        return False
