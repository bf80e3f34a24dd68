"""Checks of what is in Kafka, at intervals. A check that fails is logged, and the next one comes all the same."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from confluent_kafka import KafkaException

T = TypeVar("T")


class Check(NamedTuple):
    """How failures of a check are logged: "<what> can't be checked: <why>" if Kafka is the reason."""

    what: str
    log: logging.Logger
    level: int = logging.INFO
    """Of failures whose reason is Kafka; all others are bugs, and errors."""

    async def attempt(self, check: Callable[[], Awaitable[T]]) -> T | None:
        """Return what a check returns; None if it failed."""
        try:
            return await check()
        except KafkaException as error:
            self.log.log(self.level, "%s can't be checked: %s", self.what, error.args[0].str())
        except Exception:
            self.log.exception("checking %s failed", self.what)
        return None

    async def every(self, seconds: float, check: Callable[[], Awaitable[object]], *, first: float) -> None:
        """Check for ever: in `first` seconds, and so many seconds after each check."""
        await asyncio.sleep(first)
        while True:
            await self.attempt(check)
            await asyncio.sleep(seconds)
