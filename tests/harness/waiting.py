"""Waiting for what no event tells of: another process's state, a metric of it, a file."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

_PAUSE = 0.02  # seconds between two looks


def until(condition: Callable[[], Any], explain: Any = "", timeout: float = 90.0) -> Any:
    """Wait until the condition's value is true, and return it. explain: a text for the error, or a function that returns it.
    Raises AssertionError.
    """
    end = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > end:
            raise _never(explain, timeout)
        time.sleep(_PAUSE)
    return found


async def soon(condition: Callable[[], Any], explain: Any = "", timeout: float = 90.0) -> Any:
    """Wait as `until` does, without holding up the loop; the condition may be a coroutine function."""
    end = time.monotonic() + timeout
    while not (found := await _value(condition)):
        if time.monotonic() > end:
            raise _never(explain, timeout)
        await asyncio.sleep(_PAUSE)
    return found


async def _value(condition: Callable[[], Any]) -> Any:
    found = condition()
    return await found if inspect.isawaitable(found) else found


def _never(explain: Any, timeout: float) -> AssertionError:
    why = explain() if callable(explain) else explain
    return AssertionError(f"it did not come to pass in {timeout:.0f} s: {why}")
