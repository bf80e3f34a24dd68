"""The way from a Kafka thread back to the loop.

librdkafka's calls block, so each client has a thread. One that dies of an unexpected error ends the gateway (cli.serve): a
gateway that half works would break its promises in silence.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any) -> bool:
    """Run `function` on the loop's thread; False where the loop has closed, and nobody is there to be told."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        _log.debug("the loop has closed")
        return False
    return True
