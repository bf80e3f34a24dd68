"""Ends a process whose threads don't end: those of a model may wait for ever."""

import logging
import os
import sys
import threading
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)


def exit_after(seconds: float, status: Any = 0) -> None:
    """End this process if it still runs after so many seconds; what it has printed is flushed."""
    watchdog = threading.Timer(seconds, _leave, [status])
    watchdog.daemon = True
    # A process that is already finalising starts no threads any more, and needs none.
    with suppress(RuntimeError):
        watchdog.start()


def _leave(status: Any) -> None:
    """End the process although threads that aren't daemons still run, for which the interpreter would wait."""
    names = [t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    log.warning("threads of models still run, and end with the process", extra={"threads": names})
    for file in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            file.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))
